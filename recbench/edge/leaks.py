"""What gives away what a user took: item numbers, titles, times, personal data, plain or thinly veiled.

Deterministic, so that a device can ask before it sends and an auditor after. What many items have in common,
such as a tag, may be said; what few have may not. Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from recbench.edge.abstract import public_tags, titles_from_0

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from recbench.data.catalog import Catalog

NUM_TOKENS, NUM_CHARACTERS = 3, 15  # of a title, in a row: so much of it names the item
_SEGMENT = re.compile(r"[,.;:!?()\[\]{}\"\n|/]+")
_WORD = re.compile(r"\w+")
_PERSONAL = {
    "a mail address": re.compile(r"[\w.+-]+@[\w-]+\.\w+"),
    "a phone or card number": re.compile(r"(?<!\d)\+?\d(?:[\s().-]?\d){8,}(?!\d)"),
    "a street address": re.compile(r"\b\d+\s+(?:\w+\s+){1,3}(?:street|avenue|road|lane|drive)\b", re.I),
    "a date": re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d)?"),
}
_VEILED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")


class LeakDetector:
    """Knows the items of a catalogue by what is written about them.

    Args:
        titles: per item, from item 0 (no item), its title; empty where it has none.
        names: per item, from item 0, what it is called elsewhere.
        public: phrases that may always be said.
    """

    def __init__(self, titles: list[str], names: list[str], public: Iterable[str] = ()) -> None:
        self.titles, self.names = titles, names
        public = list(public)
        self.public = frozenset(shingle for phrase in public for shingle in shingles(phrase))
        self.phrases = [" ".join(_WORD.findall(phrase.casefold())) for phrase in public]
        self._of_item: dict[int, frozenset[str]] = {}

    @classmethod
    def of(cls, catalog: Catalog, *, groups: Iterable[str] = ()) -> LeakDetector:
        """Tags that `MIN_ITEMS` items have, and names of groups, are public."""
        names = [str(name) for name in catalog.items["raw_id"].to_list()]
        return cls(titles_from_0(catalog), ["", *names], public_tags(catalog, groups))

    def findings(self, text: str, items: Collection[int], times_s: Collection[int] = ()) -> list[str]:
        """What `text`, as it is or decoded, says of somebody who took `items`; nothing if it is safe.

        Args:
            text: on its way out.
            items: the whole history.
            times_s: unix seconds of it.
        """
        numbers = {str(item) for item in items} | {str(time) for time in times_s if time > 10**8}
        return [
            finding for variant in variants(text) for finding in self._of_variant(variant, items, numbers)
        ]

    def without(self, text: str, items: Collection[int], times_s: Collection[int] = ()) -> str:
        """`text` without what it says of the titles of `items`; empty if it still gives something away.

        Args:
            text: on its way out.
            items: the whole history.
            times_s: unix seconds of it.
        """
        if not self.findings(text, items, times_s):
            return text
        phrases = {shingle for item in items for shingle in self._shingles(item)}
        for shingle in sorted(phrases & shingles(text), key=lambda one: (-len(one), one)):
            text = _as_said([shingle]).sub("something", text)
        return "" if self.findings(text, items, times_s) else text

    def _of_variant(self, text: str, items: Collection[int], numbers: set[str]) -> Iterator[str]:
        words = {word.casefold() for word in _WORD.findall(text)}
        if said := self._outside(text, words & numbers):
            yield f"the number {min(said)} of a history item or moment"
        if said := self._outside(text, words & {self.names[item].casefold() for item in items}):
            yield f"the name {min(said)} of a history item"
        phrases = shingles(text) - self.public
        for item in items:
            if said := phrases & self._shingles(item):
                yield f"{min(said)!r}, of the title of a history item"
                break
        yield from (what for what, pattern in _PERSONAL.items() if pattern.search(text))

    def _outside(self, text: str, said: set[str]) -> set[str]:
        """Which words of `said` stand in `text` outside of public phrases; 16 of "attribute 16" does not."""
        if not said:
            return said
        spoken = [phrase for phrase in self.phrases if not said.isdisjoint(phrase.split(" "))]
        # all at once: what is taken out must not bring the words around it together to another phrase
        return said.intersection(_WORD.findall(_as_said(spoken).sub(" ", text.casefold())))

    def _shingles(self, item: int) -> frozenset[str]:
        if item not in self._of_item:
            self._of_item[item] = frozenset(shingles(self.titles[item])) - self.public
        return self._of_item[item]


def _as_said(phrases: Collection[str]) -> re.Pattern[str]:
    """Finds the longest of some phrases, whose words stand side by side with anything between them."""
    found = (r"\W+".join(map(re.escape, one.split(" "))) for one in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)", re.IGNORECASE)


def shingles(text: str) -> set[str]:
    """Runs of `NUM_TOKENS` words, and of fewer with `NUM_CHARACTERS`, within a clause; lower case."""
    found = set()
    for clause in _SEGMENT.split(text.casefold()):
        words = _WORD.findall(clause)
        for length in range(1, NUM_TOKENS + 1):
            runs = (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))
            found |= {run for run in runs if length == NUM_TOKENS or len(run) >= NUM_CHARACTERS}
    return found


def variants(text: str) -> list[str]:
    """`text`, and what percent signs, base64 and hexadecimal in it decode to."""
    found = [text]
    if "%" in text and (plain := unquote(text)) != text:
        found.append(plain)
    for run in _VEILED.findall(text):
        found += [decoded for decoded in (_of_base64(run), _of_hex(run)) if decoded]
    return found


def _of_base64(run: str) -> str:
    """What it says, if it is text."""
    even = run.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(even + "=" * (-len(even) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _of_hex(run: str) -> str:
    try:
        return bytes.fromhex(run).decode()
    except ValueError:  # which UnicodeDecodeError is
        return ""
