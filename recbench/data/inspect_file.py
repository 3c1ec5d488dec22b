"""What `recbench data check` says of a user's own file: what is in it, what is wrong, and how to use it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from recbench.data import prepare, sequence_file
from recbench.data.certificate import certificate
from recbench.data.problems import BrokenFileError, describe
from recbench.data.selection import Selection, k_core, narrow
from recbench.data.sequence_file import MIN_ITEMS
from recbench.data.source import Log
from recbench.data.sources import table
from recbench.data.tables.columns import ROLES, Columns, find_columns
from recbench.data.tables.fields import kind_of
from recbench.data.tables.file import SEPARATORS, open_table
from recbench.data.tables.items import find_features
from recbench.errors import FaultyFileError

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.certificate import Certificate
    from recbench.data.sources.table import Examined
    from recbench.data.tables.file import TableFile

_MAX_LISTED = 20
_SAMPLE = 10_000  # rows by which a column's kind is judged
_CORE = 5  # interactions per user and item of the usual benchmark data
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Report:
    """What was found in a good file.

    Args:
        text: for people; ends with the settings.
        settings: the content of a YAML file for `--data`.
        audited: the certificate of what is trained on.
    """

    text: str
    settings: str
    audited: Certificate


def inspect(path: Path, columns: Columns, *, is_table: bool) -> Report:
    """Look through a file.

    Args:
        path: a table, or a sequence file.
        columns: which column of a table holds what.
        is_table: which of the two it is.

    Raises:
        FaultyFileError: lines of it are wrong; the report lists them.
        DataError: it cannot be read at all, or too little is in it to train on.
    """
    try:
        return _of_table(path, columns) if is_table else _of_sequences(path)
    except BrokenFileError as error:
        head = _about_table(open_table(path), columns) if is_table else [f"{path}: sequence file"]
        listed = [f"  {describe(error.where, problem)}" for problem in error.problems[:_MAX_LISTED]]
        if error.num_problems > len(listed):
            listed.append(f"  ... and {error.num_problems - len(listed):,} more")
        count = "1 problem" if error.num_problems == 1 else f"{error.num_problems:,} problems"
        raise FaultyFileError(str(error), report="\n".join([*head, f"{count}:", *listed])) from None


def _of_table(path: Path, columns: Columns) -> Report:
    found = table.examine(path, columns)
    if found.problems:
        raise BrokenFileError(path, found.problems, found.num_problems)
    everything = narrow(found.log, Selection()).interactions
    selection = _suggested(everything)
    kept = narrow(found.log, selection).interactions
    prepared = prepare.load(str(path), columns=columns, selection=selection)
    audited = certificate(prepared, kept if kept["item"].dtype.is_integer() else None)
    settings = _settings(path, found, columns, selection, repeats=audited.repeat_rate > 0)
    lines = [
        *_about_table(found.table, columns),
        *_about_interactions(everything, found.log),
        *_noted(found.log.notes),
        *_warned(everything),
        *_about_cores(everything),
        audited.text(),
        *_how_to_use(settings),
    ]
    return Report("\n".join(lines), settings, audited)


def _of_sequences(path: Path) -> Report:
    frame = sequence_file.sequences(path)
    audited = certificate(prepare.load(str(path)), frame)
    settings = _yaml({"name": str(path)}, repeats=audited.repeat_rate > 0)
    lines = [
        f"{path}: sequence file, a user a line, no times",
        *_about_interactions(frame, Log(frame.lazy(), "none")),
        *_about_cores(frame),
        audited.text(),
        *_how_to_use(settings),
    ]
    return Report("\n".join(lines), settings, audited)


def _about_table(opened: TableFile, columns: Columns) -> list[str]:
    """Format and columns, and what each is read as."""
    separated = f", separated by {SEPARATORS[opened.separator]}" if opened.separator else ""
    roles = find_columns(columns, opened.header, ROLES, opened.top, needed=())
    if table.items_path(opened.path, columns) is None:
        roles |= find_features(opened, columns, roles)
    uses = {column: role for role, column in roles.items()}
    try:
        sample = opened.frame.head(_SAMPLE).collect()
        kinds = {name: kind_of(sample[name]) for name in opened.header}
    except pl.exceptions.PolarsError:  # some row is broken: the problems say which
        kinds = opened.types
    width = max(len(name) for name in [*opened.header, "column"])
    rows = [f"  {name:<{width}}  {kinds[name]:<13}  {uses.get(name, 'not used')}" for name in opened.header]
    return [
        f"{opened.path}: {opened.format}{separated}, {len(opened.header)} columns",
        f"  {'column':<{width}}  {'holds':<13}  read as",
        *rows,
    ]


def _about_interactions(frame: pl.DataFrame, log: Log) -> list[str]:
    """Sizes, lengths and the span of time."""
    lengths = frame.group_by("user").len()["len"].to_numpy()
    quantiles = " / ".join(f"{value:g}" for value in np.quantile(lengths, _QUANTILES))
    lines = [
        f"{_sizes(frame)}, {len(frame):,} interactions",
        f"interactions per user, 0/25/50/75/95/100 %: {quantiles}",
    ]
    if log.clock == "unix":
        days = [datetime.fromtimestamp(at, UTC).date() for at in (frame["time"].min(), frame["time"].max())]  # type: ignore[arg-type]
        lines.append(f"times from {days[0]} to {days[1]}, {(days[1] - days[0]).days:,} days")
    return lines


def _noted(notes: tuple[str, ...]) -> list[str]:
    return [f"note: {note}" for note in notes]


def _warned(frame: pl.DataFrame) -> list[str]:
    """What is legal, and seldom meant."""
    if "time" not in frame.columns:
        return ["warning: no times, so the order of the rows is taken for the order of events"]
    found = []
    tied = frame.group_by("user").agg(pl.col("time").is_duplicated().any())["time"]
    if tied.any():
        share = tied.sum() / len(tied)
        found.append(
            f"warning: {share:.2%} of the users have interactions at the same time, whose order is that of "
            "the rows: a sequence by name only"
        )
    num_copies = len(frame) - frame.select("user", "item", "time").n_unique()
    if num_copies:
        found.append(
            f"warning: {num_copies:,} rows repeat user, item and time of another; all are kept, "
            "selection.merge_repeats: true keeps the first of each user and item"
        )
    return found


def _about_cores(frame: pl.DataFrame) -> list[str]:
    core = k_core(frame, min_user=_CORE, min_item=_CORE)
    if not len(core):
        return [f"{_CORE}-core: nothing is left"]
    return [
        f"{_CORE}-core: {_sizes(core)}, {len(core):,} interactions ({len(core) / len(frame):.2%}) are left"
    ]


def _sizes(frame: pl.DataFrame) -> str:
    return f"{frame['user'].n_unique():,} users, {frame['item'].n_unique():,} items"


def _suggested(frame: pl.DataFrame) -> Selection:
    """The 5-core where it leaves anything to compare, else everything that can be split."""
    core = k_core(frame, min_user=_CORE, min_item=_CORE)
    if min(core["user"].n_unique(), core["item"].n_unique()) >= 2:
        return Selection(min_user=_CORE, min_item=_CORE)
    return Selection(min_user=MIN_ITEMS)


def _settings(path: Path, found: Examined, columns: Columns, selection: Selection, *, repeats: bool) -> str:
    declared = {role: value for role, value in vars(columns).items() if value}
    content: dict[str, object] = {
        "name": str(path),
        "columns": found.roles | declared,
        "selection": {"min_user": selection.min_user, "min_item": selection.min_item},
    }
    return _yaml(content, repeats=repeats)


def _yaml(content: dict[str, object], *, repeats: bool) -> str:
    """A file for `--data`; items that a user had are barred only where nobody has one twice."""
    import yaml

    settings = content | {"max_len": 50, "mask_seen": not repeats}
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return text


def _how_to_use(settings: str) -> list[str]:
    return ["", "To train on it, save the lines below as mine.yaml and run",
            "  recbench fit --model sasrec --data mine.yaml", "", settings.rstrip()]  # fmt: skip
