"""LightGCN against the paper's sums over neighbours, node by node."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.models import LightGCN
from recbench.nn.bags import BagSoftmax
from recbench.nn.losses import BPR

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

TRAINED = [[1, 2, 3], [3, 4], [2, 3, 5, 2]]
LATER = [[6, 4], [1, 6], [4, 1]]  # validation and test targets; item 6 is in neither user's training items
N, K = 6, 3


def data_with(data_of: Callable[..., InteractionData], later: list[list[int]]) -> InteractionData:
    return data_of([[*a, *b] for a, b in zip(TRAINED, later, strict=True)])


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., LightGCN]:
    def make(later: list[list[int]] = LATER, **options: Any) -> LightGCN:
        torch.manual_seed(0)
        data = data_with(data_of, later)
        model = LightGCN(**{"dim": 4, "num_layers": K} | options)
        model.build(data.catalog)
        with torch.no_grad():
            model.users.table.weight.normal_()
        next(iter(model.stages(data)))
        return model.eval()

    return make


def layers(model: LightGCN) -> tuple[list[dict[int, torch.Tensor]], list[dict[int, torch.Tensor]]]:
    """Eq. 3, one node and one neighbour at a time: each layer's vectors of users and of items."""
    taken = {user: set(items) for user, items in enumerate(TRAINED)}
    takers = {item: {user for user in taken if item in taken[user]} for item in range(1, N + 1)}
    users = [{user: model.users.table.weight[user].detach() for user in taken}]
    items = [{item: model.items.weight[item].detach() for item in takers}]
    zero = torch.zeros(model.dim)
    for _ in range(model.num_layers):
        below_users, below_items = users[-1], items[-1]

        def root(user: int, item: int) -> float:
            return math.sqrt(len(taken[user]) * len(takers[item]))

        users.append({u: sum((below_items[i] / root(u, i) for i in taken[u]), zero) for u in taken})
        items.append({i: sum((below_users[u] / root(u, i) for u in takers[i]), zero) for i in takers})
    return users, items


def mean_of(of_layers: list[dict[int, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([torch.stack([*layer.values()]) for layer in of_layers]).mean(0)


@torch.inference_mode()
def test_who_shows_what_they_trained_on_scores_as_in_training(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(loss=BPR())
    users, items = layers(model)
    found = model.score(batch_of(TRAINED))
    torch.testing.assert_close(found[:, 1:], mean_of(users) @ mean_of(items).T, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_stranger_is_attached_to_the_items_of_the_history(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(loss=BPR())
    model.users.table.weight[0] = 0
    model.eval()
    _, items = layers(model)
    degree = {1: 1, 3: 3}
    heard = [
        sum(layer[i] / math.sqrt(2 * degree[i]) for i in degree) for layer in items[:K]
    ]  # layers 1..K of a node whose neighbours are items 1, 3 and, without an edge of its own, 6
    found = model.encode(batch_of([[3, 1, 3]]))[0]
    torch.testing.assert_close(found, sum(heard) / (K + 1), rtol=1e-5, atol=1e-5)
    nobody_took = model.encode(batch_of([[3, 1, 6]]))[0]
    torch.testing.assert_close(nobody_took, found * math.sqrt(2 / 3), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_cosine_is_compared_by_cosine(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(loss=BagSoftmax(cosine=True))
    users, items = (mean_of(part) for part in layers(model))
    found = model.score(batch_of(TRAINED))[:, 1:] / users.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, F.normalize(users) @ F.normalize(items).T, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_validation_and_test_items_are_no_edges(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    first, second = built(), built([[5, 6], [6, 2], [6, 4]])
    assert first.graph is not None
    assert first.graph.num_edges == sum(len(set(items)) for items in TRAINED)
    batch = batch_of(TRAINED)
    assert torch.equal(first.score(batch), second.score(batch))


@torch.inference_mode()
def test_held_out_users_are_no_nodes_with_edges(data_of: Callable[..., InteractionData]) -> None:
    data = data_of([[1, 2, 3, 4, 5]] * 10, heldout_rate=0.5)
    model = LightGCN(dim=2)
    model.build(data.catalog)
    next(iter(model.stages(data)))
    assert model.graph is not None
    assert model.graph.degree[:10].nonzero()[:, 0].tolist() == data.users("known").tolist()


def test_loss_is_taken_on_the_mean_of_layers(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    users, items = (mean_of(part) for part in layers(model))
    table = torch.cat([torch.zeros(1, 4), items])
    bags = torch.tensor([[1, 2, 3], [0, 3, 4], [2, 3, 5]])
    found = model.loss(batch_of([[1, 2], [3], [2, 3]], target=[3, 4, 5]))
    torch.testing.assert_close(found, BagSoftmax()(users, bags, table), rtol=1e-5, atol=1e-5)


def test_penalty_is_that_of_every_pair_and_its_negatives_on_average(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    batch = batch_of([[1, 2], [3]], target=[3, 4])
    plain, penalised = built().loss(batch).detach(), built(l2=0.5).loss(batch).detach()
    model = built()
    user, item = (
        weights.detach().square().sum(1) for weights in (model.users.table.weight, model.items.weight)
    )
    pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (1, 4)]
    terms = [float(user[u] + item[i] + item[j]) / 2 for u, i in pairs for j in range(1, N + 1)]
    assert float(penalised - plain) == pytest.approx(0.5 * sum(terms) / len(terms), rel=1e-4)


def test_items_layers_follow_the_weights(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model, batch = built(), batch_of(TRAINED)
    before = model.score(batch).detach()
    model.train()
    with torch.no_grad():
        model.items.weight *= 2
        model.users.table.weight *= 2
    torch.testing.assert_close(model.eval().score(batch), 4 * before)


def test_whoever_never_trains_keeps_the_zero_vector(
    built: Callable[..., LightGCN], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(l2=0.1)
    with torch.no_grad():
        model.users.table.weight[2] = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    alone = model.graph
    assert alone is not None
    alone.fill(torch.tensor([0, 1]).numpy(), torch.tensor([1, 2]).numpy())  # user 2 is in no edge
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(batch_of([[1, 2], [3]], target=[3, 4])).backward()
        optimizer.step()
    assert model.users.table.weight[2].tolist() == [0, 0, 0, 0]
    assert bool((model.users.table.weight[:2] != 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"l2": -1.0}, "l2 must be 0 or more, got -1"),
    ],
    ids=["layers", "l2"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LightGCN(**options)
