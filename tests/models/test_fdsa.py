"""FDSA: two streams and how they are joined, on the demo world's tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recbench.errors import UsageError
from recbench.models import FDSA
from recbench.models.base import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData


def built(data: InteractionData, **options: Any) -> FDSA:
    """A model with weights large enough to tell apart."""
    torch.manual_seed(0)
    model = FDSA(**{"dim": 8, "num_heads": 2, "hidden": 12} | options)
    model.build(data.catalog)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" not in name:
                weights.normal_(std=0.5)
    return model.eval()


@pytest.fixture
def alike(demo: InteractionData) -> tuple[int, int, int]:
    """Two places with the same tags and brand, if any, and one with others."""
    names = [name for name in ("tags", "brand") if name in demo.catalog.items.columns]
    first = demo.catalog.items.with_columns(pl.col("tags").list.sort())
    groups = first.group_by(*names, maintain_order=True).agg("item").filter(pl.col("item").list.len() > 1)
    a, b = groups["item"][0][:2]
    (other,) = first.filter(pl.struct(names) != pl.struct(names).gather(a - 1)).head(1)["item"]
    return a, b, other


class TestStreams:
    @pytest.mark.parametrize("history", [[[3, 1, 4]], [[0, 5, 2], [3, 1, 4]]])
    @torch.no_grad()
    def test_a_state_is_both_streams_joined(self, demo: InteractionData, history: list[list[int]]) -> None:
        model = built(demo)
        found = model.hidden_states(torch.tensor(history))
        for row, items in enumerate(history):
            real = torch.tensor([item for item in items if item])[None]
            streams = [
                model.item_stream(model.items(real), None)[0],
                model.feature_stream(model.features.pool(real[0])[None], None)[0],
            ]
            joined = torch.cat(streams, dim=1) @ model.join.weight.T + model.join.bias
            torch.testing.assert_close(found[row, -len(joined) :], joined)

    @torch.no_grad()
    def test_the_feature_stream_knows_an_item_by_its_tags_alone(
        self, demo: InteractionData, alike: tuple[int, int, int]
    ) -> None:
        a, b, other = alike
        model = built(demo)
        model.join.weight[:, : model.dim] = 0  # what the item stream says is not heard

        def last(item: int) -> Tensor:
            return model.newest_state(torch.tensor([[item]]))

        torch.testing.assert_close(last(a), last(b))
        assert not torch.allclose(last(a), last(other), atol=1e-3)

    @torch.no_grad()
    def test_the_item_stream_tells_them_apart(
        self, demo: InteractionData, alike: tuple[int, int, int]
    ) -> None:
        a, b, _ = alike
        found = built(demo).newest_state(torch.tensor([[a], [b]]))
        assert not torch.allclose(found[0], found[1], atol=1e-3)

    @torch.no_grad()
    def test_neither_looks_ahead(self, demo: InteractionData) -> None:
        model = built(demo)
        found, later = (model.hidden_states(torch.tensor([[3, 1, item]])) for item in (4, 9))
        torch.testing.assert_close(found[:, :-1], later[:, :-1])
        assert not torch.allclose(found[:, -1], later[:, -1], atol=1e-3)

    @torch.no_grad()
    def test_the_newest_state_is_the_last(self, demo: InteractionData) -> None:
        model = built(demo, max_len=3)
        history = torch.tensor([[0, 0, 5, 2], [6, 3, 1, 4]])
        states = model.hidden_states(history)
        assert states.shape == (2, 3, 8)
        torch.testing.assert_close(model.newest_state(history), states[:, -1])


@pytest.mark.parametrize("samples", ["positions", "prefixes"])
def test_tags_and_attention_over_them_learn(
    samples: Any, demo: InteractionData, batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(demo, recipe=Recipe(samples=samples))
    model.loss(batch_of([[3, 1, 4], [5]], target=[2, 6])).backward()
    for module in (model.features.vectors, model.features.attention, model.join, model.items):
        assert isinstance(module, nn.Linear | nn.Embedding)
        assert module.weight.grad is not None
        assert module.weight.grad.abs().sum() > 0


def test_data_without_tags_are_refused(data_of: Callable[..., InteractionData]) -> None:
    with pytest.raises(UsageError, match="fdsa learns from item tags: this data set has no item 'tags'"):
        FDSA().build(data_of([[1, 2, 3]]).catalog)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 5, "num_heads": 2}, "num_heads must divide dim"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, "a dropout rate must lie in 0..1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FDSA(**options)
