"""Prepared data: what every method trains on, and the card that says what it is.

Users are indexed 0..U-1 in order of their raw ids, text by its bytes. Items are indexed 1..N in an order that
only a seed and their raw ids decide: the usual files number items by first appearance, test items included,
so that "largest id so far + 1" finds 3 to 5 % of the targets. Neither order depends on the order of lines in
the raw file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from recbench.data.fingerprint import as_numbers, fingerprint, shuffled_order
from recbench.data.ids import coded
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from recbench.data.source import Source

FORMAT = 2  # of the prepared tables; a cache of another format is rebuilt


class Origin(BaseModel):
    """What is given about a data set; the rest of its card is measured.

    `clock` is what `time` counts from: 1970, the user's first interaction, or there are no times. `sources`
    has the sha256 of each raw file: of its uncompressed content, or, where the name ends in .gz, of the file
    as it lies. `partial` says what is missing of a data set that is not whole. `notes` has a line for each
    thing that was dropped, merged or mended on the way from the raw files, and one for ties in time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    about: str
    index_seed: int
    clock: Literal["unix", "relative", "none"]
    sources: dict[str, str]
    partial: str = ""
    notes: tuple[str, ...] = ()


class Card(Origin):
    """What a prepared data set is: where it comes from, how large it is, and how to recognise it.

    `fingerprint` covers users, items and their order, so that runs with and without item text compare;
    `catalog_fingerprint` covers the rest: times, item features, queries. `repeat_rate` is the share of
    interactions with an item that the user had before; `features` is what is known of the items.
    """

    fingerprint: str
    catalog_fingerprint: str
    num_users: int
    num_items: int
    num_interactions: int
    sparsity: float
    min_length: int
    median_length: float
    mean_length: float
    max_length: int
    repeat_rate: float
    features: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to train on.

    Args:
        name: what the records call it.
        interactions: `user` i32 0..U-1, `item` i32 1..N and, where known, `time` i64 in seconds; sorted by
            user, then by position in the user's history.
        items: one row per item in index order: `item`, `raw_id` and, where known, `title`, `tags`, `text`,
            `latitude`, `longitude`.
        queries: `user` i32 and `query`, what the user asked for when choosing the last item; None where
            unknown.
        card: what this is.
    """

    name: str
    interactions: pl.DataFrame
    items: pl.DataFrame
    queries: pl.DataFrame | None
    card: Card


def assemble(name: str, about: str, source: Source, *, index_seed: int, partial: str = "") -> Prepared:
    """Number users and items, and describe the outcome.

    Args:
        name: what the records call the data set.
        about: one line for people.
        source: what was read; its ids are integers, String or Categorical.
        index_seed: decides the order of item indices.
        partial: what is missing of a data set that is not whole.

    Raises:
        UsageError: `index_seed` is negative.
        DataError: an item of the interactions is not among the items.
    """
    if index_seed < 0:
        raise UsageError(f"index_seed must be 0 or more, got {index_seed}")
    numbered = item_indices(source.items["item"], index_seed)
    users, interactions = _numbered(source, numbered)
    items = source.items.rename({"item": "raw_item"}).join(numbered, on="raw_item").sort("item")
    items = items.select("item", pl.exclude("item", "raw_item"))
    queries = source.queries
    if queries is not None:
        known = queries.rename({"user": "raw_user"}).cast({"raw_user": users.schema["raw_user"]})
        queries = known.join(users, on="raw_user").sort("user").select("user", "query")
    origin = Origin(
        name=name,
        about=about,
        index_seed=index_seed,
        clock=source.clock,
        sources=dict(source.digests),
        partial=partial,
        notes=source.notes,
    )
    return Prepared(name, interactions, items, queries, describe(interactions, items, queries, origin))


def _numbered(source: Source, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`raw_user` -> `user`, and the interactions by index, sorted by user and position."""
    users, raw_items = coded(source.interactions["user"]), coded(source.interactions["item"])
    index = pl.DataFrame({"raw_item": raw_items.ids.cast(items.schema["raw_item"])}).join(
        items, on="raw_item", how="left", maintain_order="left"
    )
    unknown = index.filter(pl.col("item").is_null())["raw_item"]
    if len(unknown):
        raise DataError(f"item {unknown[0]} of the interactions is not among the items; fetch both again")
    numbers = index["item"].to_numpy()
    columns = {
        "user": pl.Series(users.codes).cast(pl.Int32),
        "item": pl.Series(numbers[raw_items.codes], dtype=pl.Int32),
    }
    times = [] if source.clock == "none" else ["time"]
    frame = source.interactions.select(*times, "pos").with_columns(**columns)
    place = frame["user"].to_numpy().astype(np.int64) * 2**32 + frame["pos"].to_numpy()
    if (place[1:] < place[:-1]).any():
        frame = frame.sort("user", "pos")
    raw_users = pl.DataFrame({"raw_user": users.ids, "user": np.arange(len(users.ids), dtype=np.int32)})
    return raw_users, frame.select("user", "item", *times)


def item_indices(raw_ids: pl.Series, seed: int) -> pl.DataFrame:
    """`raw_item` -> `item`: indices from 1, shuffled by `seed`."""
    ordered = raw_ids.unique().sort()
    order = shuffled_order(as_numbers(ordered), seed)
    return pl.DataFrame(
        {"raw_item": ordered.gather(order), "item": np.arange(1, len(order) + 1, dtype=np.int32)}
    )


def describe(
    interactions: pl.DataFrame, items: pl.DataFrame, queries: pl.DataFrame | None, origin: Origin
) -> Card:
    """The card of these tables: `origin`, and everything else measured."""
    lengths = interactions.group_by("user").len()["len"].to_numpy()
    pair = pl.col("user").cast(pl.Int64) * 2**32 + pl.col("item")
    num_pairs = interactions.select(pair.n_unique()).item()
    rest = [interactions.drop("user", "item"), items, *([] if queries is None else [queries])]
    return Card(
        **origin.model_dump(include=set(Origin.model_fields)),
        fingerprint=fingerprint(interactions.select("user", "item")),
        catalog_fingerprint=hashlib.sha256("".join(map(fingerprint, rest)).encode()).hexdigest(),
        num_users=len(lengths),
        num_items=len(items),
        num_interactions=len(interactions),
        sparsity=1 - len(interactions) / (len(lengths) * len(items)),
        min_length=int(lengths.min()),
        median_length=float(np.median(lengths)),
        mean_length=len(interactions) / len(lengths),
        max_length=int(lengths.max()),
        repeat_rate=1 - num_pairs / len(interactions),
        features=tuple(name for name in items.columns if name not in ("item", "raw_id")),
    )
