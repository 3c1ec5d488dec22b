"""MLP against its net, one user and one item at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.models import MLP, mlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

N = 5
BAGS = [[2, 5, 1], [3, 4]]  # items of the windows below


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., MLP]:
    """Makes a model of two users and five items, no weight of which is small."""

    def make(**options: Any) -> MLP:
        torch.manual_seed(0)
        model = MLP(**{"dim": 3, "hidden": 8, "num_layers": 3, "num_negatives": 2} | options)
        model.build(data_of([[*range(1, N + 1)], [1, 2, 3]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.7)
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of([[2, 5, 2], [3]], target=[1, 4])


def score_of_pair(model: MLP, user: int, item: int) -> torch.Tensor:
    """Eq. 10: user and item side by side through ReLU layers, each half as wide."""
    x = torch.cat([model.users.table.weight[user], model.items.weight[item]])
    first = torch.cat([model.user_half.weight, model.item_half.weight], dim=1)
    x = torch.relu(first @ x + model.item_half.bias)
    layers = [layer for layer in model.net if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [4, 2, 1]
    for layer in layers[:-1]:
        x = torch.relu(layer.weight @ x + layer.bias)
    return (layers[-1].weight @ x + layers[-1].bias)[0]


@pytest.mark.parametrize(
    "budget", [mlp._BLOCK_CPU, 32, 1], ids=["one block", "blocks of four", "pair by pair"]
)
@torch.inference_mode()
def test_scores_are_those_of_each_pair(
    built: Callable[..., MLP], batch: SequenceBatch, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp, "_BLOCK_CPU", budget)  # numbers of the first layer, of which a pair has eight
    model = built()
    wanted = torch.stack([torch.stack([score_of_pair(model, u, i) for i in range(N + 1)]) for u in range(2)])
    torch.testing.assert_close(model.score(batch)[:, 1:], wanted[:, 1:])
    some = torch.tensor([[3, 1], [5, 5]])
    torch.testing.assert_close(model.score(batch, some), wanted.gather(1, some))
    many = torch.arange(1, N + 1).repeat(2, 4)  # more than there are items
    torch.testing.assert_close(model.score(batch, many), wanted.gather(1, many))


# for each place of the windows [2 5 2 1] and [0 0 3 4] two draws; at dropped places (an earlier 2,
# padding) they do not count, nor do a user's own items
DRAWN = [[3, 4, 3, 1, 4, 4, 5, 3], [1, 2, 5, 1, 1, 3, 2, 5]]
COUNTED = [[3, 4, 4, 3], [1, 2, 5]]


@pytest.mark.parametrize("objective", ["softmax", "bce"])
@torch.inference_mode()
def test_items_are_told_from_what_the_user_did_not_take(
    built: Callable[..., MLP], batch: SequenceBatch, objective: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(objective=objective)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(DRAWN))
    losses = []
    for user, (bag, negatives) in enumerate(zip(BAGS, COUNTED, strict=True)):
        against = torch.stack([score_of_pair(model, user, item) for item in negatives])
        own = torch.stack([score_of_pair(model, user, item) for item in bag])
        if objective == "softmax":
            losses += [-torch.cat([score[None], against]).log_softmax(0)[0] for score in own]
        else:
            losses += [-F.logsigmoid(score) for score in own]
            losses[-1] = losses[-1] - F.logsigmoid(-against).sum()
    torch.testing.assert_close(model.loss(batch), torch.stack(losses).sum() / 5)


def test_who_took_all_that_was_drawn_has_a_gradient(
    built: Callable[..., MLP], batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built()
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([[2] * 8, [1] * 8]))
    model.loss(batch).backward()
    assert all(
        weights.grad is not None and bool(weights.grad.isfinite().all()) for weights in model.parameters()
    )


def test_a_stranger_has_the_zero_vector(data_of: Callable[..., InteractionData]) -> None:
    model = MLP(dim=3, hidden=4, num_layers=1)
    model.build(data_of([[1, 2, 3]]).catalog)
    assert model.users.table.weight.tolist() == [[0, 0, 0]]


@torch.inference_mode()
def test_a_net_may_begin_as_a_likeness(data_of: Callable[..., InteractionData]) -> None:
    model = MLP(dim=3, hidden=12, num_layers=1, start="likeness")
    model.build(data_of([[1, 2, 3]]).catalog)
    model.users.table.weight[0] = torch.tensor([1.0, -2.0, 0.5])
    model.items.weight[1:3] = torch.tensor([[3.0, 1.0, 0.0], [-0.5, -4.0, 0.25]])
    # twice the lesser of both, with the sign of the product: 1 - 1 + 0, and -.5 + 2 + .25
    scores = model._meet(model._half_of(torch.tensor([[1, 2]])), model._user(torch.tensor([0])))
    torch.testing.assert_close(scores, torch.tensor([[0.0, 3.5]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"hidden": 4, "num_layers": 4}, "hidden must be halved 3 times and stay above 0, got 4"),
        (
            {"dim": 4, "hidden": 16, "start": "likeness"},
            r"start='likeness' needs num_layers 1 and hidden 16 \(4 \* dim\), got 2 and 16",
        ),
        ({"forget_rate": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
    ],
    ids=["negatives", "layers", "likeness", "forget"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**options)
