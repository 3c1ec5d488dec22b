"""Sequence files, the format of S3-Rec (Zhou et al., CIKM 2020): one user a line, `user item item item ...`.

Ids are whole numbers from 1 (0 is padding) to 2,147,483,647, separated by one space, oldest item first, at
least three items per user (to train on, to validate, to test), every user on one line only. Plain or gzip,
UTF-8 or ASCII. Windows line ends and a missing line end at the end of the file are fine; anything else is
refused with its line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from recbench.data import raw
from recbench.data.problems import BrokenFileError, Problem, shown

if TYPE_CHECKING:
    from pathlib import Path

MIN_ITEMS = 3
_GOOD = r"^[1-9][0-9]{0,9}(?: [1-9][0-9]{0,9}){3,}$"  # the {3,} is MIN_ITEMS
_MAX_ID = 2**31 - 1
_SEPARATORS = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a bar", "::": "a double colon"}
_ID_FAULTS = (  # what an id looks like, what is wrong with it and what to do
    (r"", "two spaces in a row, or one at the start or end of the line; separate ids by one space"),
    (r"0+", "id {0} is reserved for padding; number users and items from 1"),
    (r"-[0-9]+", "id {0} is negative; number users and items from 1"),
    (r"0[0-9]+", "id {0} has a leading zero; write ids without"),
    (r"[+-]?[0-9]*\.[0-9]*(?:[eE][+-]?[0-9]+)?", "id {0} is not a whole number; write ids as integers"),
    (r"[0-9]+", f"id {{0}} exceeds {_MAX_ID}, the largest 32-bit id; renumber users and items"),
    (r".*", "id {0} is not a number; replace names by whole numbers from 1"),
)


def sequences(path: Path) -> pl.DataFrame:
    """The interactions in `path`: raw ids `user` and `item`, and `pos`, its place in the history from 0.

    Raises:
        DataError: the file cannot be read or breaks a rule; the message names the first line that does.
    """
    return parse(raw.read(path), str(path))


def parse(content: bytes, where: str) -> pl.DataFrame:
    """The interactions in `content`, as `sequences` returns them; `where` names the file in messages.

    Raises:
        DataError: a rule is broken.
    """
    lines, found = _examined(content)
    if found:
        raise BrokenFileError(where, found)
    ids = pl.col("ids")
    return lines.select(
        user=ids.list.first(),
        item=ids.list.slice(1),
        pos=pl.int_ranges(0, ids.list.len() - 1, dtype=pl.Int32),
    ).explode("item", "pos")


def problems(content: bytes) -> list[Problem]:
    """Everything that is wrong with a sequence file, in line order; empty for a good one."""
    return _examined(content)[1]


def _examined(content: bytes) -> tuple[pl.DataFrame, list[Problem]]:
    """The lines (`line`, `text`, `ids`) and what is wrong with them; no lines when nothing can be decoded."""
    undecodable = _undecodable(content)
    if undecodable is not None:
        return pl.DataFrame(), [undecodable]
    text = content.decode().replace("\r\n", "\n").removesuffix("\n")
    lines = pl.DataFrame({"text": text.split("\n")}).with_row_index("line", offset=1)
    lines = lines.with_columns(ids=pl.col("text").str.split(" ").cast(pl.List(pl.Int32), strict=False))
    malformed = _malformed(lines)
    broken = {problem.line for problem in malformed}
    repeated = [problem for problem in _repeated_users(lines) if problem.line not in broken]
    return lines, sorted(malformed + repeated) or _too_small(lines)


def _undecodable(content: bytes) -> Problem | None:
    """Why `content` is not text with lines, if it is not."""
    if not content.strip():
        return Problem(0, "the file is empty; it should hold lines `user item item item ...`")
    if content.startswith(b"\xef\xbb\xbf"):
        return Problem(1, "starts with a byte order mark (EF BB BF); save the file as UTF-8 without BOM")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem(1, f"starts with bytes {content[:2].hex(' ')}, as UTF-16 does; save the file as UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        return Problem(line, "byte 0x00, so this is no text; save the file as UTF-8 text")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Problem(line, f"byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8")
    return None


def _malformed(lines: pl.DataFrame) -> list[Problem]:
    """Lines that are not `user item item item ...`; what is wrong is worked out for these lines only."""
    too_large = pl.col("ids").list.eval(pl.element().is_null()).list.any()
    bad = lines.filter(~pl.col("text").str.contains(_GOOD) | too_large)
    return [Problem(line, _fault(text, line)) for line, text in bad.select("line", "text").iter_rows()]


def _fault(text: str, line: int) -> str:
    """What is wrong with one line, and what to do."""
    if not text.strip():
        return "the line is blank; remove it"
    if "\r" in text:
        return "carriage return inside the line, as old Mac files have; end lines with a line feed"
    for separator, name in _SEPARATORS.items():
        if separator in text:
            return f"{shown(text)} has {name} in it; separate ids by one space, or name a table *.csv"
    tokens = text.split(" ")
    if line == 1 and all(re.fullmatch(r"[^\W\d]\S*", token) for token in tokens):
        return f"{shown(text)} is a header; remove it, the file holds ids only"
    for token in tokens:
        if not re.fullmatch(r"[1-9][0-9]{0,9}", token) or int(token) > _MAX_ID:
            return next(fault for form, fault in _ID_FAULTS if re.fullmatch(form, token)).format(shown(token))
    num_items = "1 item" if len(tokens) == 2 else f"{len(tokens) - 1} items"
    return (
        f"user {tokens[0]} has {num_items}, fewer than the {MIN_ITEMS} that training, validation and test "
        "need; remove the user or add items"
    )


def _repeated_users(lines: pl.DataFrame) -> list[Problem]:
    """Users with a second line."""
    user = pl.col("ids").list.first()
    again = lines.select("line", user=user, first=pl.col("line").min().over(user)).filter(
        pl.col("user").is_not_null() & (pl.col("line") > pl.col("first"))
    )
    fault = "user {} was on line {} already; join the two lines in time order"
    return [Problem(line, fault.format(user, first)) for line, user, first in again.iter_rows()]


def _too_small(lines: pl.DataFrame) -> list[Problem]:
    """Well-formed files that leave nothing to recommend or to compare."""
    if len(lines) == 1:
        num_items = len(lines["ids"][0]) - 1
        return [
            Problem(
                1,
                f"the only user, with {num_items} items; give at least 2 users, each a line of its own",
            )
        ]
    num_items = lines["ids"].list.slice(1).explode().n_unique()
    if num_items == 1:
        return [Problem(1, f"item {lines['ids'][0][1]} is the only item in the file; at least 2 are needed")]
    return []
