"""Adapters: the best abstract by the planner's own likelihood is learnt, and learning lowers the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from tiny_lm import byte_llama

from recbench.edge.abstract import Abstracted, ItemWords, Past
from recbench.edge.adapting import (
    AdapterTraining,
    Lesson,
    abstract_lessons,
    explanation_lessons,
    learn,
    plan_losses,
)
from recbench.edge.agents import (
    LanguageAbstracter,
    LanguagePlanner,
    explain,
    explanation_prompt,
    plan_prompt,
)
from recbench.edge.leaks import LeakDetector
from recbench.edge.ranking_plan import Offer, plan_of
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions, Lora

if TYPE_CHECKING:
    from collections.abc import Sequence

OFFER = Offer(("jazz", "tea", "books"), sizes=(10, 100), tag_counts=(1,))
WORDS = ItemWords([(), ("jazz",), ("tea",)], ["", "Blue Hall Music Cellar", "Tea House"])
DETECTOR = LeakDetector(WORDS.titles, ["", "p1", "p2"], public=["jazz", "tea"])
PASTS = [Past([1, 2], []), Past([2, 2], [])]
GOLD = plan_of(OFFER, alpha=0, weights=[("jazz", 1.0)], size=10, encoder="sasrec", beta=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return byte_llama(tmp_path_factory.mktemp("bytes"))


def planner_of(folder: str) -> LanguagePlanner:
    return LanguagePlanner(lm=LanguageModelOptions(name=folder, max_tokens=3000), batch_size=2)


def test_plan_losses_are_the_means_over_the_tokens_of_the_plan(folder: str) -> None:
    planner = planner_of(folder)
    asked = [Abstracted("", "likes jazz"), Abstracted("tea", "sparse"), Abstracted("", "x")]
    found = plan_losses(planner, asked, [GOLD.text()] * 3, OFFER)
    assert planner.lm is not None
    for one, loss in zip(asked, found, strict=True):
        with torch.no_grad():
            alone = planner.lm.loss([plan_prompt(one, OFFER)], [GOLD.text()], system=planner.system)
        assert loss == pytest.approx(alone.item(), rel=1e-4)


def test_the_abstract_after_which_the_gold_plan_is_likeliest_is_chosen(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = planner_of(folder)
    planner.prepare()
    assert planner.lm is not None
    abstracter = LanguageAbstracter(planner.lm, WORDS, DETECTOR)
    tries = [
        ["likes jazz", "music cellar hall"],
        ["likes tea", "blue hall music"],
        ["Tea and jazz", "likes books"],
    ]

    def write(_: Sequence[Past], *, seed: int, temperature: float) -> list[str]:
        assert temperature == 1.0
        return tries[seed]

    monkeypatch.setattr(abstracter, "write", write)
    monkeypatch.setattr(planner, "plan", lambda asked, _: [GOLD] * len(asked))
    lessons = abstract_lessons(abstracter, planner, PASTS, OFFER, AdapterTraining(num_users=2, num_samples=3))
    candidates = ["likes jazz", "likes tea", "Tea and jazz"]
    losses = plan_losses(planner, [Abstracted("", text) for text in candidates], [GOLD.text()] * 3, OFFER)
    assert lessons[0] == Lesson(abstracter.prompt(PASTS[0]), candidates[losses.index(min(losses))])
    assert len(lessons) == 2
    assert lessons[1].answer in (
        "music cellar hall",
        "blue hall music",
        "likes books",
    )  # none is of its items


def test_what_gives_away_is_never_learnt(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = planner_of(folder)
    planner.prepare()
    assert planner.lm is not None
    abstracter = LanguageAbstracter(planner.lm, WORDS, DETECTOR)
    monkeypatch.setattr(abstracter, "write", lambda pasts, **_: ["hall music cellar"] * len(pasts))
    monkeypatch.setattr(planner, "plan", lambda asked, _: [GOLD] * len(asked))
    lessons = abstract_lessons(abstracter, planner, PASTS, OFFER, AdapterTraining(num_users=2))
    assert [lesson.prompt for lesson in lessons] == [abstracter.prompt(PASTS[1])]  # who never was there


def test_lessons_are_learnt_by_the_adapters_alone(folder: str) -> None:
    lm = LanguageModel(LanguageModelOptions(name=folder, max_tokens=300, lora=Lora(rank=4, dropout=0.0)))
    before = {name: weight.clone() for name, weight in lm.named_parameters()}
    lessons = [Lesson("what?", "jazz and tea"), Lesson("who?", "books"), Lesson("why?", "because")]
    losses = learn(
        lm, lessons, AdapterTraining(num_users=3, num_epochs=12, batch_size=2, lr=0.02), system="s"
    )
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, weight in lm.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name, weight in lm.named_parameters() if weight.requires_grad}
    assert all("lora" in name for name in changed)


def test_one_skill_leaves_the_other_as_it_was(folder: str) -> None:
    options = LanguageModelOptions(name=folder, max_tokens=300, lora=Lora(rank=4, dropout=0.0))
    lm = LanguageModel(options, adapters=("abstract", "explain"))
    before = {name: weight.clone() for name, weight in lm.named_parameters()}
    lessons = [Lesson("what?", "jazz and tea"), Lesson("who?", "books")]
    learn(lm, lessons, AdapterTraining(num_epochs=3, lr=0.02), system="s", adapter="explain")
    changed = {name for name, weight in lm.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all(".explain." in name for name in changed)
    assert lm.adapter == "abstract"


def test_explanations_are_learnt_word_for_word_from_the_teacher(folder: str) -> None:
    teacher = LanguageModel(LanguageModelOptions(name=folder, max_tokens=300))
    titles = [["Blue Hall"], ["Tea House", "Blue Hall"]]
    lessons = explanation_lessons(teacher, [GOLD, GOLD], titles)
    said = explain(teacher, [GOLD, GOLD], titles)
    assert [lesson.answer for lesson in lessons] == said
    assert [lesson.prompt for lesson in lessons] == [explanation_prompt(GOLD, some) for some in titles]


def test_silence_is_not_learnt(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = LanguageModel(LanguageModelOptions(name=folder, max_tokens=300))
    monkeypatch.setattr(teacher, "generate", lambda *_, **__: ["  ", "since you like tea"])
    lessons = explanation_lessons(teacher, [GOLD, GOLD], [["Blue Hall"], ["Tea House"]])
    assert [lesson.answer for lesson in lessons] == ["since you like tea"]


def test_a_model_without_adapters_learns_nothing(folder: str) -> None:
    lm = LanguageModel(LanguageModelOptions(name=folder, max_tokens=300))
    with pytest.raises(ValueError, match=r"no adapters; set device_lm.lora.rank"):
        learn(lm, [Lesson("a", "b")], AdapterTraining(), system="s")


@pytest.mark.parametrize(
    "options", [{"num_users": -1}, {"num_samples": 0}, {"lr": 0.0}, {"temperature": 0.0}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        AdapterTraining(**options)  # type: ignore[arg-type]
