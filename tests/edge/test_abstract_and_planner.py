"""Abstracts: what they say and what they never say. Planners: what they make of it."""

from __future__ import annotations

import pytest

from recbench.edge.abstract import MAX_TEXT, Abstracted, ItemWords, Past, TemplateAbstracter, cut, sanitised
from recbench.edge.planner import (
    FixedPlanner,
    RandomPlanner,
    RulePlanner,
    density_of,
    mentions,
    num_telling,
    weighted_tags,
)
from recbench.edge.privacy import Private
from recbench.edge.ranking_plan import Offer, read_plan

DAY = 86_400
WORDS = ItemWords(
    tags=[(), ("jazz", "bar"), ("jazz",), ("tea",), ("books", "tea"), ()],
    titles=["", "Blue Hall, 7 Dock Street", "Music Cellar", "Tea House (Old Town)", "Reading Room", ""],
)
OFFER = Offer(("jazz", "tea", "books", "art"), sizes=(10, 100), tag_counts=(1, 2, 4))


def text_of(*items: int, times: tuple[int, ...] = ()) -> str:
    (found,) = TemplateAbstracter(WORDS).abstract([Private(Past(list(items), list(times)))])
    return found.text


class TestTemplate:
    def test_what_is_usual_and_what_is_new(self) -> None:
        assert text_of(1, 1, 2, 3, 4, 3) == (
            "The history is sparse and broad. Mostly jazz, tea, bar, books. Lately tea, books."
        )

    def test_focused_where_most_items_share_a_tag(self) -> None:
        assert text_of(1, 2, 1, 3).startswith("The history is sparse and focused.")

    def test_lately_is_not_said_where_it_is_the_same(self) -> None:
        assert text_of(2, 2) == "The history is sparse and focused. Mostly jazz."

    @pytest.mark.parametrize(("days", "pace"), [(30, "at a steady pace"), (31, "after a long pause")])
    def test_the_pause_before_the_newest(self, days: int, pace: str) -> None:
        assert pace in text_of(1, 2, times=(5, 5 + days * DAY))

    @pytest.mark.parametrize(
        ("number", "word"), [(9, "sparse"), (10, "moderate"), (50, "moderate"), (51, "dense")]
    )
    def test_how_much_there_is(self, number: int, word: str) -> None:
        assert density_of(text_of(*[1] * number)) == word

    def test_nothing(self) -> None:
        assert text_of() == "The history is empty."
        assert "unknown kind" in text_of(5)

    def test_no_digits_and_no_titles(self) -> None:
        said = text_of(1, 2, 3, 4, times=(1, 2, 3, 4))
        assert not any(character.isdigit() for character in said)
        assert not any(title.partition(",")[0] in said for title in WORDS.titles if title)


class TestSanitised:
    @pytest.mark.parametrize(
        ("query", "left"),
        [
            ("Something like Music Cellar, with tea", "Something like something, with tea"),
            ("like blue hall please", "like something please"),
            ("mail me at ann.b@mail.org about jazz", "mail me at about jazz"),
            ("call +49 170 1234567 for tea", "call for tea"),
            ("my name is Ann Bell and I like tea", "my name is someone and I like tea"),
            ("see https://x.org/a?b=1 for books", "see for books"),
            ("the best of 2014", "the best of"),
        ],
    )
    def test_personal_things_go(self, query: str, left: str) -> None:
        assert sanitised(query, [1, 2], WORDS) == left

    def test_titles_of_others_stay(self) -> None:
        assert sanitised("like Reading Room", [1, 2], WORDS) == "like Reading Room"


@pytest.mark.parametrize(
    ("text", "limit", "left"), [("ab cd ef", 5, "ab cd"), ("ab cd", 4, "ab"), ("äää b", 7, "äää")]
)
def test_cut_keeps_whole_words(text: str, limit: int, left: str) -> None:
    assert cut(text, limit) == left
    assert len(cut("ä" * 5000, MAX_TEXT).encode()) <= MAX_TEXT


class TestReadingAnAbstract:
    def test_mentions_are_whole_words_whatever_their_case(self) -> None:
        assert mentions("TEA and Jazzy books, artful art", OFFER) == ["tea", "books", "art"]

    def test_early_and_repeated_tags_weigh_more(self) -> None:
        found = weighted_tags(Abstracted("books?", "Mostly jazz, tea. Lately jazz."), OFFER, 3)
        assert found == [("books", 1.0), ("jazz", 1 / 2 + 1 / 4), ("tea", 1 / 3)]

    def test_missing_tags_come_with_a_tenth_of_the_least(self) -> None:
        assert weighted_tags(Abstracted("", "tea"), OFFER, 3) == [("tea", 1.0), ("jazz", 0.1), ("books", 0.1)]

    def test_telling_words(self) -> None:
        assert num_telling("Where can I go for jazz and old books?") == 4  # go, jazz, old, books
        assert num_telling("") == 0


class TestPlanners:
    SPARSE = Abstracted("", "The history is sparse. Mostly jazz, tea.")
    DENSE = Abstracted("old books and art", "The history is dense and broad. Mostly jazz.")

    def test_the_rule(self) -> None:
        planner = RulePlanner(betas=(0.7, 0.5, 0.3), sizes=(100, 50, 10), tag_counts=(4, 2, 1))
        sparse, dense = planner.plan([self.SPARSE, self.DENSE], OFFER)
        assert (sparse.alpha, sparse.beta, sparse.size, len(sparse.tags)) == (0.0, 0.7, 100, 4)
        assert (dense.alpha, dense.beta, dense.size, dense.tags) == (0.6, 0.3, 10, (("books", 1.0),))
        assert sparse.encoder == dense.encoder == "sasrec"

    def test_a_graph_for_long_and_tangled_histories(self) -> None:
        offer = Offer(OFFER.tags, sizes=(10,), tag_counts=(1,), encoders=("sasrec", "surge"))
        texts = ("dense and broad", "dense and focused", "moderate and broad", "empty")
        plans = RulePlanner().plan([Abstracted("", f"The history is {text}.") for text in texts], offer)
        assert [plan.encoder for plan in plans] == ["surge", "sasrec", "sasrec", "none"]

    def test_half_the_share_for_a_vague_query(self) -> None:
        queries = ("", "something", "jazz please", "jazz and tea")
        plans = RulePlanner(clear_alpha=0.6).plan([Abstracted(q, "sparse") for q in queries], OFFER)
        assert [plan.alpha for plan in plans] == [0.0, 0.0, 0.3, 0.6]

    def test_fixed_plans_differ_in_tags_alone(self) -> None:
        planner = FixedPlanner(alpha=0.5, beta=0.2, size=10, num_tags=1)
        sparse, dense = planner.plan([self.SPARSE, self.DENSE], OFFER)
        assert (sparse.alpha, dense.alpha) == (0.0, 0.5)  # who asked nothing has no query to weigh
        assert (sparse.tags, dense.tags) == ((("jazz", 1.0),), (("books", 1.0),))
        assert sparse.beta == dense.beta == 0.2

    def test_random_plans_are_valid_repeatable_and_different(self) -> None:
        asked = [Abstracted("", f"The history is sparse. Mostly jazz {number}.") for number in range(200)]
        plans = RandomPlanner(seed=1).plan(asked, OFFER)
        assert plans == RandomPlanner(seed=1).plan(asked, OFFER)
        assert plans != RandomPlanner(seed=2).plan(asked, OFFER)
        assert {plan.size for plan in plans} == {10, 100}
        assert {len(plan.tags) for plan in plans} == {1, 2, 4}
        assert abs(sum(plan.beta for plan in plans) / 200 - 0.5) < 0.1
        assert all(read_plan(plan.text(), OFFER).plan.size == plan.size for plan in plans)

    @pytest.mark.parametrize("planner", [RulePlanner(), FixedPlanner(), RandomPlanner()])
    def test_outcomes_are_counted(self, planner: RulePlanner) -> None:
        planner.plan([self.SPARSE, self.DENSE], OFFER)
        assert planner.outcomes.total() == 2

    def test_shares_outside_0_to_1_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"betas must lie in 0..1, got 2"):
            RulePlanner(betas=(0.1, 2, 0.1))
        with pytest.raises(ValueError, match=r"beta must lie in 0..1, got -1"):
            FixedPlanner(beta=-1)
