"""Plans: quotas by hand, what is read as it is, mended, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.edge.ranking_plan import Offer, PlanError, RankingPlan, plan_of, read_plan

TAGS = ("jazz", "tea", "books", "art", "yoga")
OFFER = Offer(TAGS, sizes=(10, 100), tag_counts=(1, 3, 10), encoders=("sasrec", "surge"))
GOOD: dict[str, Any] = {
    "alpha": 0.25,
    "tags": [["jazz", 0.5], ["tea", 0.3], ["art", 0.2]],
    "size": 100,
    "encoder": "surge",
    "beta": 0.4,
    "why": "dense",
}


def read(**changes: Any) -> Any:
    return read_plan(json.dumps(GOOD | changes), OFFER)


class TestQuotas:
    @pytest.mark.parametrize(
        ("shares", "size", "quotas"),
        [
            ((0.5, 0.3, 0.2), 10, (5, 3, 2)),
            ((0.5, 0.3, 0.2), 7, (4, 2, 1)),  # 3.5, 2.1, 1.4: the largest remainder gets what is left
            ((1 / 3, 1 / 3, 1 / 3), 100, (34, 33, 33)),  # of equal remainders the first
            ((0.98, 0.01, 0.01), 10, (10, 0, 0)),
        ],
    )
    def test_by_largest_remainder(
        self, shares: tuple[float, ...], size: int, quotas: tuple[int, ...]
    ) -> None:
        plan = RankingPlan(0, tuple(zip(TAGS, shares, strict=False)), size, "sasrec", 0.5)
        assert plan.quotas() == quotas

    @given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=5), st.sampled_from([10, 100]))
    def test_they_sum_to_the_size(self, weights: list[float], size: int) -> None:
        plan = plan_of(
            OFFER, alpha=0, weights=list(zip(TAGS, weights, strict=False)), size=size, encoder="none", beta=0
        )
        assert sum(plan.quotas()) == size
        assert all(abs(n - share * size) < 1 for n, (_, share) in zip(plan.quotas(), plan.tags, strict=True))


class TestReading:
    @pytest.mark.parametrize("number", [1, 3, 5])
    def test_all_tags_there_are_count_as_a_number_that_is_offered(self, number: int) -> None:
        made = plan_of(
            OFFER, alpha=0, weights=[(tag, 1.0) for tag in TAGS[:number]], size=10, encoder="sasrec", beta=0.5
        )
        assert read_plan(made.text(), OFFER) == (made, False)

    def test_what_is_written_is_read_back(self) -> None:
        plan, is_mended = read()
        assert (plan.alpha, plan.size, plan.encoder, plan.beta) == (0.25, 100, "surge", 0.4)
        assert plan.tags == (("jazz", 0.5), ("tea", 0.3), ("art", 0.2))
        assert not is_mended
        assert read_plan(plan.text(), OFFER) == (plan, False)

    @given(st.lists(st.integers(1, 300), min_size=3, max_size=3), st.floats(0, 1), st.floats(0, 1))
    def test_any_plan_survives_its_text(self, weights: list[int], alpha: float, beta: float) -> None:
        ranked = sorted(weights, reverse=True)
        made = plan_of(
            OFFER,
            alpha=alpha,
            weights=list(zip(TAGS, ranked, strict=False)),
            size=10,
            encoder="sasrec",
            beta=beta,
        )
        found, is_mended = read_plan(made.text(), OFFER)
        assert (found.alpha, found.beta, is_mended) == (made.alpha, made.beta, False)
        for (tag, share), (other, exact) in zip(found.tags, made.tags, strict=True):
            assert tag == other
            assert abs(share - exact) < 2e-3

    @pytest.mark.parametrize(
        ("changes", "name", "value"),
        [
            ({"alpha": 1.7}, "alpha", 1.0),
            ({"beta": -3}, "beta", 0.0),
            ({"size": 60}, "size", 100),
            ({"size": 55}, "size", 10),  # as near to either: the smaller
            ({"tags": [["jazz", 2], ["nonsense", 9]]}, "tags", (("jazz", 1.0),)),
            ({"tags": [["tea", 1], ["jazz", 3]]}, "tags", (("jazz", 1.0),)),  # two are not offered
            ({"tags": [["jazz", 1], ["jazz", 7]]}, "tags", (("jazz", 1.0),)),
        ],
    )
    def test_what_can_be_mended_is(self, changes: dict[str, Any], name: str, value: object) -> None:
        plan, is_mended = read(**changes)
        assert getattr(plan, name) == value
        assert is_mended

    def test_words_around_it_are_mended_away(self) -> None:
        found = read_plan(f"Sure! {json.dumps(GOOD)} Enjoy.", OFFER)
        assert (found.plan, found.is_mended) == (read().plan, True)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a plan",
            "{}",
            "[1]",
            json.dumps(GOOD | {"more": 1}),
            json.dumps({key: value for key, value in GOOD.items() if key != "beta"}),
            json.dumps(GOOD | {"alpha": "much"}),
            json.dumps(GOOD | {"alpha": True}),
            json.dumps(GOOD | {"beta": float("nan")}),
            json.dumps(GOOD | {"size": 10.0}),
            json.dumps(GOOD | {"encoder": "mamba"}),
            json.dumps(GOOD | {"encoder": ["sasrec"]}),
            json.dumps(GOOD | {"tags": [["nonsense", 1]]}),
            json.dumps(GOOD | {"tags": [["jazz", 0], ["tea", -1]]}),
            json.dumps(GOOD | {"tags": "jazz"}),
            json.dumps(GOOD | {"why": 3}),
        ],
    )
    def test_what_is_no_plan_is_refused(self, text: str) -> None:
        with pytest.raises(PlanError):
            read_plan(text, OFFER)

    def test_without_an_encoder_all_is_semantic(self) -> None:
        assert read(encoder="none").plan.beta == 1
        poor = Offer(TAGS, sizes=(100,), tag_counts=(3,))  # a device that has no graph
        plan = read_plan(json.dumps(GOOD), poor).plan
        assert (plan.encoder, plan.beta) == ("none", 1.0)


def test_an_offer_knows_its_nearest_number_of_tags() -> None:
    assert [OFFER.num_tags(wanted) for wanted in (0, 1, 2, 3, 4, 6, 99)] == [1, 1, 1, 3, 3, 5, 5]


@pytest.mark.parametrize(
    "options", [{"tags": ()}, {"tags": TAGS, "sizes": ()}, {"tags": TAGS, "tag_counts": (0,)}]
)
def test_an_empty_offer_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tags|sizes|tag_counts"):
        Offer(**options)
