"""Caser against two-dimensional convolutions over one window at a time, the image of the paper's Figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import Caser
from recbench.models.base import Recipe
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]
DIM, WINDOW = 6, 3


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., Caser]:
    """Makes a model of five items and four users, no weight of which is small; padding stays zero."""

    def make(**options: Any) -> Caser:
        torch.manual_seed(0)
        sizes = {"dim": DIM, "window": WINDOW, "num_horizontal": 4, "num_vertical": 2}
        model = Caser(loss=FullSoftmax(half=False), **sizes | options)
        model.build(data_of([[1, 2, 3], [4, 5, 1], [1, 2], [3, 4]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.5)
            model.items.weight[0].zero_()
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def scores_by_image(model: Caser, user: int, items: list[int]) -> Tensor:
    """(N + 1,) Eq. 3 to 10 for one window, with the image (1, 1, W, D) of its items."""
    items = ([0] * WINDOW + items)[-WINDOW:]
    image = model.items.weight[items][None, None]
    found = []
    for filters in model.horizontal:  # (n, D, h) here, (n, 1, h, D) over an image
        match = F.conv2d(image, filters.weight.transpose(1, 2)[:, None], filters.bias)
        found.append(F.relu(match).amax((0, 2, 3)))
    vertical = F.conv2d(image, model.vertical.weight[:, None, :, None])  # (1, n, 1, D)
    found.append(vertical[0, :, 0].T.flatten())
    layer, activation = model.project
    z, u = activation(layer(torch.cat(found))), model.users.table.weight[user]
    if model.is_tied:
        out: Tensor = model.items.weight @ (z + u)
        return out
    weight, bias = model.candidates.weight.split([2 * DIM, 1], dim=1)
    return weight @ torch.cat([z, u]) + bias[:, 0]


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("is_tied", [False, True])
@torch.inference_mode()
def test_scores_are_those_of_the_image(
    built: Callable[..., Caser], batch: SequenceBatch, is_tied: bool, activation: str
) -> None:
    model = built(is_tied=is_tied, activation=activation)
    wanted = torch.stack([scores_by_image(model, user, items) for user, items in enumerate(HISTORIES)])
    torch.testing.assert_close(model.score(batch), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_targets", [1, 2, 9])
@torch.inference_mode()
def test_every_window_learns_its_next_items(
    built: Callable[..., Caser], batch: SequenceBatch, num_targets: int
) -> None:
    model = built(num_targets=num_targets)
    losses = []
    for user, (items, last) in enumerate(zip(HISTORIES, TARGET, strict=True)):
        for end in range(1, len(items) + 1):
            scores = scores_by_image(model, user, items[:end])[1:]
            ahead = [*items[end:], last][:num_targets]
            losses += [F.cross_entropy(scores, torch.tensor(item - 1)) for item in ahead]
    torch.testing.assert_close(model.loss(batch), torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_of_a_prefix_only_the_newest_window_learns(built: Callable[..., Caser], batch: SequenceBatch) -> None:
    model = built(recipe=Recipe(samples="prefixes"))
    scores = torch.stack([scores_by_image(model, user, items) for user, items in enumerate(HISTORIES)])
    wanted = F.cross_entropy(scores[:, 1:], torch.tensor(TARGET) - 1)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-4)


def test_a_fresh_model_knows_no_user_and_prefers_no_item(data_of: Callable[..., InteractionData]) -> None:
    model = Caser(dim=4)
    model.build(data_of([[1, 2, 3], [4, 5, 1]]).catalog)
    assert not model.users.table.weight.any()
    assert not model.candidates.weight[:, -1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"num_horizontal": 0}, "num_horizontal must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
        ({"num_targets": 3, "recipe": Recipe(samples="prefixes")}, "num_targets 3 needs samples positions"),
    ],
    ids=["window", "filters", "dropout", "targets_of_prefixes"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Caser(**options)
