"""Prepared data as files: parquet tables and a card, measured again whenever they are read.

A folder holds `items.parquet`, `card.json`, `queries.parquet` where there are queries, and the interactions:
in `interactions.parquet`, or past `PART_ROWS` in `interactions-00000-of-00003.parquet` and so on, each with
whole users in order of their indices. `scan` reads them lazily: several machines can each take the parts of
their own users, and polars evaluates a query over data larger than memory in a stream. `read` holds
everything, 16 bytes an interaction, as training on one machine needs it. The card is written last, so that a
half-written folder has none.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from pydantic import ValidationError

from recbench.data.prepared import FORMAT, Card, Prepared, describe
from recbench.errors import DataError
from recbench.results import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PART_ROWS = 1 << 24


def write(prepared: Prepared, folder: Path, *, part_rows: int = PART_ROWS) -> None:
    """Put prepared data into `folder`, in place of what is there.

    Args:
        prepared: the data.
        folder: made where it is missing.
        part_rows: interactions per file, more where a single user has more.

    Raises:
        OSError: it cannot be written.
    """
    (folder / "card.json").unlink(missing_ok=True)
    for old in (*_parts(folder), folder / "queries.parquet"):
        old.unlink(missing_ok=True)
    tables = {"items": prepared.items}
    if prepared.queries is not None:
        tables["queries"] = prepared.queries
    cuts = [*_cuts(prepared.interactions["user"], part_rows), len(prepared.interactions)]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        part = f"-{number:05}-of-{len(cuts) - 1:05}" if len(cuts) > 2 else ""
        tables[f"interactions{part}"] = prepared.interactions[start:stop]
    for name, frame in tables.items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer, compression="zstd", compression_level=1)
        write_atomic(folder / f"{name}.parquet", buffer.getvalue())
    write_atomic(folder / "card.json", (prepared.card.model_dump_json(indent=1) + "\n").encode())


def scan(folder: Path) -> pl.LazyFrame:
    """The interactions in `folder`, lazily: `user`, `item` and, where known, `time`, in order."""
    return pl.scan_parquet(_parts(folder) or [folder / "interactions.parquet"])


def read(folder: Path) -> Prepared:
    """What `write` put into `folder`, measured again.

    Raises:
        FileNotFoundError: nothing was written yet.
        DataError: it is damaged, or of another format.
    """
    card = _read_card(folder / "card.json")
    interactions = pl.concat(map(_table, _parts(folder) or [folder / "interactions.parquet"]), rechunk=True)
    items, queries = _table(folder / "items.parquet"), None
    if (folder / "queries.parquet").is_file():
        queries = _table(folder / "queries.parquet")
    try:
        found = describe(interactions, items, queries, card)
    except (pl.exceptions.PolarsError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"{folder}: the tables are not what was written ({str(error).splitlines()[0]})"
        ) from None
    wrong = [field for field in Card.model_fields if getattr(found, field) != getattr(card, field)]
    if wrong:
        raise DataError(
            f"{folder}: {wrong[0]} is {getattr(found, wrong[0])}, but the card says {getattr(card, wrong[0])}"
        )
    return Prepared(card.name, interactions, items, queries, card)


def _parts(folder: Path) -> list[Path]:
    """The files of interactions in order."""
    return sorted(folder.glob("interactions*.parquet"))


def _cuts(users: pl.Series, part_rows: int) -> Iterator[int]:
    """Where parts of about `part_rows` begin, so that no user is in two of them."""
    column = users.to_numpy()
    start = 0
    while start < len(column):
        yield start
        stop = min(start + part_rows, len(column)) - 1
        start = int(np.searchsorted(column, column[stop], side="right"))


def _table(path: Path) -> pl.DataFrame:
    """A table of the folder.

    Raises:
        DataError: it is damaged or missing.
    """
    try:
        return pl.read_parquet(io.BytesIO(path.read_bytes()))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path}: damaged ({str(error).splitlines()[0]})") from None


def _read_card(path: Path) -> Card:
    """The stored card.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is damaged or of another format.
    """
    try:
        card = Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{path}: {field}: {first['msg']}") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if card.format != FORMAT:
        raise DataError(f"{path}: format {card.format}, this version writes {FORMAT}")
    return card
