"""Which interactions of a raw file make up the data set, and in which order.

The order of a user's interactions is time, then place in the file; where there are no times it is the place.
So a file with its rows shuffled gives the same data set except among interactions at the same time, and how
many those are is in the notes: Amazon dates reviews by the day, and 43 to 48 % of its steps take none.

Ids become 32-bit integers first, and everything after is counting and sorting of integers: about 30 bytes a
row, 10 million rows in seconds. Past memory, the window and the ratings are filters on a lazy frame, which
polars evaluates in a stream, so that only what they keep is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from recbench.data.ids import coded
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.source import Log

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Selection:
    """What to keep of a raw file; the default keeps everything.

    Args:
        min_user: interactions that every user has at least, counting what is kept.
        min_item: interactions that every item has at least, counting what is kept.
        since: first day, as in 2019-01-01 (UTC); empty for no bound.
        until: last day, kept as a whole.
        min_rating: lowest rating to keep; 0 keeps interactions without a rating, too.
        merge_repeats: whether of a user's interactions with one item only the first counts.

    Raises:
        UsageError: a bound is negative, no date, or the last day is before the first.
    """

    min_user: int = 0
    min_item: int = 0
    since: str = ""
    until: str = ""
    min_rating: float = 0.0
    merge_repeats: bool = False

    def __post_init__(self) -> None:
        for name in ("min_user", "min_item", "min_rating"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UsageError(f"selection.{name} must be 0 or more, got {value}")
        first, end = self.window()
        if first is not None and end is not None and first >= end:
            raise UsageError(
                f"selection.until {self.until} is before selection.since {self.since}; swap them"
            )

    def window(self) -> tuple[int | None, int | None]:
        """First second kept and first second after, in unix time; None where there is no bound."""
        end = _midnight("until", self.until)
        return _midnight("since", self.since), None if end is None else end + int(_DAY.total_seconds())


class Selected(NamedTuple):
    """What was kept.

    Args:
        interactions: `user`, `item` (integers, or Categorical for text ids), `pos` (Int32, place in the
            history from 0) and, where known, `time`; by user in order of the raw ids, then by `pos`.
        notes: one line for each step that dropped or merged anything, and one for ties in time.
    """

    interactions: pl.DataFrame
    notes: tuple[str, ...]


def select(log: Log, selection: Selection) -> pl.DataFrame:
    """The interactions that `narrow` keeps, text ids as String.

    Args:
        log: what was read.
        selection: what to keep.

    Raises:
        DataError: nothing is left.
        UsageError: the file has no times or ratings to select by.
    """
    frame = narrow(log, selection).interactions
    return frame.with_columns(column.cast(pl.String) for column in frame if column.dtype == pl.Categorical)


def narrow(log: Log, selection: Selection) -> Selected:
    """Keep what `selection` says, put it in order, and note what was dropped.

    Args:
        log: what was read.
        selection: what to keep.

    Raises:
        DataError: nothing is left.
        UsageError: the file has no times or ratings to select by.
    """
    frame, num_rows = _collected(log, selection)
    notes = _dropped(num_rows, frame, _what_filters(selection))
    if selection.merge_repeats:
        before = len(frame)
        frame = _ordered(frame).unique(["user", "item"], keep="first", maintain_order=True)
        notes += _dropped(before, frame, "repeats of a user's earlier interaction with the item")
    before = len(frame)
    frame = k_core(frame, min_user=selection.min_user, min_item=selection.min_item)
    core = f"users with fewer than {selection.min_user} or items with fewer than {selection.min_item}"
    notes += _dropped(before, frame, core)
    if not len(frame):
        raise DataError(f"no interaction of {num_rows:,} is left after {selection}; select less strictly")
    frame = _ordered(frame)
    is_first = _is_first(frame)
    starts = np.flatnonzero(is_first)
    position = np.arange(len(frame)) - np.repeat(starts, np.diff(starts, append=len(frame)))
    notes += _ties(frame, is_first)
    pos = pl.Series("pos", position, dtype=pl.Int32)
    time = ["time"] if "time" in frame.columns else []
    return Selected(frame.select("user", "item", pos, *time), tuple(notes))


def k_core(frame: pl.DataFrame, *, min_user: int, min_item: int) -> pl.DataFrame:
    """The largest part of `frame` in which every user and item has enough rows; the rows keep their order.

    There is one largest part, the union of all such parts, so it does not matter whether users or items are
    dropped first.

    Args:
        frame: rows of `user` and `item`, repeats count.
        min_user: rows per user.
        min_item: rows per item.
    """
    if max(min_user, min_item) <= 1:  # whoever is there has one
        return frame
    users, items = coded(frame["user"]).codes, coded(frame["item"]).codes
    rows = np.arange(len(frame), dtype=np.uint32)
    while True:
        is_kept = _frequent(users, min_user) & _frequent(items, min_item)
        if is_kept.all():
            break
        users, items, rows = users[is_kept], items[is_kept], rows[is_kept]
    return frame if len(rows) == len(frame) else frame[rows]


def _frequent(codes: NDArray[np.uint32], least: int) -> NDArray[np.bool_]:
    """Which rows have a code that `least` rows have."""
    return (np.bincount(codes) >= least)[codes]


def _collected(log: Log, selection: Selection) -> tuple[pl.DataFrame, int]:
    """The rows in the window with the wanted ratings, text ids as Categorical, and how many there were."""
    schema = log.frame.collect_schema()
    tests = _tests(log, selection, schema.names())
    text = [name for name in ("user", "item") if schema[name] == pl.String]
    columns = ["user", "item", "row", *(["time"] if "time" in schema and log.clock != "none" else [])]
    is_kept = pl.all_horizontal(*tests).fill_null(value=False) if tests else pl.lit(value=True)
    kept = log.frame.filter(is_kept).select(columns).with_columns(pl.col(text).cast(pl.Categorical))
    if not tests:
        frame = kept.collect(engine="streaming")
        return frame, len(frame)
    frame, total = pl.collect_all([kept, log.frame.select(pl.len())], engine="streaming")
    return frame, int(total.item())


def _tests(log: Log, selection: Selection, columns: list[str]) -> list[pl.Expr]:
    """What every row that is kept fulfils."""
    first, end = selection.window()
    if (first is not None or end is not None) and log.clock != "unix":
        raise UsageError(
            "selection.since and selection.until need dates, and the file has none; leave them out"
        )
    if selection.min_rating and "rating" not in columns:
        raise UsageError("selection.min_rating needs ratings, and the file has none; leave it out")
    tests = [] if first is None else [pl.col("time") >= first]
    tests += [] if end is None else [pl.col("time") < end]
    return tests + ([pl.col("rating") >= selection.min_rating] if selection.min_rating else [])


def _what_filters(selection: Selection) -> str:
    """The window and the ratings in words."""
    bounds = [f"before {selection.since}"] if selection.since else []
    bounds += [f"after {selection.until}"] if selection.until else []
    bounds += [f"without a rating of {selection.min_rating:g} or more"] if selection.min_rating else []
    return " or ".join(bounds)


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """By user in order of the raw ids, time, place in the file."""
    keys = ["time", "row"] if "time" in frame.columns else ["row"]
    code = pl.Series("code", coded(frame["user"]).codes)
    return frame.with_columns(code).sort("code", *keys).drop("code")


def _is_first(ordered: pl.DataFrame) -> NDArray[np.bool_]:
    """Which rows begin a user's history."""
    user = ordered["user"].to_physical().to_numpy()
    return np.concatenate([[True], user[1:] != user[:-1]])


def _ties(ordered: pl.DataFrame, is_first: NDArray[np.bool_]) -> list[str]:
    """How many steps of users take no time, so that the file decides their order."""
    if "time" not in ordered.columns:
        return ["no times: the order is that of the file"]
    time, is_step = ordered["time"].to_numpy(), ~is_first[1:]
    num_tied, num_steps = int((is_step & (time[1:] == time[:-1])).sum()), int(is_step.sum())
    if not num_tied:
        return []
    return [f"{_share(num_tied, num_steps)} steps take no time, and the file decides their order"]


def _dropped(before: int, frame: pl.DataFrame, what: str) -> list[str]:
    """`12 of 100 (12.00 %) dropped: what`; nothing where nothing was."""
    num = before - len(frame)
    return [f"{_share(num, before)} dropped: {what}"] if num else []


def _share(num: int, of: int) -> str:
    return f"{num:,} of {of:,} ({100 * num / of:.2f} %)"


def _midnight(name: str, date: str) -> int | None:
    """The second a day begins in UTC; None for no day."""
    if not date:
        return None
    try:
        return int(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise UsageError(f"selection.{name} must be a date as in 2019-12-31, got {date!r}") from None
