"""Bags of items, and the likelihood of a bag against the sum over its items."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from recbench.nn.bags import BagSoftmax, bag_loss, contains, distinct, training_bag
from recbench.nn.losses import BPR, FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch

pytestmark = pytest.mark.usefixtures("_has_bfloat16")


def test_an_item_stays_at_its_newest_place() -> None:
    history = torch.tensor([[0, 0, 3, 1, 3], [2, 2, 2, 4, 2], [0, 0, 0, 0, 0]])
    assert distinct(history).tolist() == [[0, 0, 0, 1, 3], [0, 0, 0, 4, 2], [0, 0, 0, 0, 0]]


def test_the_target_of_a_window_is_one_of_its_items(batch_of: Callable[..., SequenceBatch]) -> None:
    assert training_bag(batch_of([[1, 2], [3]], target=[1, 4])).tolist() == [[0, 2, 1], [0, 3, 4]]


def test_contains_looks_into_the_own_bag_only() -> None:
    found = contains(torch.tensor([[0, 3, 1], [2, 2, 4]]), torch.tensor([[1, 2, 3], [1, 4, 4]]))
    assert found.tolist() == [[True, False, True], [False, True, True]]


BAG = torch.tensor([[0, 2, 5], [1, 3, 4], [0, 0, 4]])


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    users, table = (torch.randn(n, 4, generator=draw, requires_grad=True) for n in (3, 7))
    return users, table


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "cosine": True}], ids=["dot", "cosine"])
class TestBagSoftmax:
    def test_is_the_softmax_over_single_items_less_what_nobody_can_avoid(self, options: dict) -> None:
        users, table = vectors()
        row, place = BAG.nonzero(as_tuple=True)
        single = FullSoftmax(half=False, **options)(users[row], BAG[row, place], table)
        unavoidable = (2 * math.log(2) + 3 * math.log(3) + 0) / 6  # n log n of bags of 2, 3 and 1
        found = BagSoftmax(half=False, **options)(users, BAG, table)
        torch.testing.assert_close(found, single - unavoidable)

    def test_its_gradients_are_those_of_the_softmax_over_single_items(self, options: dict) -> None:
        row, place = BAG.nonzero(as_tuple=True)
        gradients = []
        for one_by_one in (True, False):
            users, table = vectors()
            if one_by_one:
                loss = FullSoftmax(half=False, **options)(users[row], BAG[row, place], table)
            else:
                loss = BagSoftmax(half=False, **options)(users, BAG, table)
            gradients.append(torch.autograd.grad(loss, (users, table)))
        for found, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("half", [False, True])
def test_a_perfect_fit_costs_nothing(half: bool) -> None:
    users = torch.eye(2)
    table = torch.tensor([[0.0, 0], [50, 0], [50, 0], [0, 50], [0, 0]])
    bags = torch.tensor([[1, 2], [0, 3]])
    assert float(BagSoftmax(half=half)(users, bags, table)) == pytest.approx(0, abs=1e-5)


def test_halved_products_give_nearly_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    users, table = (torch.randn(n, 8, generator=draw, requires_grad=True) for n in (600, 31))
    bags = torch.randint(0, 31, (600, 5), generator=draw)  # more users than a block holds
    found = []
    for half in (False, True):
        loss = BagSoftmax(half=half)(users, distinct(bags), table)
        found.append((loss.detach(), *torch.autograd.grad(loss, (users, table))))
    for single, halved in zip(*found, strict=True):
        assert float((halved - single).norm() / single.norm()) < 0.02


def test_a_loss_over_single_items_gets_them_one_by_one() -> None:
    users, table = vectors()
    row, item = [0, 0, 1, 1, 1, 2], [2, 5, 1, 3, 4, 4]
    torch.manual_seed(3)
    wanted = BPR()(users[row], torch.tensor(item), table)
    torch.manual_seed(3)
    torch.testing.assert_close(bag_loss(BPR(), users, BAG, table), wanted)


def test_a_loss_over_bags_gets_them_whole() -> None:
    users, table = vectors()
    torch.testing.assert_close(bag_loss(BagSoftmax(), users, BAG, table), BagSoftmax()(users, BAG, table))
