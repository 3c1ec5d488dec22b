import math
import time
from itertools import pairwise, permutations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, P, Success, nDCG

from recbench.metrics import (
    CUTOFFS,
    KEYS,
    Ranks,
    bootstrap_means,
    check_arithmetic,
    hr,
    impossibilities,
    interval,
    means,
    mrr,
    ndcg,
    per_user,
    precision,
)

PRINTED = 0.5e-4  # four printed digits


def ranks(*rank: float, ties: int = 1) -> Ranks:
    return Ranks(np.array(rank, dtype=np.float64), np.full(len(rank), ties))


def ranks_of(scores: np.ndarray, target: int) -> Ranks:
    """One user's rank by definition: one more than the better items, plus half of the other tied ones."""
    better, ties = (scores > scores[target]).sum(), (scores == scores[target]).sum()
    return Ranks(np.array([better + (ties + 1) / 2]), np.array([ties]))


class TestOneTarget:
    def test_hit_rate_is_one_up_to_the_cutoff(self) -> None:
        assert hr(ranks(1, 10, 11, math.inf), 10).tolist() == [1, 1, 0, 0]

    def test_ndcg_by_hand(self) -> None:
        assert ndcg(ranks(1, 2, 3, 10, 11), 10) == pytest.approx(
            [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0], abs=1e-15
        )

    def test_mrr_by_hand(self) -> None:
        assert mrr(ranks(1, 4, 5, math.inf), 4) == pytest.approx([1, 0.25, 0, 0], abs=1e-15)

    def test_precision_by_hand(self) -> None:
        assert precision(ranks(3, 6), 5) == pytest.approx([0.2, 0], abs=1e-15)

    def test_an_unlisted_target_counts_nothing_anywhere(self) -> None:
        assert per_user(ranks(math.inf)).tolist() == [[0.0] * len(KEYS)]

    def test_means_are_over_all_users_listed_or_not(self) -> None:
        values = means(ranks(1, math.inf, math.inf, 3))
        assert values["hr@10"] == 0.5
        assert values["ndcg@10"] == pytest.approx((1 + 0.5) / 4)


class TestTies:
    @pytest.mark.parametrize("num_items", [1, 2, 7, 12_101])
    @pytest.mark.parametrize("k", CUTOFFS)
    def test_a_constant_scorer_hits_by_chance(self, num_items: int, k: int) -> None:
        constant = ranks_of(np.zeros(num_items), 0)
        assert hr(constant, k)[0] == pytest.approx(min(1, k / num_items), abs=1e-9)

    def test_two_tied_around_the_cutoff_share_it(self) -> None:
        assert hr(Ranks(np.array([10.5]), np.array([2])), 10)[0] == 0.5

    def test_ndcg_is_the_mean_over_the_tied_positions(self) -> None:
        tied = Ranks(np.array([3.0]), np.array([3]))  # positions 2, 3 and 4
        assert ndcg(tied, 10)[0] == pytest.approx((1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)) / 3)
        assert mrr(tied, 3)[0] == pytest.approx((1 / 2 + 1 / 3) / 3)

    def test_the_index_of_the_target_does_not_matter(self) -> None:
        scores = np.array([1.0, 3.0, 1.0, 1.0, 2.0])
        assert {tuple(per_user(ranks_of(scores, target))[0]) for target in (0, 2, 3)} == {
            tuple(per_user(ranks_of(scores, 0))[0])
        }

    @given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.data())
    def test_every_metric_is_the_mean_of_ir_measures_over_all_orders_of_the_ties(
        self, scores: list[int], data: st.DataObject
    ) -> None:
        target = data.draw(st.integers(0, len(scores) - 1))
        orders = [order for order in permutations(range(len(scores))) if _is_sorted(order, scores)]
        for k in (1, 2, 4):
            expected = _by_ir_measures(orders, target, k)
            ours = per_user(ranks_of(np.array(scores), target), _keys(k))[0]
            assert ours == pytest.approx(expected, abs=1e-9)


def _is_sorted(order: tuple[int, ...], scores: list[int]) -> bool:
    return all(scores[a] >= scores[b] for a, b in pairwise(order))


def _keys(k: int) -> tuple[str, ...]:
    return tuple(f"{name}@{k}" for name in ("hr", "ndcg", "precision", "mrr"))


def _by_ir_measures(orders: list[tuple[int, ...]], target: int, k: int) -> list[float]:
    """Mean over `orders`, each a query, of HR, NDCG, Precision and MRR at `k`."""
    qrels = {str(query): {str(target): 1} for query in range(len(orders))}
    run = {
        str(query): {str(item): float(-position) for position, item in enumerate(order)}
        for query, order in enumerate(orders)
    }
    asked = [Success @ k, nDCG @ k, P @ k, RR @ k]
    found = ir_measures.calc_aggregate(asked, qrels, run)
    return [found[measure] for measure in asked]


def test_untied_lists_give_what_ir_measures_gives() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.permuted(np.tile(np.arange(60.0), (200, 1)), axis=1), rng.integers(0, 60, 200)
    each = [ranks_of(row, target) for row, target in zip(scores, targets, strict=True)]
    ours = means(Ranks(*(np.concatenate(part) for part in zip(*each, strict=True))))
    qrels = {str(user): {str(target): 1} for user, target in enumerate(targets)}
    run = {str(user): {str(item): float(s) for item, s in enumerate(row)} for user, row in enumerate(scores)}
    for k in CUTOFFS:
        found = ir_measures.calc_aggregate([Success @ k, nDCG @ k, P @ k, RR @ k], qrels, run)
        theirs = [found[measure] for measure in (Success @ k, nDCG @ k, P @ k, RR @ k)]
        assert [ours[key] for key in _keys(k)] == pytest.approx(theirs, abs=1e-9)


any_ranks = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 30), st.booleans()), min_size=1, max_size=40
).map(
    lambda users: Ranks(
        np.array([math.inf if miss else better + (ties + 1) / 2 for better, ties, miss in users]),
        np.array([1 if miss else ties for _, ties, miss in users]),
    )
)


class TestInvariants:
    @given(any_ranks)
    def test_means_obey_the_arithmetic_of_one_target(self, found: Ranks) -> None:
        check_arithmetic(means(found))

    @given(any_ranks, st.integers(1, 60))
    def test_order_of_the_metrics(self, found: Ranks, k: int) -> None:
        hits = hr(found, k)
        assert (hits <= hr(found, k + 1) + 1e-12).all()
        assert precision(found, k) * k == pytest.approx(hits)
        assert (ndcg(found, k) <= hits + 1e-12).all()
        assert (mrr(found, k) <= ndcg(found, k) + 1e-12).all()

    @given(any_ranks, st.randoms())
    def test_the_order_of_users_does_not_matter(self, found: Ranks, random: np.random.Generator) -> None:
        order = list(range(len(found.rank)))
        random.shuffle(order)
        shuffled = Ranks(found.rank[order], found.ties[order])
        assert list(means(shuffled).values()) == pytest.approx(list(means(found).values()), abs=1e-12)


class TestRefused:
    def test_cutoff_zero(self) -> None:
        with pytest.raises(ValueError, match="cutoff must be at least 1, got 0"):
            hr(ranks(1), 0)

    @pytest.mark.parametrize("rank", [math.nan, 0.0, -3.0])
    def test_what_is_no_rank(self, rank: float) -> None:
        with pytest.raises(ValueError, match=r"row 1 has rank .* a rank is at least"):
            hr(ranks(1, rank), 10)

    def test_a_rank_above_the_middle_of_its_ties(self) -> None:
        with pytest.raises(ValueError, match="among 3 tied"):
            hr(Ranks(np.array([1.0]), np.array([3])), 10)


def row(text: str, keys: str = "hr@5 ndcg@5 hr@10 ndcg@10") -> dict[str, float]:
    return dict(zip(keys.split(), map(float, text.split()), strict=True))


LSC4REC = "ndcg@5 ndcg@10 ndcg@20 hr@5 hr@10 hr@20 precision@5 precision@10 precision@20"


class TestImpossibilities:
    @pytest.mark.parametrize(
        "printed",
        [
            "0.0017 0.0026 0.0042 0.0021 0.0039 0.0083 0.0014 0.0014 0.0015",
            "0.0017 0.0023 0.0031 0.0020 0.0033 0.0054 0.0014 0.0012 0.0010",
            "0.0014 0.0021 0.0032 0.0018 0.0033 0.0060 0.0013 0.0011 0.0011",
            "0.0007 0.0010 0.0017 0.0010 0.0016 0.0035 0.0006 0.0005 0.0006",
            "0.0009 0.0015 0.0020 0.0011 0.0023 0.0037 0.0008 0.0008 0.0007",
            "0.0015 0.0020 0.0026 0.0019 0.0030 0.0046 0.0012 0.0010 0.0008",
            "0.0033 0.0044 0.0057 0.0040 0.0062 0.0096 0.0026 0.0020 0.0014",
            "0.0017 0.0026 0.0036 0.0022 0.0041 0.0065 0.0013 0.0013 0.0011",
            "0.0021 0.0030 0.0039 0.0024 0.0044 0.0066 0.0016 0.0015 0.0012",
        ],
    )
    def test_lsc4rec_table_1_small_models_on_lagged_data(self, printed: str) -> None:
        broken = impossibilities(row(printed, LSC4REC), tolerance=PRINTED)
        assert any(line.startswith("precision@5") for line in broken)

    @pytest.mark.parametrize(
        "printed",
        [
            "0.0087 0.0108 0.0136 0.0132 0.0200 0.0310 0.0027 0.0020 0.0016",  # just touches a rounding bound
            "0.0094 0.0126 0.0154 0.0150 0.0248 0.0361 0.0030 0.0025 0.0018",
            "0.0066 0.0084 0.0096 0.0105 0.0158 0.0209 0.0021 0.0016 0.0010",
            "0.0095 0.0116 0.0144 0.0145 0.0213 0.0323 0.0029 0.0021 0.0016",
        ],
    )
    def test_lsc4rec_table_1_its_consistent_rows_pass(self, printed: str) -> None:
        assert impossibilities(row(printed, LSC4REC), tolerance=PRINTED) == []

    @pytest.mark.parametrize(
        "printed",
        [
            "0.0259 0.0182 0.0423 0.0271",
            "0.0245 0.0171 0.0398 0.0246",
            "0.0197 0.0136 0.0304 0.0192",
            "0.3589 0.2576 0.4845 0.3046",
        ],
    )
    def test_cda4rec_table_2_its_own_rows(self, printed: str) -> None:
        (line,) = impossibilities(row(printed), tolerance=PRINTED)
        assert line.startswith("ndcg@10 - ndcg@5 is")

    @pytest.mark.parametrize(
        "printed",
        [
            "0.0454 0.0321 0.0648 0.0384",
            "0.0264 0.0181 0.0400 0.0225",
            "0.0163 0.0107 0.0254 0.0136",
            "0.0094 0.0057 0.0173 0.0081",
        ],
    )
    def test_possible_figures_pass(self, printed: str) -> None:
        assert impossibilities(row(printed), tolerance=PRINTED) == []

    @given(any_ranks)
    def test_rounding_never_flags_what_was_measured(self, found: Ranks) -> None:
        printed = {key: round(value, 4) for key, value in means(found).items()}
        assert impossibilities(printed, tolerance=PRINTED) == []

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"hr@10": 4.6}, "hr@10 4.6 is not in [0, 1]"),
            ({"hr@5": 0.2, "hr@10": 0.1}, "hr@10 0.1 is below hr@5 0.2"),
            ({"hr@10": 0.1, "ndcg@10": 0.11}, "ndcg@10 is 0.1100, but the hits at ranks 1 to 10"),
            ({"hr@10": 0.1, "ndcg@10": 0.02}, "allow only 0.0289 to 0.1000"),
            ({"hr@10": 0.1, "mrr@10": 0.005}, "mrr@10 is 0.0050"),
            ({"hr@10": 0.1, "precision@10": 0.1}, "precision@10 0.1 is not hr@10 / 10 = 0.01"),
        ],
    )
    def test_each_bound_says_what_is_wrong(self, values: dict[str, float], why: str) -> None:
        assert why in "; ".join(impossibilities(values, tolerance=PRINTED))

    def test_our_own_means_are_asserted(self) -> None:
        with pytest.raises(AssertionError, match="precision@10"):
            check_arithmetic({"hr@10": 0.1, "precision@10": 0.02})


class TestBootstrap:
    values = per_user(ranks(*np.where(np.arange(4000) % 20 == 0, 1 + np.arange(4000) % 17, np.inf)))

    def test_equal_seeds_give_equal_bits(self) -> None:
        again = bootstrap_means(self.values, num_resamples=200, seed=3)
        assert np.array_equal(bootstrap_means(self.values, num_resamples=200, seed=3), again)
        assert not np.array_equal(bootstrap_means(self.values, num_resamples=200, seed=4), again)

    def test_means_and_spread_are_those_of_resampled_users(self) -> None:
        resampled = bootstrap_means(self.values, num_resamples=20_000)
        error = self.values.std(axis=0) / math.sqrt(len(self.values))
        assert (abs(resampled.mean(axis=0) - self.values.mean(axis=0)) < 5 * error / math.sqrt(20_000)).all()
        assert resampled.std(axis=0) == pytest.approx(error, rel=0.03)

    def test_columns_are_resampled_together(self) -> None:
        column = np.random.default_rng(0).random(500)
        resampled = bootstrap_means(np.stack([column, 2 * column], axis=1), num_resamples=100)
        assert resampled[:, 1] == pytest.approx(2 * resampled[:, 0])

    def test_distinct_values_are_as_likely_as_repeated_ones(self) -> None:
        column = np.random.default_rng(0).random((300, 1))
        resampled = bootstrap_means(column, num_resamples=20_000)
        assert resampled.std() == pytest.approx(column.std() / math.sqrt(300), rel=0.03)

    def test_the_interval_is_the_normal_one_for_many_users(self) -> None:
        low, high = interval(bootstrap_means(self.values, num_resamples=20_000))
        column = KEYS.index("hr@10")
        hits = self.values[:, column]
        half = 1.96 * hits.std() / math.sqrt(len(hits))
        assert (high - low)[column] / 2 == pytest.approx(half, rel=0.05)

    def test_a_constant_has_an_interval_without_width(self) -> None:
        assert bootstrap_means(np.full((50, 1), 0.25), num_resamples=10).tolist() == [[0.25]] * 10

    def test_beauty_takes_less_than_a_second(self) -> None:
        rng = np.random.default_rng(0)
        rank = np.where(rng.random(22_363) < 0.15, rng.integers(1, 21, 22_363), 500).astype(np.float64)
        values = per_user(Ranks(rank, np.ones(len(rank), dtype=np.int64)))
        started = time.process_time()
        bootstrap_means(values, num_resamples=1000)
        assert time.process_time() - started < 1
