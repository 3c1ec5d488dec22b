"""Language models as agents: whatever they write, what comes out is valid and gives nobody away."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from tiny_lm import byte_llama

from recbench.edge.abstract import Abstracted, ItemWords, Past, TemplateAbstracter
from recbench.edge.agents import LanguageAbstracter, LanguagePlanner, PlanGrammar, explain, plan_prompt
from recbench.edge.leaks import LeakDetector
from recbench.edge.planner import RulePlanner
from recbench.edge.privacy import Private
from recbench.edge.ranking_plan import Offer, plan_of, read_plan
from recbench.nn.grammar import Grammar
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("llguidance")
OFFER = Offer(("jazz", "tea", "books"), sizes=(10, 100), tag_counts=(1, 2), encoders=("sasrec", "surge"))
MANY = Offer(tuple(f"tag {number}" for number in range(30)))
SPARSE = Abstracted("", "The history is sparse. Mostly tea.")
GOOD = plan_of(OFFER, alpha=0, weights=[("jazz", 1.0)], size=10, encoder="sasrec", beta=0.5).text()
MENDABLE = GOOD.replace('"size":10', '"size":11')
WORDS = ItemWords([(), ("jazz",), ("tea",)], ["", "Blue Hall Music Cellar", "Tea House"])
DETECTOR = LeakDetector(WORDS.titles, ["", "p1", "p2"], public=["jazz", "tea"])
PAST = Past([1, 2, 2], [], "tea, ann@mail.org")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelOptions:
    return LanguageModelOptions(name=byte_llama(tmp_path_factory.mktemp("bytes")), max_tokens=3000)


@pytest.fixture(scope="module")
def lm(options: LanguageModelOptions) -> LanguageModel:
    return LanguageModel(options)


class TestGrammar:
    @pytest.mark.parametrize("temperature", [0.0, 2.0])
    def test_a_model_that_knows_nothing_writes_valid_plans(
        self, temperature: float, options: LanguageModelOptions
    ) -> None:
        planner = LanguagePlanner(lm=options, max_new_tokens=400, batch_size=2)
        texts = planner.write([SPARSE] * 3, OFFER, temperature=temperature)  # a batch of two, then one of one
        for text in texts:
            plan = json.loads(text)
            assert list(plan) == ["alpha", "tags", "size", "encoder", "beta", "why"]
            assert plan["size"] in OFFER.sizes
            assert plan["encoder"] in ("sasrec", "surge", "none")
            assert len(plan["tags"]) in OFFER.tag_counts
            assert {tag for tag, _ in plan["tags"]} <= set(OFFER.tags)
            assert 0 <= plan["alpha"] <= 1
            assert not read_plan(text, OFFER).is_mended

    def test_without_it_the_same_model_writes_none(self, options: LanguageModelOptions) -> None:
        planner = LanguagePlanner(lm=options, constrained=False, max_new_tokens=50)
        plans = planner.plan([SPARSE, SPARSE], OFFER)
        assert plans == RulePlanner().plan([SPARSE, SPARSE], OFFER)
        assert planner.outcomes == {"replaced": 2}

    def test_where_all_is_said_nothing_but_the_end_is_allowed(self, lm: LanguageModel) -> None:
        grammar = Grammar(lm.tokens, lambda text: "" if text else "yes")
        (text,) = lm.generate(["say yes"], max_new_tokens=20, grammar=grammar)
        assert text == "yes"

    def test_of_many_tags_none_comes_twice(self, options: LanguageModelOptions) -> None:
        planner = LanguagePlanner(lm=options, max_new_tokens=900, batch_size=4)
        for text in planner.write([SPARSE] * 4, MANY, temperature=2.0):
            tags = [tag for tag, _ in json.loads(text)["tags"]]
            assert len(set(tags)) == len(tags) in MANY.tag_counts
            assert not read_plan(text, MANY).is_mended

    def test_a_grammar_offers_what_the_offer_does(self) -> None:
        follow = PlanGrammar(Offer(("a.", 'the "b"'), sizes=(7,), tag_counts=(1, 5)))
        start = re.compile(follow(""))
        for text in ('{"alpha":0.3,"tags":[["a.",1]', '{"alpha":0,"tags":[["the \\"b\\"",0.586]'):
            assert start.fullmatch(text)
        for text in (
            '{"alpha":0.3,"tags":[["ax",1]',
            '{"alpha":0.35,"tags":[["a.",1]',
            '{"alpha":1,"tags":[["a.",0.9]',
        ):
            assert not start.fullmatch(text)

        begun = '{"alpha":0.3,"tags":[["a.",0.5]'
        then = re.compile(follow(begun))
        assert then.fullmatch(',["the \\"b\\"",0.5]')
        assert not then.fullmatch(',["a.",0.5]')  # said
        rest = '],"size":7,"encoder":"none","beta":1,"why":"so"}'
        assert not then.fullmatch(rest)  # half of the weight is missing

        whole = begun + ',["the \\"b\\"",0.5]'
        then = re.compile(follow(whole))
        assert then.fullmatch(rest)
        assert not then.fullmatch(rest.replace("7", "8"))
        assert then.fullmatch(rest.replace("none", "sasrec").replace('"beta":1', '"beta":0.4'))
        assert not then.fullmatch(rest.replace('"beta":1', '"beta":0.4'))  # nothing else is to be mixed in
        assert follow(whole + rest) == ""
        assert not read_plan(whole + rest, follow.offer).is_mended


class TestOrderOfRepair:
    @pytest.mark.parametrize(
        ("answers", "outcome", "size"),
        [
            ([GOOD], {"read": 1}, 10),
            ([MENDABLE], {"mended": 1}, 10),
            (["nonsense", GOOD], {"asked again": 1}, 10),
            (["nonsense", "nonsense"], {"replaced": 1}, 100),  # the rule's, for a sparse history
        ],
    )
    def test_read_mended_asked_again_replaced(
        self, answers: list[str], outcome: dict[str, int], size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planner, given = LanguagePlanner(), iter(answers)
        asked: list[float] = []

        def write(rows: list[Abstracted], _: Offer, *, temperature: float = 0.0) -> list[str]:
            asked.append(temperature)
            return [next(given) for _ in rows]

        monkeypatch.setattr(planner, "write", write)
        (plan,) = planner.plan([SPARSE], OFFER)
        assert {key: count for key, count in planner.outcomes.items() if count} == outcome
        assert plan.size == size
        assert asked == [0.0, 0.7][: len(answers)]
        assert next(given, None) is None

    def test_only_those_that_failed_are_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        planner = LanguagePlanner()
        other = Abstracted("", "dense")
        answers: Iterator[list[str]] = iter([[GOOD, "nonsense"], [MENDABLE]])
        seen: list[list[Abstracted]] = []

        def write(rows: list[Abstracted], *_: Any, **__: Any) -> list[str]:
            seen.append(rows)
            return next(answers)

        monkeypatch.setattr(planner, "write", write)
        planner.plan([SPARSE, other], OFFER)
        assert seen == [[SPARSE, other], [other]]
        assert planner.outcomes == {"read": 1, "asked again": 1, "replaced": 0}

    def test_the_prompt_has_the_abstract_and_the_offer(self) -> None:
        prompt = plan_prompt(Abstracted("old books", "dense and broad"), OFFER)
        assert all(said in prompt for said in ("old books", "dense and broad", "jazz; tea; books", "10, 100"))


class TestAbstracter:
    def of(
        self, lm: LanguageModel, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Abstracted, dict[str, int]]:
        abstracter = LanguageAbstracter(lm, WORDS, DETECTOR)
        monkeypatch.setattr(abstracter.lm, "generate", lambda *_, **__: [text])
        (found,) = abstracter.abstract([Private(PAST)])
        return found, dict(abstracter.outcomes)

    def test_a_good_summary_is_sent(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        found, outcomes = self.of(lm, "Sparse; likes jazz and tea.", monkeypatch)
        assert found == Abstracted("tea,", "Sparse; likes jazz and tea.")
        assert outcomes == {"written": 1}

    @pytest.mark.parametrize("text", ["", "1 2 3", "hall music cellar fan", "has tea house"])
    def test_what_gives_away_or_says_nothing_is_replaced(
        self, text: str, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, outcomes = self.of(lm, text, monkeypatch)
        assert [found] == TemplateAbstracter(WORDS).abstract([Private(PAST)])
        assert outcomes == {"replaced": 1}

    def test_personal_things_are_taken_out(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        found, outcomes = self.of(lm, "Likes tea, writes to ann@mail.org.", monkeypatch)
        assert found.text == "Likes tea, writes to"
        assert outcomes == {"written": 1}

    def test_the_prompt_shows_the_newest_items(self, lm: LanguageModel) -> None:
        prompt = LanguageAbstracter(lm, WORDS, DETECTOR).prompt(Past([1] + [2] * 10, []))
        assert prompt.count("Tea House (tea)") == 10
        assert "Blue Hall" not in prompt
        assert "it has 11 entries" in prompt

    def test_whatever_a_model_writes_passes_the_detector(self, lm: LanguageModel) -> None:
        abstracter = LanguageAbstracter(lm, WORDS, DETECTOR, max_new_tokens=40, temperature=1.5)
        for one in abstracter.abstract([Private(PAST)] * 8):
            assert DETECTOR.findings(one.text, PAST.items) == []
            assert one.text
        assert abstracter.outcomes.total() == 8


def test_explanations_are_written_from_plan_and_titles(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(lm, "generate", lambda prompts, **_: seen.extend(prompts) or ["why"] * len(prompts))
    plan = plan_of(OFFER, alpha=0, weights=[("jazz", 1.0)], size=10, encoder="sasrec", beta=0.2)
    assert explain(lm, [plan], [["Blue Hall", "Tea House"]]) == ["why"]
    assert "Blue Hall; Tea House" in seen[0]
    assert "among: jazz" in seen[0]
    assert "did lately" in seen[0]
