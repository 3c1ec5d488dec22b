"""Planners: what in the cloud turns an abstract into a plan (CDA4Rec, arXiv 2509.01551, Sec. III-C).

A planner reads nothing but the abstract. The rule is the default, deterministic, and what is fallen back to;
fixed and random plans tell what planning is worth. Imports no torch.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeVar

from recbench.edge.dice import throw
from recbench.edge.ranking_plan import Encoder, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbench.edge.abstract import Abstracted
    from recbench.edge.ranking_plan import Offer, RankingPlan

Density = Literal["sparse", "moderate", "dense"]
_T = TypeVar("_T")
_FEW_WORDS = frozenset(  # of which a query may have many and say nothing
    re.findall(
        r"\w+",
        "a an and any are at be but can could for from get give good have i im in is it like looking me my "
        "near need of on or place please recommend see some something that the there this to want what where "
        "which with would you",
    )
)


class Planner(ABC):
    """Decides how requests are worked on.

    Attributes:
        outcomes: how plans came about so far.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def prepare(self) -> None:
        """Load what planning needs, and count from zero; called before the first plan."""
        self.outcomes.clear()

    @abstractmethod
    def plan(self, asked: Sequence[Abstracted], offer: Offer) -> list[RankingPlan]:
        """A plan for each, within the offer."""


class RulePlanner(Planner):
    """By three questions: is there a clear query, how long is the history, what tags are spoken of.

    The sparser the history the more the semantic vector counts and the wider the candidates are cast. What
    the numbers should be on a data set is found on validation.

    Args:
        betas: share of the semantic vector for sparse, moderate and dense histories.
        sizes: candidates for these; the nearest offered count.
        tag_counts: tags for these; the nearest offered count.
        clear_alpha: share of a query of two or more telling words; a vaguer one has half of it.
    """

    def __init__(
        self,
        *,
        betas: tuple[float, float, float] = (0.7, 0.5, 0.3),
        sizes: tuple[int, int, int] = (2000, 1000, 500),
        tag_counts: tuple[int, int, int] = (10, 5, 3),
        clear_alpha: float = 0.6,
    ) -> None:
        super().__init__()
        _check_shares("betas", *betas)
        _check_shares("clear_alpha", clear_alpha)
        self.betas, self.sizes, self.tag_counts, self.clear_alpha = betas, sizes, tag_counts, clear_alpha

    def plan(self, asked: Sequence[Abstracted], offer: Offer) -> list[RankingPlan]:
        """One each; of equal abstracts the same."""
        return [self._of(abstract, offer) for abstract in asked]

    def _of(self, abstract: Abstracted, offer: Offer) -> RankingPlan:
        self.outcomes["rule"] += 1
        density = density_of(abstract.text)
        row = ("sparse", "moderate", "dense").index(density)
        clarity = num_telling(abstract.query)
        alpha = self.clear_alpha * min(1.0, clarity / 2)
        return plan_of(
            offer,
            alpha=alpha,
            weights=weighted_tags(abstract, offer, offer.num_tags(self.tag_counts[row])),
            size=min(offer.sizes, key=lambda size: (abs(size - self.sizes[row]), size)),
            encoder="none"
            if "history is empty" in abstract.text
            else self._encoder(abstract, density, offer),
            beta=self.betas[row],
            why=f"{density} history, {'clear' if clarity > 1 else 'vague' if clarity else 'no'} query",
        )

    def _encoder(self, abstract: Abstracted, density: Density, offer: Offer) -> Encoder:
        """The graph for long, unfocused histories, if the device has one; none where there is no history."""
        if "empty" in abstract.text:
            return "none"
        is_tangled = density == "dense" and "focused" not in abstract.text
        return "surge" if is_tangled and "surge" in offer.encoders else offer.encoders[0]


class FixedPlanner(Planner):
    """The same plan for everybody but for the tags, which are those spoken of; the paper's v1 to v7.

    Args:
        alpha: share of the query, where there is one.
        beta: share of the semantic vector.
        size: candidates; the nearest offered count.
        num_tags: tags; the nearest offered count.
        encoder: reads the history.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        size: int = 5000,
        num_tags: int = 20,
        encoder: Encoder = "sasrec",
    ) -> None:
        super().__init__()
        _check_shares("alpha", alpha)
        _check_shares("beta", beta)
        self.alpha, self.beta, self.size, self.num_tags, self.encoder = alpha, beta, size, num_tags, encoder

    def plan(self, asked: Sequence[Abstracted], offer: Offer) -> list[RankingPlan]:
        """One each."""
        self.outcomes["fixed"] += len(asked)
        return [
            plan_of(
                offer,
                alpha=self.alpha if abstract.query else 0.0,
                weights=weighted_tags(abstract, offer, offer.num_tags(self.num_tags)),
                size=min(offer.sizes, key=lambda size: (abs(size - self.size), size)),
                encoder=self.encoder,
                beta=self.beta,
            )
            for abstract in asked
        ]


class RandomPlanner(Planner):
    """Any valid plan, drawn by what the abstract says and the seed: the least that a planner must beat.

    Args:
        seed: decides the draws.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def plan(self, asked: Sequence[Abstracted], offer: Offer) -> list[RankingPlan]:
        """One each."""
        self.outcomes["random"] += len(asked)
        return [self._of(abstract, offer) for abstract in asked]

    def _of(self, abstract: Abstracted, offer: Offer) -> RankingPlan:
        key = f"{abstract.query}\n{abstract.text}".encode()
        first, second = (throw(self.seed, name, key) for name in (b"plan", b"tags"))
        order = sorted(offer.tags, key=lambda tag: throw(self.seed, b"tag", key + tag.encode()).a)
        num_tags = offer.num_tags(_pick(offer.tag_counts, second.a))
        return plan_of(
            offer,
            alpha=first.a if abstract.query else 0.0,
            weights=[(tag, 1 / (place + 1)) for place, tag in enumerate(order[:num_tags])],
            size=_pick(offer.sizes, second.b),
            encoder=_pick(offer.encoders, throw(self.seed, b"encoder", key).a),
            beta=first.b,
        )


def weighted_tags(abstract: Abstracted, offer: Offer, number: int) -> list[tuple[str, float]]:
    """The `number` tags that an abstract speaks of most; where it names fewer, the broadest of the others.

    A mention counts for one over its place among all mentions, the query's before those of the text, so what
    is named early and more than once leads. Tags that are not named have a tenth of the last one's weight.
    """
    found: dict[str, float] = {}
    for place, tag in enumerate((*mentions(abstract.query, offer), *mentions(abstract.text, offer)), start=1):
        found[tag] = found.get(tag, 0.0) + 1 / place
    ranked = sorted(found.items(), key=lambda pair: -pair[1])[:number]
    spare = 0.1 * (ranked[-1][1] if ranked else 1.0)
    rest = [tag for tag in offer.tags if tag not in dict(ranked)][: number - len(ranked)]
    return [*ranked, *((tag, spare) for tag in rest)]


def mentions(text: str, offer: Offer) -> list[str]:
    """The tags that `text` names, in its order, however they are spelt; of overlapping ones the longest."""
    by_name = {tag.casefold(): tag for tag in offer.tags}
    return [by_name[match.group().casefold()] for match in _pattern(offer).finditer(text)]


def density_of(text: str) -> Density:
    """Which word for the amount of history comes first in `text`; moderate if none does."""
    match = re.search(r"\b(sparse|empty|moderate|dense)\b", text, re.IGNORECASE)
    word = match.group().lower() if match else "moderate"
    return "sparse" if word in ("sparse", "empty") else "dense" if word == "dense" else "moderate"


def num_telling(query: str) -> int:
    """Words of a query that say what is wanted."""
    return sum(word not in _FEW_WORDS for word in re.findall(r"[^\W\d_]+", query.lower()))


_PATTERNS: dict[tuple[str, ...], re.Pattern[str]] = {}


def _pattern(offer: Offer) -> re.Pattern[str]:
    """Finds any tag as whole words; made once per vocabulary."""
    if offer.tags not in _PATTERNS:
        names = "|".join(re.escape(tag) for tag in sorted(offer.tags, key=len, reverse=True))
        _PATTERNS[offer.tags] = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)
    return _PATTERNS[offer.tags]


def _pick(choices: Sequence[_T], draw: float) -> _T:
    return choices[min(len(choices) - 1, int(draw * len(choices)))]


def _check_shares(name: str, *values: float) -> None:
    for value in values:
        if not 0 <= value <= 1 or math.isnan(value):
            raise ValueError(f"{name} must lie in 0..1, got {value:g}")
