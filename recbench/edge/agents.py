"""Language models on either side: CDA4Rec's planner in the cloud, abstracts and explanations on the device.

Prompts ask for what the paper's ask for (arXiv 2509.01551, Fig. 3 to 5), in words of our own. Whatever a
model writes is checked before it is used: a plan is read, mended, asked for once more, or made by rule; an
abstract that gives something away is replaced by the template. How often is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from recbench.edge.abstract import (
    MAX_TEXT,
    Abstracted,
    Abstracter,
    ItemWords,
    Past,
    TemplateAbstracter,
    cut,
    sanitised,
)
from recbench.edge.planner import Planner, RulePlanner
from recbench.edge.ranking_plan import MAX_WHY, PlanError, Read, read_plan
from recbench.nn.grammar import Grammar, one_of
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbench.edge.leaks import LeakDetector
    from recbench.edge.privacy import Private
    from recbench.edge.ranking_plan import Offer, RankingPlan

_SHOWN_ITEMS = 10  # newest ones, in a prompt on the device
_PLANNER = (
    "You plan how a recommendation request is worked on. You see a short description of a user, never the "
    "items. Answer with one JSON object and nothing else."
)
_ABSTRACTER = (
    "You describe a user to a recommender without giving the user away. Never name an item, a brand, a "
    "number, a person or a place. Write one or two plain sentences."
)
EXPLAINER = (
    "You explain a recommendation to the user in one or two friendly sentences. Mention kinds of things the "
    "user likes, not technical terms."
)


class LanguagePlanner(Planner):
    """A language model in the cloud plans (Fig. 4), zero-shot; what it writes badly the rule replaces.

    Args:
        lm: which one.
        constrained: whether a grammar lets through nothing but JSON within the offer.
        max_new_tokens: of a plan.
        batch_size: requests at once.
    """

    system: ClassVar[str] = _PLANNER

    def __init__(
        self,
        *,
        lm: LanguageModelOptions = LanguageModelOptions(max_tokens=1024),
        constrained: bool = True,
        max_new_tokens: int = 320,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        self.lm_options, self.constrained = lm, constrained
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.fallback = RulePlanner()
        self.lm: LanguageModel | None = None

    def prepare(self) -> None:
        """Load the model, unless it is there, and count from zero."""
        super().prepare()
        self.lm = self.lm or LanguageModel(self.lm_options)

    def plan(self, asked: Sequence[Abstracted], offer: Offer) -> list[RankingPlan]:
        """One each; outcomes are `read`, `mended`, `asked again`, `replaced`."""
        texts = self.write(asked, offer)
        plans = [self._read(text, offer) for text in texts]
        missing = [row for row, plan in enumerate(plans) if plan is None]
        again = self.write([asked[row] for row in missing], offer, temperature=0.7) if missing else []
        for row, text in zip(missing, again, strict=True):
            plans[row] = self._read(text, offer, instead="asked again")
        by_rule = [row for row, plan in enumerate(plans) if plan is None]
        found = self.fallback.plan([asked[row] for row in by_rule], offer)
        self.outcomes["replaced"] += len(by_rule)
        replaced = dict(zip(by_rule, found, strict=True))
        return [plan or replaced[row] for row, plan in enumerate(plans)]

    def write(self, asked: Sequence[Abstracted], offer: Offer, *, temperature: float = 0.0) -> list[str]:
        """What the model writes for each abstract, unread."""
        if self.lm is None:
            self.prepare()
        assert self.lm is not None
        grammar = Grammar(self.lm.tokens, PlanGrammar(offer)) if self.constrained else None
        return self.lm.generate(
            [plan_prompt(abstract, offer) for abstract in asked],
            system=self.system,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            batch_size=self.batch_size,
            grammar=grammar,
        )

    def _read(self, text: str, offer: Offer, *, instead: str = "") -> RankingPlan | None:
        try:
            found: Read = read_plan(text, offer)
        except PlanError:
            return None
        self.outcomes[instead or ("mended" if found.is_mended else "read")] += 1
        return found.plan


def plan_prompt(abstract: Abstracted, offer: Offer) -> str:
    """What a planner is asked."""
    sizes, counts = (", ".join(map(str, numbers)) for numbers in (offer.sizes, offer.counts()))
    return (
        f"Tags: {'; '.join(offer.tags)}.\n"
        f"Decide:\n"
        f"alpha, 0 to 1: how much the question counts against the behaviour; high if it is clear, 0 if there "
        f"is none.\n"
        f"tags: {counts} tags to search in, each with a weight; few if the interest is focused.\n"
        f"size: {sizes} candidates; few if the interest is clear and focused.\n"
        f"encoder: sasrec for plain sequences, surge for long and tangled ones, none without a history.\n"
        f"beta, 0 to 1: how much words count against the sequence of actions; high if the history is sparse, "
        f"low if it is dense.\n"
        f"why: your reason, in a few words.\n"
        f"The user asks: {abstract.query or 'nothing in words'}\n"
        f"The user's behaviour: {abstract.text}"
    )


class PlanGrammar:
    """How a plan within the offer goes on, part by part, so that it is valid as it is written.

    A part ends with a tag and its weight. No tag comes twice; the weights are one of three lists for each
    number of tags, heavy ones first and with a sum of 1; shares are tenths.

    Args:
        offer: what there is.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.weights = [weights for count in offer.counts() for weights in _weight_lists(count)]
        share = one_of(f"{tenth / 10:g}" for tenth in range(11))
        self._start = rf'\{{"alpha":{share},"tags":\['
        mixed = ['"none","beta":1']  # a history that nothing reads counts for nothing
        mixed += [f'"{encoder}","beta":{share}' for encoder in offer.encoders if encoder != "none"]
        self._end = (
            rf'\],"size":{one_of(map(str, offer.sizes))},"encoder":({"|".join(mixed)}),'
            rf'"why":"[^"\\\x00-\x1f]{{0,{MAX_WHY // 2}}}"\}}'
        )

    def __call__(self, text: str) -> str:
        """What may follow, as a regular expression; empty after a whole plan."""
        if text.endswith("}"):
            return ""
        said = dict(json.loads(text + "]}")["tags"]) if text else {}
        chosen, place = tuple(said.values()), len(said)
        fitting = [weights for weights in self.weights if weights[:place] == chosen]
        more = dict.fromkeys(f"{weights[place]:g}" for weights in fitting if len(weights) > place)
        tags = one_of(json.dumps(tag, ensure_ascii=False) for tag in self.offer.tags if tag not in said)
        pair = rf"\[{tags},{one_of(more)}\]"
        if not said:
            return self._start + pair
        ways = [f",{pair}"] if more else []
        ways += [self._end] if chosen in fitting else []
        return f"({'|'.join(ways)})"


def _weight_lists(count: int) -> list[tuple[float, ...]]:
    """Even weights, and such that fall with the root of the place and with the place, as the rule's do."""
    found = []
    for fall in (0.0, 0.5, 1.0):
        raw = [place**-fall for place in range(1, count + 1)]
        found.append(tuple(round(weight / sum(raw), 3) for weight in raw))
    return list(dict.fromkeys(found))


class LanguageAbstracter(Abstracter):
    """A small language model on the device writes the summary (Fig. 3), a rule takes out what is personal.

    Attributes:
        outcomes: `written`, or `replaced` by the template since something was given away or nothing said.

    Args:
        lm: on the device.
        words: of the items.
        detector: what must not be said.
        max_new_tokens: of a summary.
        temperature: 0 for the likeliest words.
        batch_size: users at once; on a device there is one.
        adapter: of the model, which writes summaries; empty for the model as it is.
    """

    system: ClassVar[str] = _ABSTRACTER

    def __init__(
        self,
        lm: LanguageModel,
        words: ItemWords,
        detector: LeakDetector,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        batch_size: int = 8,
        adapter: str = "",
    ) -> None:
        self.lm, self.words, self.detector, self.adapter = lm, words, detector, adapter
        self.max_new_tokens, self.temperature, self.batch_size = max_new_tokens, temperature, batch_size
        self.template = TemplateAbstracter(words, detector)
        self.outcomes: Counter[str] = Counter()

    def abstract(self, pasts: Sequence[Private[Past]]) -> list[Abstracted]:
        """The template's query, and a summary that is the model's own or the template's."""
        return self.checked(pasts, self.write([past.reveal() for past in pasts]))

    def checked(self, pasts: Sequence[Private[Past]], written: Sequence[str]) -> list[Abstracted]:
        """What may be sent of what the model has written of each; the template's where it is nothing."""
        safe = self.template.abstract(pasts)
        return [
            self._checked(past.reveal(), text, spare)
            for past, text, spare in zip(pasts, written, safe, strict=True)
        ]

    def write(self, pasts: Sequence[Past], *, seed: int = 0, temperature: float | None = None) -> list[str]:
        """What the model says of each, unchecked; at its own temperature unless another is given."""
        with self.lm.adapted_by(self.adapter):
            return self.lm.generate(
                [self.prompt(past) for past in pasts],
                system=self.system,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature if temperature is None else temperature,
                seed=seed,
                batch_size=self.batch_size,
            )

    def prompt(self, past: Past) -> str:
        """What the model is asked; it never leaves the device."""
        seen = [self._described(item) for item in past.items[-_SHOWN_ITEMS:]]
        return (
            f"The user asks: {past.query or 'nothing'}\n"
            f"The user's history, oldest first: {'; '.join(seen) or 'nothing'}\n"
            f"Say whether the history is sparse, moderate or dense (it has {len(past.items)} entries), "
            f"whether it is focused or broad, and which kinds of things the user likes, in the long run and "
            f"lately."
        )

    def sound(self, past: Past, text: str) -> str:
        """`text` without what is personal; empty if it names or gives away an item, or says nothing.

        What recites the history is not mended: without its titles it still tells their order and kinds.
        """
        plain = cut(sanitised(text, (), self.words), MAX_TEXT)
        names_an_item = sanitised(plain, past.items, self.words) != plain
        is_safe = not names_an_item and not self.detector.findings(plain, past.items, past.times_s)
        return plain if is_safe and any(map(str.isalpha, plain)) else ""

    def _checked(self, past: Past, text: str, spare: Abstracted) -> Abstracted:
        plain = self.sound(past, text)
        self.outcomes["written" if plain else "replaced"] += 1
        return Abstracted(spare.query, plain) if plain else spare

    def _described(self, item: int) -> str:
        title, tags = self.words.titles[item], ", ".join(self.words.tags[item])
        return f"{title} ({tags})" if title and tags else title or tags or "something"


def explanation_prompt(plan: RankingPlan, titles: Sequence[str]) -> str:
    """What a model on the device is asked for an explanation (Fig. 5)."""
    tags = ", ".join(tag for tag, _ in plan.tags)
    source = "what the user asked and likes in general" if plan.beta >= 0.5 else "what the user did lately"
    return (
        f"Recommended: {'; '.join(titles)}.\n"
        f"They were looked for among: {tags}.\n"
        f"What counted most: {source}.\n"
        f"Tell the user why these were recommended."
    )


def explain(
    lm: LanguageModel, plans: Sequence[RankingPlan], titles: Sequence[Sequence[str]], *, adapter: str = ""
) -> list[str]:
    """Explanations that a model writes; those of a device stay there.

    Args:
        lm: writes.
        plans: (B,) how the requests were worked on.
        titles: (B,) what was recommended.
        adapter: of the model, which writes explanations; empty for the model as it is.
    """
    prompts = [explanation_prompt(plan, some) for plan, some in zip(plans, titles, strict=True)]
    with lm.adapted_by(adapter):
        return lm.generate(prompts, system=EXPLAINER, max_new_tokens=64)
