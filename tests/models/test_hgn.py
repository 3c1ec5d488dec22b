"""HGN against its three products written out, one user and one window at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import HGN
from recbench.models.base import Recipe
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]
WINDOW = 3


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., HGN]:
    """Makes a model of five items and four users, no weight of which is small; padding stays zero."""

    def make(**options: Any) -> HGN:
        torch.manual_seed(0)
        model = HGN(dim=6, window=WINDOW, loss=FullSoftmax(half=False), **options)
        model.build(data_of([[1, 2, 3], [4, 5, 1], [1, 2], [3, 4]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_()
            model.items.weight[0].zero_()
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def state_by_loop(model: HGN, user: int, items: list[int]) -> Tensor:
    """(D,) what meets a candidate; the newest item has the window's last place, however few there are."""
    u = model.users.table.weight[user]
    items = items[-WINDOW:]
    total, weights, nearby = torch.zeros(6), 0.0, torch.zeros(6)
    for place, item in zip(range(WINDOW - len(items), WINDOW), items, strict=True):
        s = model.items.weight[item]
        gate = model.feature_gate_item.weight @ s + model.feature_gate_item.bias
        gated = s * torch.sigmoid(gate + model.feature_gate_user.weight @ u)
        weight = model.instance_gate_item.weight[0] @ gated + model.instance_gate_user.weight[place] @ u
        weight = float(torch.sigmoid(weight))
        total, weights, nearby = total + weight * gated, weights + weight, nearby + s
    out: Tensor = model.project(u + total / weights + nearby)
    return out


@pytest.mark.parametrize("is_tied", [False, True])
@torch.inference_mode()
def test_scores_are_the_three_products(
    built: Callable[..., HGN], batch: SequenceBatch, is_tied: bool
) -> None:
    model = built(is_tied=is_tied)
    states = torch.stack([state_by_loop(model, user, items) for user, items in enumerate(HISTORIES)])
    wanted = states @ (model.items if is_tied else model.candidates).weight.T
    torch.testing.assert_close(model.score(batch), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_targets", [1, 2, 9])
@torch.inference_mode()
def test_every_window_learns_its_next_items(
    built: Callable[..., HGN], batch: SequenceBatch, num_targets: int
) -> None:
    model = built(num_targets=num_targets)
    losses = []
    for user, (items, last) in enumerate(zip(HISTORIES, TARGET, strict=True)):
        for end in range(1, len(items) + 1):
            scores = state_by_loop(model, user, items[:end]) @ model.candidates.weight[1:].T
            ahead = [*items[end:], last][:num_targets]
            losses += [F.cross_entropy(scores, torch.tensor(item - 1)) for item in ahead]
    torch.testing.assert_close(model.loss(batch), torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_of_a_prefix_only_the_newest_window_learns(built: Callable[..., HGN], batch: SequenceBatch) -> None:
    model = built(recipe=Recipe(samples="prefixes"))
    states = torch.stack([state_by_loop(model, user, items) for user, items in enumerate(HISTORIES)])
    wanted = F.cross_entropy(states @ model.candidates.weight[1:].T, torch.tensor(TARGET) - 1)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_an_empty_history_leaves_the_user(
    built: Callable[..., HGN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    state = model.encode(batch_of([[], [1, 2, 3]]))[0]
    torch.testing.assert_close(state, model.users.table.weight[0])


def test_one_table_starts_as_the_plain_product_of_vectors(data_of: Callable[..., InteractionData]) -> None:
    model = HGN(dim=4, is_tied=True)
    model.build(data_of([[1, 2, 3], [4, 5, 1]]).catalog)
    assert model.item_vectors() is model.items.weight
    assert torch.equal(model.project.weight, torch.eye(4))


def test_a_fresh_model_knows_no_user(data_of: Callable[..., InteractionData]) -> None:
    model = HGN(dim=4)
    model.build(data_of([[1, 2, 3], [4, 5, 1]]).catalog)
    assert not model.users.table.weight.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"num_targets": 0}, "num_targets must be at least 1, got 0"),
        ({"forget_rate": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
        ({"num_targets": 3, "recipe": Recipe(samples="prefixes")}, "num_targets 3 needs samples positions"),
    ],
    ids=["window", "targets", "forget_rate", "targets_of_prefixes"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HGN(**options)
