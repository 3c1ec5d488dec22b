from __future__ import annotations

import math

import pytest
import torch

from recbench.nn.communities import choose_anchors, kernel, random_like

EAST, NORTH_EAST, NORTH, WEST = [1.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-2.0, 0.0]


def test_the_kernel_by_hand() -> None:
    found = kernel(torch.tensor([EAST]), torch.tensor([EAST, NORTH_EAST, NORTH, WEST]), bandwidth=1.0)
    assert found[0].tolist() == pytest.approx(
        [0.75, 0.75 * (1 - 0.25), 0, 0], abs=1e-3
    )  # distances 0, 1/2, 1, 2


def test_a_wider_kernel_reaches_further() -> None:
    found = kernel(torch.tensor([EAST]), torch.tensor([NORTH, WEST]), bandwidth=1.3)
    assert found[0].tolist() == pytest.approx([0.75 * (1 - (1 / 1.3) ** 2), 0], abs=1e-3)


@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 1.6])
def test_weights_are_positive_exactly_within_the_bandwidth(bandwidth: float) -> None:
    angles = torch.linspace(0.01, math.pi, 40)
    others = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = kernel(torch.tensor([EAST]), others, bandwidth=bandwidth)[0]
    assert torch.equal(found > 0, angles * 2 / math.pi < bandwidth)


def test_each_anchor_reaches_most_of_those_left() -> None:
    reaches = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    assert choose_anchors(reaches, 3).tolist() == [1, 0, 3]


def test_once_everybody_is_reached_choosing_begins_anew_and_takes_nobody_twice() -> None:
    reaches = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]]).bool()
    assert choose_anchors(reaches, 4).tolist() == [0, 1, 2, 3]


def test_too_many_anchors_are_refused() -> None:
    with pytest.raises(ValueError, match="3 anchors asked of 2 candidates"):
        choose_anchors(torch.ones(2, 4).bool(), 3)


def test_random_communities_have_the_same_sizes_and_other_members() -> None:
    members = torch.zeros(3, 1000).bool()
    members[0, :300], members[1, :20], members[2] = True, True, True
    found = random_like(members, torch.Generator().manual_seed(0))
    assert found.sum(1).tolist() == [300, 20, 1000]
    assert 40 < int(found[0, :300].sum()) < 140  # 90 expected of an independent draw
