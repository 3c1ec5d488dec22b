"""SURGE's net one pair at a time, and its two stages: what is listed, what is ranked, what is a miss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import Surge, surge
from recbench.models.base import Recipe
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1, 7], [3], [4, 1]]
TARGET = [3, 2, 5]
N = 7


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., Surge]:
    """Makes a model of seven items, no weight of which is small; padding has a vector too, to be ignored."""

    def make(**options: Any) -> Surge:
        torch.manual_seed(0)
        sizes = {"dim": 6, "hidden": 4, "attention_hidden": 4, "pool_len": 3, "num_negatives": 2}
        model = Surge(**sizes | options)
        model.criterion = FullSoftmax(half=False)
        model.build(data_of([[*range(1, N + 1)]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.7)
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def asked(model: Surge, items: list[int], query: int) -> tuple[Tensor, Tensor]:
    """(H,) state and (D,) readout of one history without padding."""
    x = model.items.weight[items][None]
    interests = model.reader.encoder.fuse(x, torch.ones(1, len(items), dtype=torch.bool))
    state, readout = model.reader.encoder.ask(interests, model.items.weight[query][None, None])
    return state[0, 0], readout[0, 0]


def user_of(model: Surge, items: list[int]) -> Tensor:
    return model.reader.project(torch.cat(asked(model, items, items[-1])))


def score_by_pair(model: Surge, items: list[int], candidate: int) -> Tensor:
    state, readout = asked(model, items, candidate)
    vector = model.items.weight[candidate]
    out = model.net(torch.cat([state, readout, vector, readout * vector]))[0]
    return out + user_of(model, items) @ vector if model.has_shortcut else out


def all_scores(model: Surge) -> Tensor:
    return torch.stack(
        [torch.stack([score_by_pair(model, row, item) for item in range(N + 1)]) for row in HISTORIES]
    )


@pytest.mark.parametrize("numbers", [1 << 20, 120, 1], ids=["one block", "some blocks", "pair by pair"])
@pytest.mark.parametrize("has_shortcut", [True, False])
@torch.inference_mode()
def test_scores_are_those_of_each_pair(
    built: Callable[..., Surge],
    batch: SequenceBatch,
    has_shortcut: bool,
    numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surge, "_BLOCK_CPU", numbers)  # numbers of pairs' items, of which a pair has thirty
    model = built(has_shortcut=has_shortcut)
    everything = torch.arange(N + 1).expand(3, -1)
    wanted = all_scores(model)
    torch.testing.assert_close(model.score(batch, everything), wanted, rtol=1e-4, atol=1e-4)
    some = torch.tensor([[3, 1], [5, 5], [2, 4]])
    torch.testing.assert_close(model.score(batch, some), wanted.gather(1, some), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_first_stage_learns_among_all_and_second_among_negatives(
    built: Callable[..., Surge], batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built()
    negatives = [[1, 4], [5, 5], [7, 2]]
    monkeypatch.setattr(surge, "other_items", lambda *_, **__: torch.tensor(negatives))
    users = torch.stack([user_of(model, items) for items in HISTORIES])
    wanted = F.cross_entropy(users @ model.items.weight[1:].T, torch.tensor(TARGET) - 1)
    for items, target, drawn in zip(HISTORIES, TARGET, negatives, strict=True):
        scores = torch.stack([score_by_pair(model, items, item) for item in [target, *drawn]])
        wanted = wanted - scores.log_softmax(0)[0] / 3
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-4)


class TestTwoStages:
    SEEN: tuple[list[int], ...] = ([2, 5, 1, 7], [3], [4, 1, 5])  # the last target is a seen item

    @pytest.fixture(autouse=True)
    def _no_gradients(self) -> Iterator[None]:
        with torch.inference_mode():
            yield

    @pytest.fixture
    def barred(self, batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
        return batch_of(HISTORIES, target=TARGET, seen=[*self.SEEN])

    def legal(self, row: int, *, target_too: bool) -> list[int]:
        free = set(range(1, N + 1)) - set(self.SEEN[row])
        return sorted(free | {TARGET[row]} if target_too else free)

    def by_inner_product(self, model: Surge, row: int, items: list[int], num: int) -> list[int]:
        user = user_of(model, HISTORIES[row])
        return sorted(items, key=lambda item: -float(user @ model.items.weight[item]))[:num]

    @pytest.mark.parametrize("num_listed", [1, 3, 0])
    def test_the_list_is_the_largest_inner_products(
        self, built: Callable[..., Surge], barred: SequenceBatch, num_listed: int
    ) -> None:
        model = built(num_listed=num_listed)
        for row, found in enumerate(model.listed(barred).tolist()):
            wanted = self.by_inner_product(model, row, self.legal(row, target_too=False), num_listed or N)
            assert [item for item in found if item] == wanted
            assert len(found) == (num_listed or N)

    @pytest.mark.parametrize("num_listed", [1, 2, 3, 0])
    def test_ranks_are_places_in_the_list_and_what_is_not_listed_is_a_miss(
        self, built: Callable[..., Surge], barred: SequenceBatch, num_listed: int
    ) -> None:
        model = built(num_listed=num_listed)
        scores, found = all_scores(model), model.target_ranks(barred)
        assert found.ties.tolist() == [1, 1, 1]
        for row, target in enumerate(TARGET):
            listed = self.by_inner_product(model, row, self.legal(row, target_too=True), num_listed or N)
            better = sum(bool(scores[row, item] > scores[row, target]) for item in listed)
            assert float(found.rank[row]) == (better + 1 if target in listed else math.inf)
        if num_listed == 1:
            assert found.rank.isinf().any()

    def test_best_are_the_list_by_the_second_stage(
        self, built: Callable[..., Surge], barred: SequenceBatch
    ) -> None:
        model = built(num_listed=3)
        scores, best = all_scores(model), model.recommend(barred, 2)
        for row in range(3):
            listed = self.by_inner_product(model, row, self.legal(row, target_too=False), 3)
            wanted = sorted(listed, key=lambda item: -float(scores[row, item]))[:2]
            assert best.items[row].tolist() == wanted
            torch.testing.assert_close(best.scores[row], scores[row, wanted], rtol=1e-4, atol=1e-4)

    def test_only_what_is_near_is_listed(self, built: Callable[..., Surge], barred: SequenceBatch) -> None:
        allowed = torch.zeros(3, N + 1, dtype=torch.bool)
        allowed[:, [3, 6]] = True
        near, model = replace(barred, allowed=allowed), built(num_listed=5)
        best = model.recommend(near, 9)
        assert [sorted(set(row)) for row in best.items.tolist()] == [[0, 3, 6], [0, 6], [0, 3, 6]]
        assert torch.equal(best.scores.isneginf(), best.items == 0)
        ranks = model.target_ranks(near).rank
        assert ranks[0] in (1, 2)
        assert ranks[1:].isinf().all()

    def test_nobody_is_listed_twice(self, built: Callable[..., Surge], batch: SequenceBatch) -> None:
        best = built(num_listed=0).recommend(batch, 99)
        assert all(sorted(row) == list(range(1, N + 1)) for row in best.items.tolist())


@torch.inference_mode()
def test_looks_at_the_newest_items_only(
    built: Callable[..., Surge], batch_of: Callable[..., SequenceBatch]
) -> None:
    model, items = built(max_len=3), torch.arange(1, N + 1)[None]
    long, short = batch_of([[3, 4, 1, 2, 5]]), batch_of([[1, 2, 5]])
    assert torch.equal(model.score(long, items), model.score(short, items))


def test_everything_learns_and_gradients_are_numbers_where_there_is_padding(
    built: Callable[..., Surge], batch: SequenceBatch
) -> None:
    model = built()
    model.loss(batch).backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": Recipe(samples="positions")}, "samples must be prefixes, got positions: .* both ways"),
        ({"keep_rate": 1.5}, "keep_rate must lie in 0..1, 0 excluded, got 1.5"),
        ({"num_listed": -1}, "num_listed must be at least 0, got -1"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"hidden": 1}, "hidden must be at least 2, got 1"),
        ({"dropout": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
        ({"embedding_dropout": -0.1}, "dropout rate must lie in 0..1, 1 excluded, got -0.1"),
    ],
    ids=["samples", "keep_rate", "num_listed", "negatives", "hidden", "dropout", "embedding_dropout"],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surge(**options)
