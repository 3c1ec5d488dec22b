"""SURGE without a target: what it asks its graph with, and that one state is all there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import SurgeTF
from recbench.models.base import Recipe
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., SurgeTF]:
    """Makes a model of five items, no weight of which is small; padding has a vector too, to be ignored."""

    def make(**options: Any) -> SurgeTF:
        torch.manual_seed(0)
        sizes = {"dim": 6, "hidden": 4, "attention_hidden": 4}
        model = SurgeTF(**sizes | options, loss=FullSoftmax(half=False))
        model.build(data_of([[1, 2, 3, 4, 5]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.7)
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def alone(model: SurgeTF, items: list[int]) -> Tensor:
    """(D,) of one history without padding: the encoder, tested by itself, is asked with the last item."""
    x = model.items.weight[items][None]
    real = torch.ones(1, len(items), dtype=torch.bool)
    state, readout = model.reader.encoder.ask(
        model.reader.encoder.fuse(x, real), model.items.weight[items[-1]][None, None]
    )
    weight, bias = model.reader.project.weight, model.reader.project.bias
    return weight[:, :4] @ state[0, 0] + weight[:, 4:] @ readout[0, 0] + bias


@torch.inference_mode()
def test_the_newest_item_asks(built: Callable[..., SurgeTF], batch: SequenceBatch) -> None:
    model = built()
    wanted = torch.stack([alone(model, items) for items in HISTORIES])
    torch.testing.assert_close(model.newest_state(batch.history), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.hidden_states(batch.history), wanted[:, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.score(batch), wanted @ model.items.weight.T, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_it_learns_the_next_item_among_all(built: Callable[..., SurgeTF], batch: SequenceBatch) -> None:
    model = built()
    states = torch.stack([alone(model, items) for items in HISTORIES])
    wanted = F.cross_entropy(states @ model.items.weight[1:].T, torch.tensor(TARGET) - 1)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_order_matters_beyond_the_newest_item(
    built: Callable[..., SurgeTF], batch_of: Callable[..., SequenceBatch]
) -> None:
    found = built().score(batch_of([[2, 3, 4, 1], [4, 2, 3, 1]]))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


@torch.inference_mode()
def test_an_empty_history_says_nothing(
    built: Callable[..., SurgeTF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    found = model.newest_state(batch_of([[], [1, 2]]).history)
    torch.testing.assert_close(found[0], model.reader.project.bias)


@torch.inference_mode()
def test_looks_at_the_newest_items_only(
    built: Callable[..., SurgeTF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(max_len=3)
    long, short = batch_of([[3, 4, 1, 2, 5]]), batch_of([[1, 2, 5]])
    assert torch.equal(model.score(long), model.score(short))


def test_everything_learns_and_gradients_are_numbers_where_there_is_padding(
    built: Callable[..., SurgeTF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(pool_len=3, attention_hidden=16)
    model.loss(batch_of([[2, 5, 5, 1, 4], [3], [4, 1]], target=TARGET)).backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        if not name.endswith("rest.2.bias"):  # a softmax does not see what is added to all
            assert weights.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": Recipe(samples="positions")}, "samples must be prefixes, got positions: .* both ways"),
        ({"keep_rate": 0.0}, "keep_rate must lie in 0..1, 0 excluded, got 0.0"),
        ({"pool_len": 0}, "pool_len must be at least 1, got 0"),
        ({"attention_hidden": 1}, "attention_hidden must be at least 2, got 1"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
        ({"embedding_dropout": -0.1}, "dropout rate must lie in 0..1, 1 excluded, got -0.1"),
    ],
    ids=["samples", "keep_rate", "pool_len", "attention_hidden", "max_len", "dropout", "embedding_dropout"],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SurgeTF(**options)
