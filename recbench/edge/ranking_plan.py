"""RankingPlan: what CDA4Rec's cloud decides for a request, read strictly and mended in a fixed order.

On the wire a plan is JSON (arXiv 2509.01551 shows five lines of free text, Fig. 4):

    {"alpha": 0.0, "tags": [["jazz", 0.6], ["tea", 0.4]], "size": 500, "encoder": "sasrec", "beta": 0.4,
     "why": "sparse history, no query"}

What a language model wrote is read as it is, or mended (shares into 0..1, unknown tags left out, a size or a
number of tags that is not offered replaced by the nearest), or refused. Imports no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

Encoder = Literal["sasrec", "surge", "none"]
SIZES, TAG_COUNTS = (500, 1000, 2000, 5000), (3, 5, 10, 20)  # Sec. III-C
MAX_WHY = 200  # characters
_ROUNDING = 0.01  # of shares written with three places, twenty at most
_KEYS = ("alpha", "tags", "size", "encoder", "beta", "why")


class PlanError(ValueError):
    """A text that is no plan."""


@dataclass(frozen=True)
class Offer:
    """What a plan may choose from, on one catalogue.

    Args:
        tags: names of the tag groups.
        sizes: numbers of candidates.
        tag_counts: numbers of tags; those that are more than there are tags count as all of them.
        encoders: of the history, that the device has; `none` may always be chosen.
    """

    tags: tuple[str, ...]
    sizes: tuple[int, ...] = SIZES
    tag_counts: tuple[int, ...] = TAG_COUNTS
    encoders: tuple[Encoder, ...] = ("sasrec",)

    def __post_init__(self) -> None:
        if not self.tags:
            raise ValueError("a plan chooses among tags, and there are none")
        for name, counts in (("sizes", self.sizes), ("tag_counts", self.tag_counts)):
            if not counts or min(counts) < 1:
                raise ValueError(f"{name} must be one or more counts of at least 1, got {counts}")

    def num_tags(self, wanted: int) -> int:
        """The offered number of tags that is nearest to `wanted`."""
        return min(self.counts(), key=lambda count: (abs(count - wanted), count))

    def counts(self) -> tuple[int, ...]:
        """The numbers of tags, none above what there are, each once."""
        return tuple(sorted({min(count, len(self.tags)) for count in self.tag_counts}))


@dataclass(frozen=True)
class RankingPlan:
    """How one request is worked on.

    Args:
        alpha: share of the query in the semantic vector, the behaviour has the rest (Eq. 2).
        tags: groups to retrieve from and their shares, which sum to 1.
        size: candidates in all.
        encoder: reads the history on the device.
        beta: share of the semantic vector in the ranking, the encoder has the rest (Eq. 5).
        why: one line for people.
    """

    alpha: float
    tags: tuple[tuple[str, float], ...]
    size: int
    encoder: Encoder
    beta: float
    why: str = field(default="", compare=False)

    def text(self) -> str:
        """One line of JSON, shares of tags to three places."""
        content = {
            "alpha": self.alpha,
            "tags": [[tag, round(share, 3)] for tag, share in self.tags],
            "size": self.size,
            "encoder": self.encoder,
            "beta": self.beta,
            "why": self.why,
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    def quotas(self) -> tuple[int, ...]:
        """Candidates per tag: the shares of `size`, by largest remainder."""
        exact = [share * self.size for _, share in self.tags]
        counts = [math.floor(value) for value in exact]
        by_rest = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for i in by_rest[: self.size - sum(counts)]:
            counts[i] += 1
        return tuple(counts)


class Read(NamedTuple):
    """A plan that was read, and whether it had to be mended first."""

    plan: RankingPlan
    is_mended: bool


def plan_of(
    offer: Offer,
    *,
    alpha: float,
    weights: Sequence[tuple[str, float]],
    size: int,
    encoder: Encoder,
    beta: float,
    why: str = "",
) -> RankingPlan:
    """A plan within the offer: shares of two decimals, the weights of the tags made to sum to 1.

    Args:
        offer: what there is.
        alpha: share of the query.
        weights: tags, all of the offer, and their weights above 0.
        size: an offered number of candidates.
        encoder: taken as `none` if the device does not have it, and then the vector is all semantic.
        beta: share of the semantic vector.
        why: cut to one line of `MAX_WHY` characters.
    """
    total = sum(weight for _, weight in weights)
    tags = tuple((tag, weight / total) for tag, weight in weights)
    encoder = encoder if encoder in offer.encoders else "none"
    beta = 1.0 if encoder == "none" else round(beta, 2)
    return RankingPlan(round(alpha, 2), tags, size, encoder, beta, " ".join(why.split())[:MAX_WHY])


def read_plan(text: str, offer: Offer) -> Read:
    """The plan that `text` holds.

    Args:
        text: JSON, perhaps with something before and after it.
        offer: what it may choose from.

    Raises:
        PlanError: there is no plan in it that could be mended: no JSON object, a key missing or unknown,
            a value of another type, or no tag that exists.
    """
    content = _content(text)
    alpha, beta = (_number(content, name) for name in ("alpha", "beta"))
    size, encoder, why = content["size"], content["encoder"], content["why"]
    if type(size) is not int or not isinstance(why, str):
        raise PlanError("size must be a whole number and why a text")
    if encoder not in get_args(Encoder):
        raise PlanError(f"encoder must be one of {', '.join(get_args(Encoder))}, got {encoder!r:.40}")
    weights = _weights(content["tags"], offer)
    kept = weights[: offer.num_tags(len(weights))]
    plan = plan_of(
        offer,
        alpha=min(1.0, max(0.0, alpha)),
        weights=kept,
        size=min(offer.sizes, key=lambda offered: (abs(offered - size), offered)),
        encoder=encoder,
        beta=min(1.0, max(0.0, beta)),
        why=why,
    )
    return Read(plan, is_mended=not _is_exact(text, plan, content))


def _content(text: str) -> dict[str, Any]:
    """The outermost JSON object, with the keys of a plan."""
    start, end = text.find("{"), text.rfind("}")
    try:
        content = json.loads(text[start : end + 1])
    except ValueError:
        raise PlanError(f"not JSON: {text!r:.60}") from None
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        raise PlanError(f"a plan has the keys {', '.join(_KEYS)}, got {text!r:.60}")
    return content


def _number(content: dict[str, Any], name: str) -> float:
    value = content[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise PlanError(f"{name} must be a number, got {value!r:.40}")
    return float(value)


def _weights(tags: Any, offer: Offer) -> list[tuple[str, float]]:
    """The tags that exist, with a weight above 0, each once; heavy ones first."""
    found: dict[str, float] = {}
    for pair in tags if isinstance(tags, list) else ():
        match pair:
            case [str(tag), int() | float() as weight] if tag in offer.tags and 0 < weight < math.inf:
                found.setdefault(tag, float(weight))
            case _:
                continue
    if not found:
        raise PlanError("none of the tags exists with a weight above 0")
    return sorted(found.items(), key=lambda pair: -pair[1])


def _is_exact(text: str, plan: RankingPlan, content: dict[str, Any]) -> bool:
    """Whether the text says the plan and nothing else; shares may be rounded."""
    said = content["tags"]
    same_tags = [pair[0] for pair in said] == [tag for tag, _ in plan.tags]
    is_whole = same_tags and abs(sum(pair[1] for pair in said) - 1) <= _ROUNDING
    same_rest = all(content[name] == getattr(plan, name) for name in ("alpha", "size", "encoder", "beta"))
    return text.strip()[:1] == "{" and text.strip()[-1:] == "}" and is_whole and same_rest
