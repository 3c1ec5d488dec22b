"""A data set's name -> prepared data, from the cache where it is there and right, else from the raw files.

Nothing in the cache is trusted: at every load the tables are measured again and must give the stored card,
the published sizes must be met, and the raw files that are here must be the ones the tables were made from. A
cache that fails is rebuilt. The card is written last, so that a half-written cache has none.
"""

from __future__ import annotations

import difflib
import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from pydantic import ValidationError

from recbench.data import raw
from recbench.data.prepared import FORMAT, Card, Prepared, assemble, describe
from recbench.data.public import DATA_SETS
from recbench.data.sources import s3rec
from recbench.errors import DataError, UsageError
from recbench.results import write_atomic

if TYPE_CHECKING:
    from recbench.data.public import DataSet, Golden

__all__ = ["Card", "Prepared", "load", "names", "prepare"]

_log = logging.getLogger(__name__)
DEMO = "demo"


def names() -> tuple[str, ...]:
    """Names that `load` knows; it takes the path of a sequence file as well."""
    return (DEMO, *DATA_SETS)


def load(name: str, *, index_seed: int = 0) -> Prepared:
    """The data set called `name`, or the sequence file at that path.

    Args:
        name: one of `names()`, or a path.
        index_seed: decides the order of item indices.

    Raises:
        UsageError: there is no such data set; the message suggests the nearest.
        DataError: a raw file is missing or malformed, or the outcome is not the published data.
    """
    path = own_file(name)
    if path is not None or name == DEMO:
        return prepare(name, index_seed=index_seed)
    data_set = public_data_set(name)
    folder = _folder(name, index_seed)
    try:
        return _read(folder, data_set)
    except FileNotFoundError:
        pass
    except DataError as error:
        _log.warning("%s; preparing %s again", error, name)
    return prepare(name, index_seed=index_seed)


def prepare(name: str, *, index_seed: int = 0) -> Prepared:
    """As `load`, but always from the raw files; a public data set is written to the cache.

    Args:
        name: one of `names()`, or a path.
        index_seed: decides the order of item indices.

    Raises:
        UsageError: there is no such data set; the message suggests the nearest.
        DataError: a raw file is missing or malformed, or the outcome is not the published data.
    """
    if name == DEMO:
        from recbench.data.synthetic import demo

        return demo(index_seed=index_seed)
    path = own_file(name)
    if path is not None:
        return assemble(
            own_name(path), f"sequence file {path.name}", s3rec.read_own(path), index_seed=index_seed
        )
    data_set = public_data_set(name)
    prepared = assemble(name, data_set.about, s3rec.read(data_set), index_seed=index_seed)
    check_golden(prepared.card, data_set.golden)
    _write(prepared, _folder(name, index_seed))
    return prepared


def own_file(name: str) -> Path | None:
    """`name` as the path of a user's sequence file; None when it is meant as the name of a data set."""
    if name in names():
        return None
    path = Path(name).expanduser()
    looks_like_path = path.exists() or path.suffix in (".txt", ".gz") or len(path.parts) > 1
    return path if looks_like_path else None


def own_name(path: Path) -> str:
    """What the records call a user's file: its stem, told apart from the public data sets."""
    stem = (
        re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.removesuffix(".gz").removesuffix(".txt")).strip("-")
        or "file"
    )
    return f"{stem}-file" if stem in names() else stem


def public_data_set(name: str) -> DataSet:
    """The public data set called `name`.

    Raises:
        UsageError: there is none; the message suggests the nearest.
    """
    if name in DATA_SETS:
        return DATA_SETS[name]
    nearest = difflib.get_close_matches(name.lower(), names(), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UsageError(
        f"no data set {name!r}; {hint}known are {', '.join(names())}, or give the path of a sequence file"
    )


def check_golden(card: Card, golden: Golden) -> None:
    """Compare with the published sizes.

    Raises:
        DataError: they differ.
    """
    for size, published in golden._asdict().items():
        found = getattr(card, size)
        if found != published:
            raise DataError(
                f"{card.name}: {size} is {found:,}, but the published data has {published:,}; "
                "replace the raw file by the original"
            )


def _folder(name: str, index_seed: int) -> Path:
    return raw.cache_folder() / "prepared" / f"{name}-seed{index_seed}"


def _write(prepared: Prepared, folder: Path) -> None:
    """Put the tables into the cache, the card last; a cache that cannot be written is only slower."""
    try:
        (folder / "card.json").unlink(missing_ok=True)
        for table, frame in (("interactions", prepared.interactions), ("items", prepared.items)):
            buffer = io.BytesIO()
            frame.write_parquet(buffer, compression="zstd", compression_level=1)
            write_atomic(folder / f"{table}.parquet", buffer.getvalue())
        write_atomic(folder / "card.json", (prepared.card.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        _log.warning(
            "%s: prepared data is not kept (%s); set RECBENCH_CACHE to a folder with room", folder, error
        )


def _read(folder: Path, data_set: DataSet) -> Prepared:
    """What the cache holds, measured again.

    Raises:
        FileNotFoundError: nothing was prepared yet.
        DataError: it is damaged, or made from other files than those that are here.
    """
    card = _read_card(folder / "card.json")
    here = s3rec.local_digests(data_set)
    changed = sorted(file for file, digest in here.items() if card.sources.get(file) != digest)
    if changed:
        raise DataError(f"{folder}: {changed[0]} is new or has changed")
    tables = []
    for path in (folder / "interactions.parquet", folder / "items.parquet"):
        try:
            tables.append(pl.read_parquet(io.BytesIO(path.read_bytes())))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise DataError(f"{path}: damaged ({str(error).splitlines()[0]})") from None
    try:
        found = describe(tables[0], tables[1], None, card)
    except (pl.exceptions.PolarsError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"{folder}: the tables are not what was written ({str(error).splitlines()[0]})"
        ) from None
    wrong = [field for field in Card.model_fields if getattr(found, field) != getattr(card, field)]
    if wrong:
        raise DataError(
            f"{folder}: {wrong[0]} is {getattr(found, wrong[0])}, but the card says {getattr(card, wrong[0])}"
        )
    check_golden(card, data_set.golden)
    return Prepared(card.name, tables[0], tables[1], None, card)


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
