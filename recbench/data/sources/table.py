"""Your own table: CSV, TSV, JSON lines or Parquet, one row per interaction, plain or gzip.

Needed are a column of users and one of items; times, ratings and what is known of the items are used where
there are columns for them. Every value in use must be there and make sense; the message for one that does not
names its line. Mended, and noted, is only what leaves no doubt: a byte order mark, empty lines, white space
around ids, ids written as 12.0 throughout, and times in milliseconds, microseconds or nanoseconds, which are
known by the year that they would give as seconds. Dates without a zone are UTC. Times that are all far before
1980 (1, 2, 3, ...) count as an order, from the user's first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from recbench.data.problems import BrokenFileError, Problem, shown
from recbench.data.selection import narrow
from recbench.data.sequence_file import MIN_ITEMS
from recbench.data.source import Log, Source
from recbench.data.tables.columns import ROLES, Columns, find_columns
from recbench.data.tables.fields import (
    NO_DATES,
    date_facts,
    id_facts,
    id_faults,
    id_value,
    list_problems,
    number,
    number_faults,
    seconds,
    time_facts,
    time_faults,
    time_unit,
)
from recbench.data.tables.file import TableFile, open_bytes, open_table
from recbench.data.tables.items import items_path, table_items
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from recbench.data.selection import Selection
    from recbench.data.source import Clock
    from recbench.data.tables.fields import Fault, TimeUnit

__all__ = ["Columns", "Examined", "examine", "items_path", "read_own", "read_table", "table_items"]


class Examined(NamedTuple):
    """A table that was read through once.

    Args:
        table: the file.
        roles: what is read -> its column.
        unit: what the times are in; None without times.
        problems: what is wrong, in order of lines; the first `MAX_PROBLEMS`.
        num_problems: how many rows are wrong.
        log: the interactions; good only where there are no problems.
    """

    table: TableFile
    roles: dict[str, str]
    unit: TimeUnit | None
    problems: list[Problem]
    num_problems: int
    log: Log


def read_table(path: Path, columns: Columns = Columns()) -> Log:  # noqa: B008 - immutable
    """The interactions of a user's own table.

    Args:
        path: the file.
        columns: which column holds what; found by its usual names where not declared.

    Raises:
        DataError: the file or a row of it is not as it must be; the message names the first such line.
    """
    found = examine(path, columns)
    if found.problems:
        raise BrokenFileError(path, found.problems, found.num_problems)
    return found.log


def read_own(path: Path, columns: Columns, selection: Selection) -> Source:
    """A user's own table, selected and with what is known of its items, ready to be numbered.

    Users with fewer than 3 interactions are dropped whatever `selection` says: one item each is needed to
    train, to validate and to test on.

    Args:
        path: the file.
        columns: which column holds what, and the table of the items, if there is a second one.
        selection: what to keep.

    Raises:
        DataError: a file or a row of it is not as it must be, or nothing is left.
        UsageError: the file has no times or ratings to select by.
    """
    log = read_table(path, columns)
    try:
        kept = narrow(log, replace(selection, min_user=max(selection.min_user, MIN_ITEMS)))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    interactions = kept.interactions.with_columns(pl.col(pl.Categorical).cast(pl.String))
    items = table_items(path, columns, interactions["item"])
    files = [file for file in (path, items_path(path, columns)) if file is not None]
    digests = {file.name.removesuffix(".gz"): open_bytes(file).sha256() for file in files}
    return Source(interactions, items, log.clock, digests, notes=(*log.notes, *kept.notes))


def examine(path: Path, columns: Columns = Columns()) -> Examined:  # noqa: B008 - immutable
    """As `read_table`, but with everything that is wrong in the rows, and what was found on the way.

    Raises:
        DataError: the file cannot be read as a table at all, or has no column for users or items.
    """
    table = open_table(path)
    roles = find_columns(columns, table.header, ROLES, table.top, needed=("user", "item"))
    facts = _facts(table, roles)
    unit = time_unit(facts) if "time" in roles else None
    rows = table.rows(roles)
    if unit is not None:
        rows = rows.with_columns(number=number("time")).with_columns(seconds=seconds(unit))
    faults = [fault for role in roles for fault in _faults(role, unit)]
    counted = rows.select(pl.any_horizontal(fault.broken for fault in faults).sum().alias("n"))
    num_problems = int(table.collect(counted)["n"][0])
    problems = list_problems(table, rows, faults) if num_problems else []
    if facts["num_open"] > facts["num_blank"]:  # fields at the end of a row may be absent, not empty
        short = table.short_rows()
        lines = {problem.line for problem in short}
        problems = sorted(short + [problem for problem in problems if problem.line not in lines])
        num_problems = max(num_problems, len(problems))
    if not problems and (only := _only(facts)):
        problems, num_problems = [only], 1
    return Examined(table, roles, unit, problems, num_problems, _log_of(table, rows, roles, facts, unit))


def _facts(table: TableFile, roles: Mapping[str, str]) -> dict[str, Any]:
    """What one pass over the rows finds out.

    Raises:
        DataError: there are no rows, or a column holds lists.
    """
    schema = table.frame.collect_schema()
    for role, column in roles.items():
        if schema[column] != pl.String:
            raise DataError(f"{table.path}: column {shown(column)} holds lists; a {role} is a single value")
    frame = table.frame.select(
        is_open=pl.col(table.header[-1]).is_null() if table.separator else pl.lit(value=False),
        is_blank=table.is_blank,
        **{role: pl.col(column) for role, column in roles.items()},
    ).with_columns(number=number("time") if "time" in roles else pl.lit(None))
    counts = {
        "num_rows": (~pl.col("is_blank")).sum(),
        "num_open": pl.col("is_open").sum(),
        "num_blank": pl.col("is_blank").sum(),
    }
    times = time_facts() if "time" in roles else {}
    found = table.collect(frame.select(**counts, **id_facts("user"), **id_facts("item"), **times))
    facts = found.row(0, named=True)
    has_words = facts.get("num_words", 0) > 0
    facts |= table.collect(frame.select(**date_facts())).row(0, named=True) if has_words else NO_DATES
    if not facts["num_rows"]:
        raise DataError(f"{table.path}: there is a header and nothing below; add one row per interaction")
    return facts


def _faults(role: str, unit: TimeUnit | None) -> list[Fault]:
    if role in ("user", "item"):
        return id_faults(role)
    if role == "time":
        assert unit is not None
        return time_faults(unit)
    return number_faults(role)


def _only(facts: Mapping[str, Any]) -> Problem | None:
    """A file with nobody to compare with, or nothing to recommend."""
    for role in ("user", "item"):
        if facts[f"{role}_first"] == facts[f"{role}_last"]:
            text = f"{shown(facts[f'{role}_first'])} is the only {role} in {facts['num_rows']:,} rows; "
            return Problem(0, text + "at least 2 are needed")
    return None


def _log_of(
    table: TableFile,
    rows: pl.LazyFrame,
    roles: Mapping[str, str],
    facts: Mapping[str, Any],
    unit: TimeUnit | None,
) -> Log:
    """The interactions with typed values, and what was mended."""
    notes = list(table.notes)
    if facts["num_blank"]:
        notes.append(f"{facts['num_blank']:,} empty lines left out")
    values: dict[str, pl.Expr] = {}
    for role in ("user", "item"):
        values[role] = id_value(role, is_whole=facts[f"{role}_is_whole"])
        if facts[f"{role}_is_whole"] and facts[f"{role}_has_point"]:
            notes.append(f"{role} ids are written as 12.0; read as whole numbers")
        if facts[f"{role}_num_stripped"]:
            notes.append(f"white space around {facts[f'{role}_num_stripped']:,} {role} ids left out")
    if "rating" in roles:
        values["rating"] = number("rating")
    if unit is None:
        return Log(rows.select("row", **values), "none", tuple(notes))
    notes += _time_notes(unit, facts)
    exact = rows.select("row", **values, time=pl.col("seconds"))
    if unit != "day number" and facts[f"fine_{unit}"]:  # what comes first within a second is known here only
        exact = exact.sort("time", "row").drop("row").with_row_index("row")
        notes.append("times are finer than a second: fractions decide the order, and are then left out")
    whole = exact.with_columns(time=pl.col("time").floor().cast(pl.Int64, strict=False))
    clock: Clock = "unix"
    if unit == "order":
        clock = "relative"
        whole = whole.with_columns(time=pl.col("time") - pl.col("time").min().over("user"))
    return Log(whole, clock, tuple(notes))


def _time_notes(unit: TimeUnit, facts: Mapping[str, Any]) -> list[str]:
    """How the times were understood, where that is not plain unix seconds."""
    if unit == "seconds":
        return []
    if unit == "order":
        return [
            f"times end at {facts['largest']:g}, before 1980 as unix seconds: used as an order, not as dates"
        ]
    if unit == "day number":
        return ["times are days written as 20191213; read as midnight UTC"]
    if unit == "date":
        num_zoned, num_dates = facts["num_zoned"], facts["num_dates"]
        return [f"{num_dates - num_zoned:,} dates name no zone; read as UTC"] if num_zoned < num_dates else []
    year = 1970 + facts["largest"] / (365.2425 * 86_400)
    return [f"times are unix {unit} (as seconds they would lie in the year {year:,.0f}); converted"]
