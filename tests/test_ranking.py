from __future__ import annotations

import math
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.errors import DivergedError
from recbench.metrics import CUTOFFS, KEYS, Ranks, hr, means
from recbench.nn.ranking import RankMetrics, TargetRanks, rank_by_counting, ranks_in_lists


class Case(NamedTuple):
    scores: list[list[float]]  # column 0 is padding
    target: list[int]
    seen: list[list[int]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows with few distinct scores; seen items repeat, are padded, and may hold the target."""
    num_users, num_items, num_seen = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 9)),
        draw(st.integers(0, 5)),
    )
    score = st.sampled_from([-2.0, -0.5, 0.0, 1.0, 1e30])

    def rows(cell: st.SearchStrategy, width: int) -> list[list]:
        return draw(
            st.lists(st.lists(cell, min_size=width, max_size=width), min_size=num_users, max_size=num_users)
        )

    target = [row[0] for row in rows(st.integers(1, num_items), 1)]
    return Case(rows(score, num_items + 1), target, rows(st.integers(0, num_items), num_seen))


def by_definition(scores: list[float], target: int, seen: list[int]) -> tuple[float, int]:
    """One user, one item at a time."""
    better, ties = 0, 0
    for item in range(1, len(scores)):
        if item in seen and item != target:
            continue
        better += scores[item] > scores[target]
        ties += scores[item] == scores[target]
    return better + (ties + 1) / 2, ties


class TestCounting:
    @settings(max_examples=300, deadline=None)
    @given(cases())
    def test_equals_a_loop_over_the_candidates(self, case: Case) -> None:
        scores, target = torch.tensor(case.scores), torch.tensor(case.target)
        seen = torch.tensor(case.seen, dtype=torch.int64).reshape(len(target), -1)
        found = rank_by_counting(scores, target, seen)
        wanted = [by_definition(*row) for row in zip(*case, strict=True)]
        assert list(zip(found.rank.tolist(), found.ties.tolist(), strict=True)) == wanted

    @settings(max_examples=50, deadline=None)
    @given(cases())
    def test_nothing_seen_is_no_mask(self, case: Case) -> None:
        scores, target = torch.tensor(case.scores), torch.tensor(case.target)
        found = rank_by_counting(scores, target)
        wanted = [by_definition(row, t, []) for row, t in zip(case.scores, case.target, strict=True)]
        assert list(zip(found.rank.tolist(), found.ties.tolist(), strict=True)) == wanted

    @settings(max_examples=100, deadline=None)
    @given(cases(), st.integers(0, 1000))
    def test_only_what_is_allowed_competes(self, case: Case, seed: int) -> None:
        draw = random.Random(seed)
        allowed = [[False, *(draw.random() < 0.6 for _ in row[1:])] for row in case.scores]
        seen = torch.tensor(case.seen, dtype=torch.int64).reshape(len(case.target), -1)
        found = rank_by_counting(
            torch.tensor(case.scores), torch.tensor(case.target), seen, torch.tensor(allowed)
        )
        for i, target in enumerate(case.target):
            barred = [*case.seen[i], *(item for item, is_near in enumerate(allowed[i]) if not is_near)]
            wanted = by_definition(case.scores[i], target, barred) if allowed[i][target] else (math.inf, 1)
            assert (found.rank[i].item(), found.ties[i].item()) == wanted

    def test_scores_are_left_alone(self) -> None:
        scores = torch.tensor([[9.0, 3, 2, 1]])
        rank_by_counting(scores, torch.tensor([2]), torch.tensor([[1, 0]]))
        assert scores.tolist() == [[9, 3, 2, 1]]

    def test_padding_never_counts_however_high_its_score(self) -> None:
        found = rank_by_counting(torch.tensor([[9.0, 3, 2, 1]]), torch.tensor([1]))
        assert found.rank.tolist() == [1]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_counts_stay_exact_in_every_precision(self, dtype: torch.dtype) -> None:
        scores = torch.zeros(1, 1002, dtype=dtype)
        scores[0, :702] = 1  # padding and 701 better items; bfloat16 has no 701
        found = rank_by_counting(scores, torch.tensor([900])).numpy()
        assert (found.rank.tolist(), found.ties.tolist()) == ([701 + (300 + 1) / 2], [300])


class TestTies:
    @pytest.mark.parametrize("constant", [0.0, -3.5, 1e30])
    @pytest.mark.parametrize("num_seen", [0, 4])
    def test_a_constant_scorer_hits_by_chance(self, constant: float, num_seen: int) -> None:
        num_items = 50
        target = torch.arange(1, num_items + 1)
        seen = (
            target[:, None] + torch.arange(1, num_seen + 1) - 1
        ) % num_items + 1  # others, never the target
        found = rank_by_counting(torch.full((num_items, num_items + 1), constant), target, seen).numpy()
        for k in CUTOFFS:
            assert hr(found, k).mean() == pytest.approx(k / (num_items - num_seen), abs=1e-9)

    def test_index_one_gains_nothing(self) -> None:
        scores = torch.tensor([[0.0, 1, 0, 1, 0, 1]]).repeat(5, 1)
        found = rank_by_counting(scores, torch.arange(1, 6))
        assert found.rank.tolist() == [2, 4.5, 2, 4.5, 2]
        assert found.ties.tolist() == [3, 2, 3, 2, 3]


class TestNonFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_bad_score_is_refused(self, value: float) -> None:
        scores = torch.zeros(3, 6)
        scores[1, 4] = value
        with pytest.raises(DivergedError, match="1 of 18 scores are NaN or infinite"):
            rank_by_counting(scores, torch.tensor([1, 2, 3]))

    def test_a_scorer_of_nothing_but_nan_is_no_perfect_scorer(self) -> None:
        with pytest.raises(DivergedError, match="12 of 12"):
            rank_by_counting(torch.full((2, 6), math.nan), torch.tensor([1, 2]))

    def test_infinities_that_cancel_are_found(self) -> None:
        with pytest.raises(DivergedError, match="2 of 3"):
            rank_by_counting(torch.tensor([[0.0, math.inf, -math.inf]]), torch.tensor([1]))

    def test_large_scores_are_finite_though_their_sum_is_not(self) -> None:
        scores = torch.tensor([[0.0, 3e38, 1e30, 3e38, 2e38]])
        assert rank_by_counting(scores, torch.tensor([4])).rank.tolist() == [3]


class TestRanksInLists:
    ITEMS = torch.tensor([[4, 7, 2, 0], [4, 7, 2, 9]])
    SCORES = torch.tensor([[3.0, 1.0, 1.0, -math.inf], [3.0, 1.0, 1.0, 0.0]])

    @pytest.mark.parametrize(
        ("targets", "rank", "ties"),
        [([4, 9], [1, 4], [1, 1]), ([2, 7], [2.5, 2.5], [2, 2]), ([9, 1], [math.inf, math.inf], [1, 1])],
    )
    def test_by_hand(self, targets: list[int], rank: list[float], ties: list[int]) -> None:
        found = ranks_in_lists(self.ITEMS, self.SCORES, torch.tensor(targets))
        assert found.rank.tolist() == rank
        assert found.ties.tolist() == ties

    def test_a_score_that_is_no_number_is_refused(self) -> None:
        scores = self.SCORES.clone()
        scores[1, 3] = math.nan
        with pytest.raises(DivergedError, match="1 of 8 scores"):
            ranks_in_lists(self.ITEMS, scores, torch.tensor([4, 4]))


class TestRunningMetrics:
    @pytest.fixture
    def ranks(self) -> TargetRanks:
        rng = np.random.default_rng(0)
        ties = rng.integers(1, 4, 101)
        better = rng.integers(0, 30, 101)
        rank = torch.from_numpy(better + (ties + 1) / 2)
        rank[::10] = math.inf
        return TargetRanks(rank, torch.from_numpy(ties))

    @pytest.mark.parametrize("size", [1, 7, 101])
    def test_do_not_depend_on_the_batches(self, ranks: TargetRanks, size: int) -> None:
        metric = RankMetrics()
        for start in range(0, 101, size):
            metric.update(TargetRanks(*(column[start : start + size] for column in ranks)))
        found, wanted = metric.compute(), means(ranks.numpy())
        assert tuple(found) == KEYS
        assert {key: float(value) for key, value in found.items()} == pytest.approx(wanted, abs=1e-12)

    def test_forget_when_reset(self) -> None:
        metric = RankMetrics(("hr@1", "mrr@5"))
        metric.update(TargetRanks(torch.tensor([1.0, 1.0]), torch.tensor([1, 1])))
        metric.reset()
        metric.update(TargetRanks(torch.tensor([2.0]), torch.tensor([1])))
        assert {key: float(value) for key, value in metric.compute().items()} == {"hr@1": 0, "mrr@5": 0.5}

    def test_ranks_become_arrays(self) -> None:
        found = TargetRanks(torch.tensor([1.5], dtype=torch.float16), torch.tensor([2])).numpy()
        assert isinstance(found, Ranks)
        assert (found.rank.dtype, found.ties.dtype) == (np.float64, np.int64)
