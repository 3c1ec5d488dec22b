from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.nn.fusion import Fusion, fuse

LISTS = torch.tensor([[[1, 2, 3], [2, 4, 0]]])
WEIGHTS = torch.tensor([[1.0, 0.5]])


@pytest.mark.parametrize(
    ("how", "damping", "wanted"),
    [
        ("rrf", 0.0, {2: 1 / 2 + 1, 1: 1, 4: 1 / 2, 3: 1 / 3}),
        ("rrf", 1.0, {2: 1 / 3 + 1 / 2, 1: 1 / 2, 4: 1 / 3, 3: 1 / 4}),
        ("weighted", 0.0, {1: 1, 2: 1 / 2 + 1 / 2, 3: 1 / 3, 4: 1 / 4}),
        ("count", 0.0, {2: 2, 1: 1, 4: 1, 3: 1}),
    ],
)
def test_sums_by_hand(how: Fusion, damping: float, wanted: dict[int, float]) -> None:
    items, scores = fuse(LISTS, WEIGHTS, how=how, damping=damping)
    assert items[0].tolist() == [*wanted, 0, 0]
    assert scores[0, :4].tolist() == pytest.approx([*wanted.values()], abs=1e-4)
    assert scores[0, 4:].isneginf().all()


def test_among_equals_the_one_that_some_list_ranks_higher_leads() -> None:
    items, _ = fuse(torch.tensor([[[5, 9], [7, 3]]]), torch.ones(1, 2), how="count")
    assert items[0].tolist() == [5, 7, 3, 9]


def test_a_list_of_weight_0_has_no_say() -> None:
    items, _ = fuse(LISTS, torch.tensor([[0.0, 1.0]]), how="count")
    assert items[0].tolist() == [2, 4, 0, 0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), max_size=4, unique=True), min_size=1, max_size=4))
def test_equals_a_loop_over_lists(lists: list[list[int]]) -> None:
    table = torch.tensor([[[*one, *[0] * (4 - len(one))] for one in lists]])
    weights = [1 + 0.37 * j for j in range(len(lists))]
    total: dict[int, float] = defaultdict(float)
    for weight, one in zip(weights, lists, strict=True):
        for rank, item in enumerate(one, start=1):
            total[item] += weight / (2 + rank)
    items, scores = fuse(table, torch.tensor([weights]), how="weighted", damping=2.0)
    found = dict(zip(items[0].tolist(), scores[0].tolist(), strict=True))
    found.pop(0, None)
    assert found == pytest.approx(dict(total), abs=1e-5)
