"""What `recbench data list|prepare|check` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from recbench.data import prepare, raw, recipes, sequence_file
from recbench.data.certificate import certificate
from recbench.data.inspect_file import inspect
from recbench.data.public import DATA_SETS
from recbench.data.tables.columns import Columns
from recbench.data.tables.file import is_table
from recbench.errors import FaultyFileError, UsageError
from recbench.results import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl


def list_text() -> str:
    """The data sets and where they stand on this machine."""
    rows = [(prepare.DEMO, "always here", "made-up town with known signal")]
    for name, data_set in DATA_SETS.items():
        is_public = all(file.url for file in data_set.files)
        missing = "to be downloaded" if is_public else "to be provided"
        about = data_set.about
        if data_set.golden:
            users, items, interactions = data_set.golden
            about += f": {users:,} users, {items:,} items, {interactions:,} interactions"
        about += f"; partial: {data_set.partial}" if data_set.partial else ""
        rows.append((name, "raw file here" if recipes.here(data_set) else missing, about))
    width = max(len(name) for name, _, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{state:<18}{about}" for name, state, about in rows)


def prepare_text(name: str) -> str:
    """Prepare a data set from its raw files and say what came out."""
    start = time.perf_counter()
    card = prepare.prepare(name).card
    seconds = time.perf_counter() - start
    partial = [f"partial: {card.partial}"] if card.partial else []
    head = (
        f"{card.name}: {card.num_users:,} users, {card.num_items:,} items, "
        f"{card.num_interactions:,} interactions, fingerprint {card.fingerprint[:12]}, in {seconds:.2f} s"
    )
    return "\n".join([head, *(f"  {line}" for line in (*partial, *card.notes))])


def check_text(
    name: str,
    *,
    columns: Columns = Columns(),  # noqa: B008 - immutable
    strict: bool = False,
    save: Path | None = None,
) -> str:
    """The certificate of a data set; of a user's own file everything that there is to say.

    Args:
        name: a data set, or the path of a table or a sequence file.
        columns: which column of a table holds what.
        strict: whether a fault is an error.
        save: where to write the settings that use the user's file.

    Raises:
        FaultyFileError: lines of the file are wrong; or `strict` and there are faults. The report has it all.
        DataError: the file cannot be read, or too little is in it.
        UsageError: columns are declared, or settings wanted, for what is no file of the user's.
    """
    path = prepare.own_file(name)
    settings = ""
    if path is None:
        prepared = prepare.load(name)
        if columns != Columns() or save is not None:
            raise UsageError(f"{name} is no file of yours: leave out --columns and --save")
        audited = certificate(prepared, _raw_sequences(name))
        text = audited.text()
    else:
        report = inspect(path, columns, is_table=is_table(path) or columns != Columns())
        audited, text, settings = report.audited, report.text, report.settings
    if strict and audited.faults():
        raise FaultyFileError(f"{name}: {'; '.join(audited.faults())}", report=text)
    if save is not None:
        write_atomic(save, settings.encode())
        text += f"\n\nsaved {save}"
    return text


def _raw_sequences(name: str) -> pl.DataFrame | None:
    """The interactions of a public data set under the ids of its raw file, where that is here."""
    if name == prepare.DEMO:
        return None
    file = prepare.public_data_set(name).sequences
    found = None if file is None else raw.find(file)
    return None if found is None else sequence_file.parse(found.content, str(found.path))
