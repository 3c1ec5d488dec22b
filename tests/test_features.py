"""Item tags: ids by hand, and pooling against a loop over every item's tags."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recbench.data.catalog import Catalog
from recbench.errors import UsageError
from recbench.nn.features import ItemTags, TagPooling, item_tags

DIM = 4
TAGS = [["tea", "books"], [], ["jazz"], ["books", "tea", "art", "jazz"]]


def catalog_of(**columns: Any) -> Catalog:
    """Four items with the given columns."""
    items = pl.DataFrame({"item": range(1, 5), "raw_id": list("abcd"), **columns})
    return Catalog(num_users=2, num_items=4, items=items, popularity=np.zeros(5, dtype=np.int64))


def tags_of(**columns: Any) -> list[set[str]]:
    """What `item_tags` says of every item, padding first, in names."""
    ids, names = item_tags(catalog_of(**columns), wanted_by="fdsa")
    return [{names[tag - 1] for tag in row if tag} for row in ids.tolist()]


class TestItemTags:
    def test_ids_by_hand(self) -> None:
        ids, names = item_tags(catalog_of(tags=TAGS), wanted_by="fdsa")
        assert names == ["art", "books", "jazz", "tea"]
        assert ids.tolist() == [[0] * 4, [2, 4, 0, 0], [0] * 4, [3, 0, 0, 0], [1, 2, 3, 4]]

    def test_a_brand_is_one_more_and_none_comes_twice(self) -> None:
        found = tags_of(tags=[["tea", "tea"], None, [""], ["Oak"]], brand=["Oak", "Fir", None, "Oak"])
        assert found == [set(), {"tea", "Oak"}, {"Fir"}, set(), {"Oak"}]

    def test_ids_of_equal_tags_are_not_repeated(self) -> None:
        ids, _ = item_tags(catalog_of(tags=[["tea", "tea"], [], [], ["tea"]]), wanted_by="fdsa")
        assert ids.tolist() == [[0], [1], [0], [0], [1]]

    def test_without_tags_it_says_who_wants_them_and_what_to_do(self) -> None:
        with pytest.raises(UsageError, match=r"fdsa learns from item tags: .* its item features are: title;"):
            item_tags(catalog_of(title=list("efgh")), wanted_by="fdsa")

    @pytest.mark.parametrize("tags", [[[], [], [], []], [None, [""], [], None]])
    def test_a_column_without_any_tag_is_refused(self, tags: list[list[str] | None]) -> None:
        column = pl.Series("tags", tags, dtype=pl.List(pl.String))
        with pytest.raises(UsageError, match="s3rec learns from item tags, and no item here has one; take a"):
            item_tags(catalog_of(tags=column), wanted_by="s3rec")


def by_loop(pooling: TagPooling, item: int) -> Tensor:
    """Eq. 2-4 for one item: a softmax over its tags in each dimension, bias included."""
    tags = [tag for tag in pooling.ids[item].tolist() if tag]
    if not tags:
        return torch.zeros(DIM)
    vectors = torch.stack([pooling.vectors.weight[tag] for tag in tags])  # A_i
    scores = torch.stack([pooling.attention.weight @ vector + 0.7 for vector in vectors])
    weights = scores.exp() / scores.exp().sum(0)
    return (weights * vectors).sum(0)


class TestPooling:
    @pytest.fixture
    def pooling(self) -> TagPooling:
        torch.manual_seed(0)
        return TagPooling(item_tags(catalog_of(tags=TAGS), wanted_by="fdsa"), DIM)

    def test_equals_a_loop(self, pooling: TagPooling) -> None:
        wanted = torch.stack([by_loop(pooling, item) for item in range(5)])
        torch.testing.assert_close(pooling.pool(torch.arange(5)), wanted)
        history = torch.tensor([[0, 4, 1], [1, 2, 3]])
        torch.testing.assert_close(pooling(history), wanted[history])

    def test_so_do_its_gradients(self, pooling: TagPooling) -> None:
        history, pull = torch.tensor([[0, 4, 1], [1, 2, 4]]), torch.randn(2, 3, DIM)
        weights = list(pooling.parameters())
        found = torch.autograd.grad((pooling(history) * pull).sum(), weights)
        looped = torch.stack([by_loop(pooling, item) for item in history.flatten().tolist()])
        wanted = torch.autograd.grad((looped.view(2, 3, DIM) * pull).sum(), weights)
        torch.testing.assert_close(found, wanted)

    def test_each_distinct_item_is_pooled_once(
        self, pooling: TagPooling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[list[int]] = []
        pool = pooling.pool
        monkeypatch.setattr(pooling, "pool", lambda items: asked.append(items.tolist()) or pool(items))
        pooling(torch.tensor([[0, 4, 4], [1, 4, 1]]))
        assert asked == [[0, 1, 4]]

    def test_one_tag_is_that_tag(self, pooling: TagPooling) -> None:
        (jazz,) = (tag for tag in pooling.ids[3].tolist() if tag)
        torch.testing.assert_close(pooling.pool(torch.tensor([3]))[0], pooling.vectors.weight[jazz])

    def test_an_item_without_tags_has_a_zero_vector_and_finite_gradients(self, pooling: TagPooling) -> None:
        vector = pooling.pool(torch.tensor([2]))
        assert vector.tolist() == [[0.0] * DIM]
        vector.sum().backward()
        assert all(weights.grad is None or weights.grad.isfinite().all() for weights in pooling.parameters())

    @torch.no_grad()
    def test_scores_far_apart_stay_finite(self) -> None:
        pooling = TagPooling(
            ItemTags(torch.tensor([[0, 0], [1, 2], [2, 0]], dtype=torch.int32), ["a", "b"]), 1
        )
        pooling.attention.weight.fill_(1.0)
        pooling.vectors.weight.copy_(torch.tensor([[0.0], [500.0], [-500.0]]))
        assert pooling.pool(torch.tensor([1, 2])).tolist() == [[500.0], [-500.0]]
