"""What may stand in a column of a table, as polars expressions over its text: ids, times, numbers.

A fault is a rule: an expression that is true where a value breaks it, and what to tell the user. The same
rules say whether a file is good, in one pass over all of it, and which rows are not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

from recbench.data.problems import MAX_PROBLEMS, Problem, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recbench.data.tables.file import TableFile

TimeUnit = Literal["seconds", "milliseconds", "microseconds", "nanoseconds", "date", "day number", "order"]
UNITS: dict[TimeUnit, tuple[float, float]] = {  # numbers from .. below, and so 1973 .. 5138
    "seconds": (0, 1e11),
    "milliseconds": (1e11, 1e14),
    "microseconds": (1e14, 1e17),
    "nanoseconds": (1e17, 9.3e18),
}
PER_SECOND: dict[TimeUnit, float] = {
    "seconds": 1,
    "milliseconds": 1e3,
    "microseconds": 1e6,
    "nanoseconds": 1e9,
    "order": 1,
}
COORDINATES = {"latitude": 90.0, "longitude": 180.0}  # degrees, at most, either way
_1980 = 315_532_800  # unix seconds; a file whose times are all before it does not hold unix seconds
_DAY = 86_400
_NUMBER = r"^[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?$"
_WHOLE_ID = r"^(?:0|[1-9][0-9]{0,17})(?:\.0)?$"
_DAY_NUMBER = r"^(?:19[7-9]|20[0-9])[0-9](?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])$"
_NOTHING = ["", "nan", "NaN", "NAN", "null", "NULL", "None", "NaT", "<NA>"]  # what tools write for no value


class Fault(NamedTuple):
    """A rule: `broken` is true where a value of column `role` breaks it; `text` has `{}` for the value."""

    role: str
    broken: pl.Expr
    text: str


def list_problems(table: TableFile, rows: pl.LazyFrame, faults: list[Fault]) -> list[Problem]:
    """The rows that break a rule, each with the first rule that it breaks.

    Args:
        table: the file.
        rows: its rows, with `row` and a column for the role of every fault.
        faults: the rules.
    """
    flags = {f"fault {number}": fault.broken.fill_null(value=False) for number, fault in enumerate(faults)}
    bad = table.collect(rows.with_columns(**flags).filter(pl.any_horizontal(*flags)).head(MAX_PROBLEMS))
    lines = table.places(bad["row"].to_list()) if len(bad) else []
    found = []
    for line, row in zip(lines, bad.iter_rows(named=True), strict=True):
        fault = next(fault for flag, fault in zip(flags, faults, strict=True) if row[flag])
        value = row[fault.role]
        text = fault.text.format("empty" if value is None or value == "" else shown(value))
        found.append(Problem(line, text if line else f"row {row['row'] + 1}: {text}"))
    return found


def stripped(role: str) -> pl.Expr:
    """The text of a column without white space around it."""
    return pl.col(role).str.strip_chars()


def is_nothing(role: str) -> pl.Expr:
    """Where a column holds no value, or a word that tools write for none."""
    return pl.col(role).is_null() | stripped(role).is_in(_NOTHING)


def id_faults(role: str) -> list[Fault]:
    """The rules of user and item ids: any text, on one line."""
    return [
        Fault(role, is_nothing(role), f"{role} is missing ({{}}); fill it in or remove the row"),
        Fault(
            role,
            stripped(role).str.contains(r"[\x00-\x1f\x7f]"),
            f"{role} {{}} has a line break or control character in it, as after a quote that does not close; "
            "write ids on one line",
        ),
    ]


def id_value(role: str, *, is_whole: bool) -> pl.Expr:
    """Ids as they are kept: Int64 where every one in the file is a whole number, else String."""
    text = stripped(role)
    return text.str.strip_suffix(".0").cast(pl.Int64, strict=False) if is_whole else text


def id_facts(role: str) -> dict[str, pl.Expr]:
    """What decides how ids are kept, over a whole file."""
    text = stripped(role)
    return {
        f"{role}_is_whole": text.str.contains(_WHOLE_ID).all(),
        f"{role}_has_point": text.str.ends_with(".0").any(),
        f"{role}_num_stripped": (text != pl.col(role)).sum(),
        f"{role}_first": text.min(),
        f"{role}_last": text.max(),
    }


def number(role: str) -> pl.Expr:
    """The numbers in a column as Float64; null where there is none, or infinity."""
    value = stripped(role).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def number_faults(role: str) -> list[Fault]:
    """The rules of ratings and coordinates: a number, and a place on earth."""
    way_out = f"correct it, remove the row, or set columns.{role} to '-' to go without"
    faults = [Fault(role, number(role).is_null(), f"{role} {{}} is not a number; {way_out}")]
    if role in COORDINATES:
        limit = COORDINATES[role]
        text = f"{role} {{}} is not within -{limit:g} to {limit:g} degrees; {way_out}"
        faults.append(Fault(role, number(role).abs() > limit, text))
    return faults


def moment() -> pl.Expr:
    """Dates as microseconds since 1970, UTC where they name no other zone; null where there is none.

    `2019-12-13`, `2019-12-13 15:51[:19[.123]]`, with a T between or not, with `Z`, `UTC` or `+02:00` or not.
    """
    text = stripped("time").str.replace(r"^(\d{4}-\d\d-\d\d) +(\d)", "${1}T${2}")
    length = text.str.len_bytes()
    full = (
        pl.when(length == 10).then(text + "T00:00:00").when(length == 16).then(text + ":00").otherwise(text)
    )
    is_date = text.str.contains(r"^\d{4}-\d\d-\d\d(?:T\d\d:\d\d|$)")
    return pl.when(is_date).then(
        pl.coalesce(
            full.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us").dt.epoch("us"),
            full.str.to_datetime("%+", strict=False, time_unit="us", time_zone="UTC").dt.epoch("us"),
        )
    )


def time_facts() -> dict[str, pl.Expr]:
    """What decides the unit of the times, over a whole file, if they are numbers: those in `number`."""
    given = pl.col("number")
    return {
        **{f"num_{unit}": given.is_between(*bounds, closed="left").sum() for unit, bounds in UNITS.items()},
        "num_day_numbers": stripped("time").str.contains(_DAY_NUMBER).sum(),
        "num_words": (given.is_null() & ~is_nothing("time")).sum(),
        "largest": given.max(),
        **{f"fine_{unit}": (given % per != 0).any() for unit, per in PER_SECOND.items()},
    }


def date_facts() -> dict[str, pl.Expr]:
    """As `time_facts`, if they are dates; slower, and of no use where there are no words."""
    dated = moment()
    is_zoned = stripped("time").str.contains(r"(?:Z|UTC|[-+]\d\d:?\d\d)$")
    return {
        "num_dates": dated.is_not_null().sum(),
        "num_zoned": (is_zoned & dated.is_not_null()).sum(),
        "fine_date": (dated % 1_000_000 != 0).any(),
    }


NO_DATES = {"num_dates": 0, "num_zoned": 0, "fine_date": False}  # what `date_facts` finds without words


def time_unit(facts: Mapping[str, float]) -> TimeUnit:
    """What most times of the file are in."""
    counts: dict[TimeUnit, float] = {unit: facts[f"num_{unit}"] for unit in UNITS}
    counts["date"] = facts["num_dates"]
    unit = max(counts, key=lambda name: counts[name])
    if unit != "seconds":
        return unit
    if 0 < facts["num_day_numbers"] == facts["num_seconds"]:
        return "day number"
    return "order" if facts["num_seconds"] and facts["largest"] < _1980 else unit


def seconds(unit: TimeUnit) -> pl.Expr:
    """Times in seconds as Float64, fractions kept, of `time` or `number`; null where it is no such time."""
    if unit == "date":
        return moment() / 1_000_000
    if unit == "day number":
        return stripped("time").str.to_datetime("%Y%m%d", strict=False).dt.epoch("s").cast(pl.Float64)
    return pl.col("number") / PER_SECOND[unit]


def time_faults(unit: TimeUnit) -> list[Fault]:
    """The rules of times, once it is known what most of the file's are in; of `number` and `seconds` too."""
    value, given = pl.col("seconds"), pl.col("number")
    missing = "time is missing ({}); fill it in, remove the row, or set columns.time to '-' to go without"
    dates = "dates such as 2019-12-13 15:51:19"
    if unit in ("date", "day number"):
        other = [Fault("time", value.is_null(), f"time {{}} is no date as others here are; write {dates}")]
    else:
        bounds = UNITS["seconds" if unit == "order" else unit]
        name = "plain numbers" if unit == "order" else f"unix {unit}"
        other = [
            Fault("time", given.is_null(), f"time {{}} is not a number; write unix seconds, or {dates}"),
            Fault("time", given < 0, "time {} is negative, so before 1970; correct it or remove the row"),
            Fault(
                "time",
                ~given.is_between(*bounds, closed="left"),
                f"time {{}} is not in {name} as others here are; write all times in one unit",
            ),
        ]
    future = Fault(
        "time", value > time.time() + _DAY, "time {} lies in the future; correct it or remove the row"
    )
    return [Fault("time", is_nothing("time"), missing), *other, future]


def kind_of(column: pl.Series) -> str:
    """What a column of text or lists holds, judged by its values: for people, nothing depends on it."""
    if column.dtype != pl.String:
        return "lists"
    text = column.drop_nulls().str.strip_chars()
    text = text.filter(text != "")
    if text.is_empty():
        return "nothing"
    if text.str.contains(r"^[-+]?[0-9]+$").all():
        return "whole numbers"
    if text.str.contains(_NUMBER).all():
        return "numbers"
    dates = pl.DataFrame({"time": text}).select(moment()).to_series()
    return "dates" if not dates.null_count() else "text"
