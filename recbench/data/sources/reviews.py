"""Logs of reviews: one JSON object a line, of which four keys are wanted.

One thread unpacks a block of lines while another parses the block before it; only the wanted columns stay,
ids as numbers of a dictionary: 10 million reviews are 7 GB of text and 0.4 GB of columns. polars can say
that a block has a bad line; the lines of that block are then gone through one by one to say which.
"""

from __future__ import annotations

import io
import re
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import polars as pl

from recbench.data.sources.jsonlines import Block, blocks, loaded, shown
from recbench.errors import DataError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

_AHEAD = 2  # blocks that wait for the parser
_ID = r"^[A-Za-z0-9_-]+$"
_EARLIEST = 788_918_400  # 1995-01-01; neither Amazon nor Yelp is older
_DAY = 86_400
_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")

# how a line says when: seconds or milliseconds since 1970, or a text like `2019-12-13 15:51:19`
Unit = Literal["s", "ms", "text"]
_WORDS = {"s": "seconds", "ms": "milliseconds"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which keys of a line are what.

    Args:
        about: what the lines are, for messages.
        user: key of the user's id.
        item: key of the item's id.
        rating: key of the rating.
        time: key of the time.
        unit: what the time is given in.
    """

    about: str
    user: str
    item: str
    rating: str
    time: str
    unit: Unit = "s"

    @property
    def schema(self) -> dict[str, type[pl.DataType]]:
        """The wanted keys and their types."""
        moment = pl.String if self.unit == "text" else pl.Int64
        return {self.user: pl.String, self.item: pl.String, self.rating: pl.Float64, self.time: moment}


def read_log(path: Path, layout: Layout) -> pl.DataFrame:
    """The interactions in `path`.

    Args:
        path: JSON lines, plain or gzip.
        layout: which keys are what.

    Returns:
        `user` and `item` (Categorical), `rating` (Float64), `time` (Int64, unix seconds) and `row` (UInt32,
        the place in the file from 0, blank lines not counted).

    Raises:
        DataError: the file is unreadable, damaged or empty, or a line is not as `layout` says.
    """
    parts: list[pl.DataFrame] = []
    waiting: deque[Future[pl.DataFrame]] = deque()
    with ThreadPoolExecutor(1) as parser:
        for block in blocks(path):
            waiting.append(parser.submit(_parsed, block, path, layout))
            if len(waiting) > _AHEAD:
                parts.append(waiting.popleft().result())
        parts += [part.result() for part in waiting]
    if not any(map(len, parts)):
        raise DataError(f"{path}: the file is empty; it should hold {layout.about}; fetch it again")
    return pl.concat(parts).with_row_index("row")


def is_plausible(moment: pl.Expr) -> pl.Expr:
    """Whether unix seconds lie between 1995 and tomorrow."""
    return moment.is_between(_EARLIEST, _latest())


def time_fault(value: object, layout: Layout) -> str | None:
    """What is wrong with the time of a line, and what to do; None if nothing is."""
    named = f"{layout.time} {shown(value)}"
    if layout.unit == "text":
        moment = pl.select(_seconds(pl.lit(str(value)), "text")).item()
        if moment is None:
            return f"{named} is not a date like '2019-12-13 15:51:19'; correct it or remove the line"
    elif isinstance(value, bool) or not isinstance(value, int):
        return f"{named} is not a whole number; give it in {_WORDS[layout.unit]} since 1970"
    else:
        moment = value // 1000 if layout.unit == "ms" else value
    if _EARLIEST <= moment <= _latest():
        return None
    if layout.unit == "s" and _EARLIEST <= moment // 1000 <= _latest():
        return f"{named} is in milliseconds and should be in seconds; divide the times by 1000"
    if layout.unit == "ms" and _EARLIEST <= moment * 1000 <= _latest():
        return f"{named} is in seconds and should be in milliseconds; multiply the times by 1000"
    return f"{named} is before 1995 or in the future; correct it or remove the line"


def _latest() -> int:
    """The last moment that a review can have been written at, give or take a time zone."""
    return int(time.time()) + _DAY


def _parsed(block: Block, path: Path, layout: Layout) -> pl.DataFrame:
    """The columns of a block."""
    try:
        frame = pl.read_ndjson(io.BytesIO(block.content), schema=layout.schema)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        _refuse(block, path, layout, str(error).splitlines()[0])
    moment = _seconds(pl.col(layout.time), layout.unit)
    frame = frame.select(user=layout.user, item=layout.item, rating=layout.rating, time=moment)
    is_good = pl.all_horizontal(
        pl.col("user", "item").str.contains(_ID), pl.col("rating").is_not_null(), is_plausible(pl.col("time"))
    )
    if not frame.select(is_good.fill_null(value=False).all()).item():
        _refuse(block, path, layout, "a value is missing or out of range")
    return frame.with_columns(pl.col("user", "item").cast(pl.Categorical))


def _seconds(value: pl.Expr, unit: Unit) -> pl.Expr:
    """Unix seconds; null where a text is no date."""
    if unit == "text":
        return pl.coalesce(value.str.to_datetime(form, strict=False) for form in _FORMS).dt.epoch("s")
    return value // 1000 if unit == "ms" else value


def _refuse(block: Block, path: Path, layout: Layout, otherwise: str) -> NoReturn:
    """Name the first bad line; `otherwise` is what is known if none is found."""
    for number, line in block.lines():
        try:
            fault = _fault(loaded(line), layout)
        except ValueError as error:
            fault = str(error)
        if fault:
            raise DataError(f"{path}:{number}: {fault}")
    raise DataError(
        f"{path}:{block.line}: in this line or one of the next, {otherwise}; fetch the file again"
    )


def _fault(row: dict[str, Any], layout: Layout) -> str | None:
    """What is wrong with one object, and what to do; None if nothing is."""
    for key in layout.schema:
        if row.get(key) is None:
            found = ", ".join(sorted(row)[:12]) or "no key"
            return (
                f"key {key!r} is missing, which {layout.about} have on every line; this one has {found}; "
                "fetch the file again, or read it as what it is"
            )
    for key in (layout.user, layout.item):
        if not re.search(_ID, str(row[key])):
            return f"{key} {shown(row[key])} is no id of letters, digits, - and _; correct or remove the line"
    rating = row[layout.rating]
    if isinstance(rating, bool) or not isinstance(rating, int | float):
        return f"{layout.rating} {shown(rating)} is not a number; correct it or remove the line"
    return time_fault(row[layout.time], layout)
