"""MF: inner products, and users who have no vector of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.models import MF
from recbench.nn.bags import BagSoftmax
from recbench.nn.losses import BPR

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[1, 2, 3, 1], [4, 2, 5, 3], [5, 4]]  # of which the last two of each are targets


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., MF]:
    """Makes a model that is about to train on two users; user 2 has nothing to train on."""

    def make(**options: Any) -> MF:
        torch.manual_seed(0)
        data = data_of(HISTORIES)
        model = MF(dim=4, **options)
        model.build(data.catalog)
        next(iter(model.stages(data)))
        with torch.no_grad():
            model.users.weight.normal_()
            model.items.weight[1:].normal_()
        return model.eval()

    return make


def test_those_who_train_are_known(built: Callable[..., MF]) -> None:
    assert built().is_trained.tolist() == [True, True, False]


def test_users_who_never_trained_are_strangers(data_of: Callable[..., InteractionData]) -> None:
    data = data_of([[1, 2, 3, 4]] * 10, heldout_rate=0.5)
    model = MF(dim=2)
    model.build(data.catalog)
    next(iter(model.stages(data)))
    assert model.is_trained.nonzero()[:, 0].tolist() == data.users("known").tolist()


@torch.inference_mode()
def test_who_trained_has_the_inner_product(
    built: Callable[..., MF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    found = model.score(batch_of([[3], []]))
    torch.testing.assert_close(found, model.users.weight[:2] @ model.items.weight.T)


@torch.inference_mode()
def test_a_stranger_is_the_mean_of_the_history(
    built: Callable[..., MF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    items = model.items.weight
    found = model.encode(batch_of([[], [], [5, 4, 5]]))[2]  # a repeat counts once
    torch.testing.assert_close(found, (items[4] + items[5]) / 2)
    assert model.encode(batch_of([[], [], []]))[2].tolist() == [0, 0, 0, 0]


@torch.inference_mode()
def test_fold_in_mixes_own_vector_and_history(
    built: Callable[..., MF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(fold_in=0.25, loss=BPR(cosine=True))
    users, items = F.normalize(model.users.weight, dim=1), F.normalize(model.items.weight, dim=1)
    found = model.encode(batch_of([[1, 2], [3], [4]]))
    torch.testing.assert_close(found[0], 0.75 * users[0] + 0.25 * (items[1] + items[2]) / 2)
    torch.testing.assert_close(found[1], 0.75 * users[1] + 0.25 * items[3])
    torch.testing.assert_close(found[2], items[4])


def test_all_items_of_a_window_are_learnt(
    built: Callable[..., MF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    found = model.loss(batch_of([[1, 2], [4]], target=[1, 2]))
    bags = torch.tensor([[0, 2, 1], [0, 4, 2]])
    torch.testing.assert_close(found, BagSoftmax()(model.users.weight[:2], bags, model.items.weight))


def test_user_vectors_are_dropped_out_in_training_only(
    built: Callable[..., MF], batch_of: Callable[..., SequenceBatch]
) -> None:
    model, batch = built(embedding_dropout=0.5), batch_of([[1, 2], [4]], target=[1, 2])
    still = model.loss(batch)
    assert torch.equal(model.loss(batch), still)
    assert not torch.equal(model.train().loss(batch), still)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dim": 0}, "dim must be at least 1, got 0"), ({"fold_in": 1.5}, r"fold_in must lie in 0..1, got 1.5")],
    ids=["dim", "fold_in"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MF(**options)
