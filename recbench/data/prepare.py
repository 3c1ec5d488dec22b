"""A data set's name or a user's file -> prepared data, from the cache where it is there and right.

Nothing in the cache is trusted: at every load the tables are measured again and must give the stored card,
the sizes of public data must be met, and the raw files that are here must be the ones the tables were made
from. A cache that fails is rebuilt. Public data sets are cached by name, a user's large file by its content
and what is selected of it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from recbench.data import raw, sequence_file, store
from recbench.data.prepared import FORMAT, Card, Prepared, assemble
from recbench.data.public import DATA_SETS
from recbench.data.recipes import source_of
from recbench.data.selection import Selection
from recbench.data.source import Log, bare_items
from recbench.data.tables.columns import Columns
from recbench.data.tables.file import is_table
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from recbench.data.public import DataSet, Golden
    from recbench.data.source import Source

__all__ = ["Card", "Prepared", "load", "names", "prepare"]

_log = logging.getLogger(__name__)
DEMO = "demo"
LARGE = 32 << 20  # bytes of a user's file from which preparing it takes longer than reading the cache


def names() -> tuple[str, ...]:
    """Names that `load` knows; it takes the path of a user's file as well."""
    return (DEMO, *DATA_SETS)


def load(
    name: str, *, index_seed: int = 0, columns: Columns | None = None, selection: Selection | None = None
) -> Prepared:
    """The data set called `name`, or the user's file at that path.

    A sequence file is `.txt`, a table `.csv`, `.tsv`, `.jsonl` or `.parquet`, each also with `.gz`; whatever
    has declared columns is a table. Tables are read lazily where their format allows it, and what is selected
    is held at about 30 bytes an interaction while it is put in order, 16 after. Past memory, see `store`.

    Args:
        name: one of `names()`, or a path.
        index_seed: decides the order of item indices.
        columns: of a user's table, which column holds what; found by the usual names where not declared.
        selection: of a user's file, what to keep; everything by default.

    Raises:
        UsageError: there is no such data set (the message suggests the nearest), or `columns` or `selection`
            are given for a public one, which they would turn into another.
        DataError: a raw file is missing or malformed, or the outcome is not the published data.
    """
    path = _file(name, columns, selection)
    if name == DEMO:
        return prepare(name, index_seed=index_seed)
    if path is not None:
        if not path.is_file() or path.stat().st_size < LARGE:
            return prepare(name, index_seed=index_seed, columns=columns, selection=selection)
        folder = _own_folder(path, columns or Columns(), selection or Selection(), index_seed)
    else:
        folder = _folder(name, index_seed)
    try:
        return _cached(folder, None if path is not None else public_data_set(name))
    except FileNotFoundError:
        pass
    except DataError as error:
        _log.warning("%s; preparing %s again", error, name)
    return prepare(name, index_seed=index_seed, columns=columns, selection=selection)


def prepare(
    name: str, *, index_seed: int = 0, columns: Columns | None = None, selection: Selection | None = None
) -> Prepared:
    """As `load`, but always from the raw files; public data sets and large files are written to the cache.

    Args:
        name: one of `names()`, or a path.
        index_seed: decides the order of item indices.
        columns: as for `load`.
        selection: as for `load`.

    Raises:
        UsageError: as for `load`.
        DataError: as for `load`.
    """
    path = _file(name, columns, selection)
    if name == DEMO:
        from recbench.data.synthetic import demo

        return demo(index_seed=index_seed)
    if path is not None:
        return _prepare_own(path, columns or Columns(), selection or Selection(), index_seed)
    data_set = public_data_set(name)
    source = data_set.read(data_set)
    prepared = assemble(name, data_set.about, source, index_seed=index_seed, partial=data_set.partial)
    check_golden(prepared.card, data_set.golden)
    _keep(prepared, _folder(name, index_seed))
    return prepared


def own_file(name: str) -> Path | None:
    """`name` as the path of a user's file; None when it is meant as the name of a data set."""
    if name in names():
        return None
    path = Path(name).expanduser()
    is_named_so = path.suffix in (".txt", ".gz") or is_table(path)
    looks_like_path = is_named_so or path.exists() or len(path.parts) > 1
    return path if looks_like_path else None


def own_name(path: Path) -> str:
    """What the records call a user's file: its stem, told apart from the public data sets."""
    plain = Path(path.name.removesuffix(".gz"))
    stem = plain.stem if plain.suffix == ".txt" or is_table(plain) else plain.name
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "file"
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
        f"no data set {name!r}; {hint}known are {', '.join(names())}, or give the path of your own file"
    )


def check_golden(card: Card, golden: Golden | None) -> None:
    """Compare with the published sizes, where there are any.

    Raises:
        DataError: they differ.
    """
    for size, published in (golden._asdict() if golden else {}).items():
        found = getattr(card, size)
        if found != published:
            raise DataError(
                f"{card.name}: {size} is {found:,}, but the published data has {published:,}; "
                "replace the raw file by the original"
            )


def _file(name: str, columns: Columns | None, selection: Selection | None) -> Path | None:
    """The user's file that is meant, None for a data set's name, which takes neither option."""
    path = own_file(name)
    for option, value, default in (
        ("columns", columns, Columns()),
        ("selection", selection, Selection()),
    ):
        if path is None and value not in (None, default):
            raise UsageError(
                f"data.{option} is for your own file; with it {name} would be another data set; leave it "
                "out, or give the path of the raw file"
            )
    return path


def _prepare_own(path: Path, columns: Columns, selection: Selection, index_seed: int) -> Prepared:
    """Prepare a user's file, and keep the outcome where that took long."""
    if is_table(path) or columns != Columns():
        from recbench.data.sources import table

        kind, source = "table", table.read_own(path, columns, selection)
    else:
        kind, source = "sequence file", _sequences(path, selection)
    prepared = assemble(own_name(path), f"{kind} {path.name}", source, index_seed=index_seed)
    if path.stat().st_size >= LARGE:
        _keep(prepared, _own_folder(path, columns, selection, index_seed))
    return prepared


def _sequences(path: Path, selection: Selection) -> Source:
    """A sequence file of the user's; what is selected of it keeps its order."""
    content = raw.read(path)
    frame = sequence_file.parse(content, str(path))
    log = Log(frame.with_row_index("row").lazy(), "none")
    source = source_of(log, selection, lambda wanted: bare_items(wanted.to_frame()))
    name = path.name.removesuffix(".gz")
    return source._replace(digests={name: raw.sha256(content)})


def _folder(name: str, index_seed: int) -> Path:
    return raw.cache_folder() / "prepared" / f"{name}-seed{index_seed}"


def _own_folder(path: Path, columns: Columns, selection: Selection, index_seed: int) -> Path:
    """Where a user's file is cached: by its content, the content of a second table, and the options."""
    from recbench.data.sources.table import items_path

    second = items_path(path, columns)
    digests = [raw.digest(file) for file in (path, second) if file is not None]
    key = json.dumps([FORMAT, path.name, digests, asdict(columns), asdict(selection)])
    return _folder(f"{own_name(path)}-{hashlib.sha256(key.encode()).hexdigest()[:16]}", index_seed)


def _keep(prepared: Prepared, folder: Path) -> None:
    """Write to the cache; a cache that cannot be written is only slower."""
    try:
        store.write(prepared, folder)
    except OSError as error:
        _log.warning(
            "%s: prepared data is not kept (%s); set RECBENCH_CACHE to a folder with room", folder, error
        )


def _cached(folder: Path, data_set: DataSet | None) -> Prepared:
    """What the cache holds.

    Raises:
        FileNotFoundError: nothing was prepared yet.
        DataError: it is damaged, or made from other files than those that are here.
    """
    prepared = store.read(folder)
    if data_set is None:
        return prepared
    here = data_set.digests(data_set)
    changed = sorted(file for file, digest in here.items() if prepared.card.sources.get(file) != digest)
    if changed:
        raise DataError(f"{folder}: {changed[0]} is new or has changed")
    check_golden(prepared.card, data_set.golden)
    return prepared
