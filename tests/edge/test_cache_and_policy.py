"""What a device keeps, and when it asks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbench.edge.cache import Cache, Entry
from recbench.edge.messages import Embedding
from recbench.edge.policy import Always, Every, Never, Policy, RandomBudget, State, Threshold, threshold_at


def entry(count: int, *, time_s: float = 0.0, version: str = "v1") -> Entry:
    return Entry(Embedding(version, np.zeros(1, np.float32)), count, time_s)


class TestCache:
    def test_the_newest_answer_is_kept(self) -> None:
        cache, old, new = Cache(), entry(3), entry(5)
        assert cache.put(7, new)
        assert not cache.put(7, old)
        assert cache.find(7, version="v1", count=5) is new

    def test_an_answer_to_the_same_moment_replaces_the_former(self) -> None:
        cache, first, second = Cache(), entry(3), entry(3)
        cache.put(7, first)
        assert cache.put(7, second)
        assert cache.find(7, version="v1", count=3) is second

    def test_users_do_not_see_each_other(self) -> None:
        cache = Cache()
        cache.put(7, entry(3))
        assert cache.find(8, version="v1", count=3) is None

    def test_another_version_is_thrown_away(self) -> None:
        cache = Cache()
        cache.put(7, entry(3))
        assert cache.find(7, version="v2", count=3) is None
        assert len(cache) == 0

    @pytest.mark.parametrize(("count", "is_there"), [(3, True), (5, True), (6, False)])
    def test_age_in_interactions(self, count: int, is_there: bool) -> None:
        cache = Cache(max_lag_items=2)
        cache.put(7, entry(3))
        assert (cache.find(7, version="v1", count=count) is not None) is is_there

    @pytest.mark.parametrize(("time_s", "is_there"), [(100, True), (160, True), (161, False)])
    def test_age_in_seconds(self, time_s: float, is_there: bool) -> None:
        cache = Cache(max_lag_s=60)
        cache.put(7, entry(3, time_s=100))
        assert (cache.find(7, version="v1", count=4, time_s=time_s) is not None) is is_there


def state(lag_items: list[int], scores: list[float] | None = None) -> State:
    size = len(lag_items)

    def score() -> np.ndarray:
        assert scores is not None, "asked for a score that this policy does not need"
        return np.array(scores)

    return State(np.arange(size), np.full(size, 5), np.array(lag_items), np.zeros(size), score)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Always(), [True, True, True, True]),
        (Never(), [False, False, False, False]),
        (Every(num_items=2), [True, False, False, True]),
        (RandomBudget(budget=0), [False, False, False, False]),
        (RandomBudget(budget=1), [True, True, True, True]),
    ],
    ids=["always", "never", "every", "random-0", "random-1"],
)
def test_decisions_without_a_score(policy: Policy, wanted: list[bool]) -> None:
    assert policy.decide(state([-1, 0, 1, 2])).tolist() == wanted


def test_a_threshold_asks_at_or_above_it_and_where_nothing_is_known() -> None:
    found = Threshold(threshold=0.5).decide(state([-1, 0, 0, 0], [math.nan, 0.4, 0.5, 0.6]))
    assert found.tolist() == [True, False, True, True]


def test_a_random_budget_is_kept_and_depends_on_no_order() -> None:
    many = state([0] * 2000)
    asked = RandomBudget(budget=0.2).decide(many)
    assert abs(asked.mean() - 0.2) < 4 * math.sqrt(0.16 / 2000)
    back = State(many.users[::-1], many.counts, many.lag_items, many.lag_s, many.score)
    assert RandomBudget(budget=0.2).decide(back).tolist() == asked[::-1].tolist()
    assert RandomBudget(budget=0.2, seed=1).decide(many).tolist() != asked.tolist()


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [(0.0, math.inf), (0.1, math.inf), (0.2, 9), (0.6, 9), (0.79, 9), (0.8, 7), (0.99, 7), (1.0, 1)],
)
def test_the_threshold_for_a_budget(budget: float, wanted: float) -> None:
    scores = np.array([1.0, 7, 7, 9, 7])  # one asks at 9, four at 7: equal ones decide alike
    assert threshold_at(scores, budget) == wanted


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.2, 0.4])
def test_the_budget_is_met_where_scores_differ(budget: float) -> None:
    scores = np.random.default_rng(0).normal(size=1000)
    asked = Threshold(threshold=threshold_at(scores, budget)).decide(state([0] * 1000, scores.tolist()))
    assert asked.mean() == budget


@pytest.mark.parametrize("scores", [[], [1.0, math.nan]])
def test_a_threshold_needs_scores(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="a threshold needs scores that are numbers"):
        threshold_at(np.array(scores), 0.1)


@pytest.mark.parametrize("budget", [-0.1, 1.5])
def test_budgets_are_shares(budget: float) -> None:
    with pytest.raises(ValueError, match=r"budget must lie in 0..1"):
        RandomBudget(budget=budget)
