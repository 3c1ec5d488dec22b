"""What a device says of its user without saying what the user took: CDA4Rec's abstract (arXiv 2509.01551).

An abstract has two parts, a query with everything personal taken out and a summary of behaviour: how much
there is, how focused it is, what it is about in the long run and lately. It names kinds of items that many
items are of, never an item, has no digits but those in a kind's name, and counts nothing exactly.
`TemplateAbstracter` writes it by rule and is always safe; what a language model writes instead passes
`leaks`, or the template is sent. Imports no torch.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from recbench.edge.wire import MessageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from recbench.data.catalog import Catalog
    from recbench.edge.leaks import LeakDetector
    from recbench.edge.privacy import Private

MIN_ITEMS = 20  # a kind of which there are fewer items says too much
MAX_QUERY, MAX_TEXT = 256, 1024  # bytes
SHOWN, SHOWN_LATELY, LATELY = 5, 3, 3  # tags in the long run, tags of the newest items, how many these are
_DAY_S = 86_400
_PERSONAL = re.compile(
    r"[\w.+-]+@[\w-]+\.\w[\w.-]*"  # mail
    r"|https?://\S+|www\.\S+"
    r"|\+?\d[\d\s().-]{6,}\d"  # phone, card
    r"|@\w+"
    r"|\b\d+\s+(?:[A-Z]\w+\s+){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Square|Drive|Way)\b",
)
_NAMED = re.compile(r"\b((?i:my name is|this is|i am|i'm|call me)\s+)[A-Z][\w'-]+(?:\s+[A-Z][\w'-]+)*")


class Past(NamedTuple):
    """What only the device knows of its user.

    Args:
        items: indices, oldest first.
        times_s: unix seconds of each; empty where the data has no times.
        query: what the user asked for in words; empty if nothing.
    """

    items: list[int]
    times_s: list[int]
    query: str = ""


@dataclass(frozen=True, slots=True)
class Abstracted:
    """An abstract.

    Args:
        query: what is wanted, without what is personal; empty where nothing was asked.
        text: what the user is like.
    """

    query: str
    text: str


class ItemWords:
    """What a device knows of the items it has seen.

    Args:
        tags: per item, from item 0 (padding), the tags that may be said of it.
        titles: per item, from item 0, its title; empty where it has none.
    """

    def __init__(self, tags: Sequence[tuple[str, ...]], titles: Sequence[str]) -> None:
        self.tags, self.titles = tags, titles

    @classmethod
    def of(cls, catalog: Catalog, *, groups: Iterable[str] = ()) -> ItemWords:
        """Tags that `MIN_ITEMS` items have, or that a group is named after; other tags are never said.

        Raises:
            LookupError: the data set has no tags.
        """
        tags, may_say = catalog.tags(), public_tags(catalog, groups)
        spoken = [tuple(tag for tag in dict.fromkeys(some) if tag in may_say) for some in tags]
        return cls([(), *spoken], titles_from_0(catalog))


def public_tags(catalog: Catalog, groups: Iterable[str] = ()) -> frozenset[str]:
    """What may be said of a user: `groups`, and the tags, if there are any, that `MIN_ITEMS` items have."""
    tags = catalog.tags() if "tags" in catalog.features else []
    count = Counter(tag for some in tags for tag in set(some))
    return frozenset(groups).union(tag for tag, num_items in count.items() if num_items >= MIN_ITEMS)


def titles_from_0(catalog: Catalog) -> list[str]:
    """Titles by item index, from item 0 (no item); empty where there is none."""
    titles = catalog.titles() if "title" in catalog.features else [None] * catalog.num_items
    return ["", *(title or "" for title in titles)]


class Abstracter(ABC):
    """Writes abstracts; the only one on a device that reads the past."""

    @abstractmethod
    def abstract(self, pasts: Sequence[Private[Past]]) -> list[Abstracted]:
        """One each."""


class TemplateAbstracter(Abstracter):
    """By rule; the same past gives the same abstract.

    Args:
        words: of the items.
        detector: finds what a query says of the history beyond whole titles; None where queries are none.
    """

    def __init__(self, words: ItemWords, detector: LeakDetector | None = None) -> None:
        self.words, self.detector = words, detector

    def abstract(self, pasts: Sequence[Private[Past]]) -> list[Abstracted]:
        """A sentence or two each."""
        return [self._of(private.reveal()) for private in pasts]

    def _of(self, past: Past) -> Abstracted:
        query = sanitised(past.query, past.items, self.words)
        if query and self.detector is not None:
            query = self.detector.without(query, past.items, past.times_s)
        return Abstracted(cut(query, MAX_QUERY), self._text(past))

    def _text(self, past: Past) -> str:
        if not past.items:
            return "The history is empty."
        tags = [self.words.tags[item] for item in past.items]
        count = Counter(tag for some in tags for tag in some)
        usual = _most(count, SHOWN)
        lately = _most(Counter(tag for some in tags[-LATELY:] for tag in some), SHOWN_LATELY)
        parts = [f"The history is {density(len(past.items))} and {_focus(tags, usual)}{_pace(past.times_s)}."]
        if usual:
            parts.append(f"Mostly {_listed(usual)}.")
        if lately and lately != usual[: len(lately)]:
            parts.append(f"Lately {_listed(lately)}.")
        return cut(" ".join(parts), MAX_TEXT)


def density(num_items: int) -> str:
    """How much there is to go by, in a word: sparse below 10 interactions, dense above 50."""
    return "sparse" if num_items < 10 else "moderate" if num_items <= 50 else "dense"


def sanitised(text: str, items: Sequence[int], words: ItemWords) -> str:
    """`text` without addresses, numbers, names that people give themselves, and titles of the history.

    Args:
        text: what the user asked for, or what a model says of the user.
        items: the history, whose titles must not be said.
        words: has the titles.
    """
    if not text:  # as a rule; making a pattern of each title takes most of a request's time
        return ""
    text = _NAMED.sub(r"\1someone", _PERSONAL.sub(" ", text))
    for title in {words.titles[item] for item in items} - {""}:
        for part in (title, title.partition(",")[0], title.partition(" (")[0]):
            text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "something", text, flags=re.IGNORECASE)
    return " ".join(re.sub(r"\d+", " ", text).split())


def cut(text: str, limit: int) -> str:
    """`text`, or as many whole words of it as `limit` bytes hold."""
    if limit < 1:
        raise MessageError(f"limit must be at least 1 byte, got {limit}")
    content = text.encode()
    if len(content) <= limit:
        return text
    start = content[:limit].decode(errors="ignore")  # half a character at its end is none
    return start if text[len(start)].isspace() else start.rpartition(" ")[0]


def _most(count: Counter[str], number: int) -> list[str]:
    """The most frequent, of equals the first in the alphabet."""
    return sorted(count, key=lambda tag: (-count[tag], tag))[:number]


def _focus(tags: Sequence[tuple[str, ...]], usual: list[str]) -> str:
    """Whether one tag is in most of the history."""
    if not usual:
        return "of unknown kind"
    share = sum(usual[0] in some for some in tags) / len(tags)
    return "focused" if share >= 0.6 else "broad"


def _pace(times_s: Sequence[int]) -> str:
    """How long before the newest interaction the one before it was, coarsely."""
    if len(times_s) < 2:
        return ""
    days = (times_s[-1] - times_s[-2]) / _DAY_S
    return ", at a steady pace" if days <= 30 else ", after a long pause"


def _listed(tags: list[str]) -> str:
    return ", ".join(tags)
