"""What a reader of raw files gives: a `Log` before selection, a `Source` once it is ready to be numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

# what `time` counts from: 1970, the user's first interaction; or there are no times
Clock = Literal["unix", "relative", "none"]


class Log(NamedTuple):
    """The interactions of a raw file, as they stand there.

    Args:
        frame: raw ids `user` and `item` (Int64 or String), `row` (UInt32, the place in the file) and, where
            known, `time` (Int64, seconds), `rating` (Float64), `latitude` and `longitude` (Float64, degrees).
        clock: what `time` counts from.
        notes: one line each for what the reader dropped, merged or mended, with counts.
    """

    frame: pl.LazyFrame
    clock: Clock
    notes: tuple[str, ...] = ()


class Source(NamedTuple):
    """A data set under the raw ids of its owner.

    Args:
        interactions: raw ids `user` and `item` (Int32 or String), `pos` and, where known, `time` in seconds.
        items: `item`, `raw_id` (str) and, where known, `title`, `brand`, `tags`, `text`, `latitude`,
            `longitude`.
        clock: what `time` counts from.
        digests: file name -> sha256 of its uncompressed content, for every file that was read.
        queries: `user` and `query`, what the user asked for when choosing the last item; None where unknown.
        notes: one line each for what was dropped, merged or mended on the way, with counts.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    clock: Clock
    digests: Mapping[str, str]
    queries: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()


def bare_items(interactions: pl.DataFrame) -> pl.DataFrame:
    """Items of which nothing but the id is known."""
    return interactions.select(pl.col("item").unique().sort()).with_columns(
        raw_id=pl.col("item").cast(pl.String)
    )
