"""DIN against its attention and its net, one user and one candidate at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import DIN, din
from recbench.models.base import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]
N = 5
FORMS: dict[str, dict[str, Any]] = {
    "strong": {},
    "lsc4rec": {
        "has_towers": True,
        "has_shortcut": False,
        "has_ages": False,
        "activation": "tanh",
        "num_layers": 3,
    },
}


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., DIN]:
    """Makes a model of five items, no weight of which is small; padding has a vector too, to be ignored."""

    def make(**options: Any) -> DIN:
        torch.manual_seed(0)
        model = DIN(**{"dim": 6, "hidden": 8, "num_negatives": 3} | options)
        model.build(data_of([[*range(1, N + 1)]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.7)
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def net_by_layer(model: DIN, x: Tensor) -> Tensor:
    """What follows the first layer's sum."""
    for layer in model.net:
        if isinstance(layer, torch.nn.Conv1d):
            x = layer.weight[:, :, 0] @ x + layer.bias
        else:
            x = torch.tanh(x) if model.activation == "tanh" else x.clamp_min(0)
    return x[0]


def score_by_pair(model: DIN, items: list[int], candidate: int) -> Tensor:
    """One score, the net's first layer applied to candidate and gathered history side by side."""
    t = model.candidate_tower(model.items.weight[candidate])
    weights, values = [], []
    for age, item in enumerate(reversed(items[-model.max_len :])):
        h = model.history_tower(model.items.weight[item])
        logit = float(model.to_query(t) @ model.to_key(h)) / math.sqrt(model.dim)
        weights.append(math.exp(logit + (0.0 if model.ages is None else float(model.ages[age]))))
        values.append(model.to_value(h))
    gathered = torch.zeros(model.dim)
    for weight, value in zip(weights, values, strict=True):
        gathered += weight / sum(weights) * value
    first = torch.cat([model.own.weight, model.share.weight], dim=1)  # (H, 2 D)
    out = net_by_layer(model, first @ torch.cat([t, gathered]) + model.own.bias)
    return out + t @ gathered if model.has_shortcut else out


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "budget", [din._BLOCK_CPU, 48, 1], ids=["one block", "blocks of six", "pair by pair"]
)
@torch.inference_mode()
def test_scores_are_those_of_each_pair(
    built: Callable[..., DIN],
    batch: SequenceBatch,
    form: dict[str, Any],
    budget: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(din, "_BLOCK_CPU", budget)  # numbers of the first layer, of which a pair has eight
    model = built(**form)
    wanted = torch.tensor([[score_by_pair(model, row, item) for item in range(N + 1)] for row in HISTORIES])
    torch.testing.assert_close(model.score(batch), wanted, rtol=1e-4, atol=1e-4)
    some = torch.tensor([[3, 1], [5, 5], [2, 4]])
    torch.testing.assert_close(model.score(batch, some), wanted.gather(1, some), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_many_candidates_and_few_score_alike(built: Callable[..., DIN], batch: SequenceBatch) -> None:
    model = built()
    many = torch.arange(1, N + 1).repeat(3, 4)  # more than there are items
    wanted = torch.cat([model.score(batch, many[:, i : i + 1]) for i in range(many.shape[1])], dim=1)
    torch.testing.assert_close(model.score(batch, many), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", ["softmax", "bce"])
@pytest.mark.parametrize("samples", ["positions", "prefixes"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@torch.inference_mode()
def test_every_position_tells_its_next_item_from_its_negatives(
    built: Callable[..., DIN],
    batch: SequenceBatch,
    form: dict[str, Any],
    samples: Any,
    objective: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built(objective=objective, recipe=Recipe(samples=samples), **form)
    drawn = torch.randint(1, N + 1, (3, 4, 3), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(din, "other_items", lambda target, *_, **__: drawn[:, -target.shape[1] :])
    losses = []
    for row, (items, last) in enumerate(zip(HISTORIES, TARGET, strict=True)):
        ends = range(1, len(items) + 1) if samples == "positions" else [len(items)]
        for end in ends:
            negatives = drawn[row, 4 - len(items) + end - 1].tolist()
            scores = torch.stack(
                [score_by_pair(model, items[:end], item) for item in [[*items, last][end], *negatives]]
            )
            if objective == "softmax":
                losses.append(-scores.log_softmax(0)[0])
            else:
                losses.append(-F.logsigmoid(scores[0]) - F.logsigmoid(-scores[1:]).sum())
    torch.testing.assert_close(model.loss(batch), torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("budget", [1, 4 * 4 * 2 * (4 + 8) * 2], ids=["user by user", "two users"])
def test_blocks_of_users_learn_what_all_together_learn(
    built: Callable[..., DIN], batch: SequenceBatch, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built()

    def gradients() -> list[Tensor]:
        torch.manual_seed(3)
        return list(torch.autograd.grad(model.loss(batch), list(model.parameters())))

    whole = gradients()
    monkeypatch.setattr(din, "_LEARN_BLOCK", budget)  # four positions and candidates, four items, eight wide
    for found, wanted in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_an_empty_history_gathers_nothing(
    built: Callable[..., DIN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    found = model.score(batch_of([[], [1, 2]]))[0]
    wanted = torch.stack([net_by_layer(model, model.own(vector)) for vector in model.items.weight])
    torch.testing.assert_close(found, wanted)


@torch.inference_mode()
def test_looks_at_the_newest_items_only(
    built: Callable[..., DIN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(max_len=2)
    long, short = batch_of([[3, 4, 1, 2]]), batch_of([[1, 2]])
    assert torch.equal(model.score(long), model.score(short))


def test_gradients_are_numbers_where_there_is_padding(
    built: Callable[..., DIN], batch: SequenceBatch
) -> None:
    model = built()
    model.loss(batch).backward()
    assert all(
        weights.grad is not None and bool(weights.grad.isfinite().all()) for weights in model.parameters()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"hidden": 4, "num_layers": 4}, "hidden must be halved 3 times and stay above 0, got 4"),
        ({"embedding_dropout": -0.1}, "dropout rate must lie in 0..1, 1 excluded, got -0.1"),
    ],
    ids=["max_len", "negatives", "layers", "dropout"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DIN(**options)
