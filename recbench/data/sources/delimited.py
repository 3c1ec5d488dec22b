"""Tables of fields between separators, read lazily and checked before anyone relies on them.

polars says that some value somewhere is no number; what a user needs is the line. So a table is read by
polars with its declared types, and only when that fails are its lines gone through one by one, to name the
first bad one.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from recbench.data import raw
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import NoReturn

Columns = dict[str, type[pl.DataType]]
EARLIEST, LATEST = 0, 4_102_444_800  # 1970 and 2100; a time in milliseconds lies far beyond
_NUMBERS: dict[type[pl.DataType], tuple[type[int] | type[float], str]] = {
    pl.Int64: (int, "a whole number"),
    pl.Float64: (float, "a number"),
}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the lines of a table are made.

    Args:
        columns: name and type (Int64, Float64 or String) of every field, in file order; a column called
            `time` holds unix seconds.
        separator: between fields; longer than one character only where no tab can be in the file.
        has_header: the first line names the columns.
        is_quoted: a field may stand in double quotes, and then hold the separator.
        is_latin1: the text is ISO-8859-1, not UTF-8.
        optional: columns whose fields may be empty.
    """

    columns: Mapping[str, type[pl.DataType]]
    separator: str = "\t"
    has_header: bool = False
    is_quoted: bool = False
    is_latin1: bool = False
    optional: frozenset[str] = frozenset()


def scan(path: Path, layout: Layout) -> pl.LazyFrame:
    """The table at `path`, plain or gzip: its columns and `row`, the place in the file from 0.

    A plain UTF-8 file is not held in memory; checking it is one streaming pass.

    Raises:
        DataError: the file is unreadable or empty, or a line is not as `layout` says; the message has its
            number.
    """
    separator = layout.separator if len(layout.separator) == 1 else "\t"
    frame = pl.scan_csv(
        _content(path, layout),
        separator=separator,
        has_header=False,
        skip_rows=int(layout.has_header),  # polars would match columns by the names in the header
        quote_char='"' if layout.is_quoted else None,
        schema=dict(layout.columns),
        row_index_name="row",
    )
    wrong = [pl.col(name).is_null().any() for name in layout.columns if name not in layout.optional]
    wrong += [pl.col(name).is_nan().any() for name, kind in layout.columns.items() if kind == pl.Float64]
    if "time" in layout.columns:
        wrong += [~pl.col("time").is_between(EARLIEST, LATEST).all()]
    # every column is looked at, for polars counts no fields that it need not read
    read = pl.all_horizontal(pl.col(name).is_null().all() for name in layout.columns)
    try:
        checked = frame.select(pl.len(), pl.any_horizontal(wrong).alias("wrong"), read.alias("read"))
        size, is_wrong, _ = checked.collect(engine="streaming").row(0)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        _refuse(path, layout, str(error).splitlines()[0])
    if is_wrong or not size:
        _refuse(path, layout, "a field is empty, no number, or a time out of range")
    return frame


def header(path: Path, separator: str = "\t") -> list[str]:
    """The fields of the first line.

    Raises:
        DataError: the file is unreadable or its first line empty.
    """
    line = next(_lines(path), b"").removeprefix(_BOM).decode("utf-8", errors="replace").rstrip("\r\n")
    if not line.strip():
        raise DataError(
            f"{path}:1: the first line is empty; it should name the columns; fetch the file again"
        )
    return [name.strip().strip('"') for name in line.split(separator)]


def _content(path: Path, layout: Layout) -> Path | bytes:
    """What polars reads: the file itself, or its content where it needs unpacking or recoding."""
    is_plain = path.is_file() and not next(_lines(path), b"").startswith(_BOM)
    if is_plain and not layout.is_latin1 and len(layout.separator) == 1 and not _is_gzip(path):
        return path
    content = raw.read(path).removeprefix(_BOM)
    if layout.is_latin1:
        content = content.decode("latin-1").encode()
    return content if len(layout.separator) == 1 else content.replace(layout.separator.encode(), b"\t")


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain or gzip file, one at a time."""
    if not path.is_file():
        raw.read(path)  # says why
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error):
        raw.read(path)  # says why
        raise


def _refuse(path: Path, layout: Layout, otherwise: str) -> NoReturn:
    """Name the first bad line; `otherwise` is what polars said, for the case that none is found."""
    number = 0
    for number, fields in _rows(path, layout):
        fault = None if number == 1 and layout.has_header else _fault(fields, layout)
        if fault:
            raise DataError(f"{path}:{number}: {fault}")
    if number <= layout.has_header:
        what = "has a header and no rows" if number else "is empty"
        raise DataError(f"{path}: the file {what}; fetch it again")
    raise DataError(f"{path}: cannot be read as a table ({otherwise}); fetch it again")


def _rows(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """The number of each row's last line, and its fields."""
    number, encoding = 0, "latin-1" if layout.is_latin1 else "utf-8"

    def texts() -> Iterator[str]:
        nonlocal number
        for line in _lines(path):
            number += 1
            yield line.removeprefix(_BOM).decode(encoding).rstrip("\r\n")

    try:
        if layout.is_quoted:
            for fields in csv.reader(texts(), delimiter=layout.separator):
                yield number, fields
        else:
            for text in texts():
                yield number, text.split(layout.separator)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{path}:{number}: byte {byte:#04x} is not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}:{number}: {error}; correct the line") from None


def _fault(fields: list[str], layout: Layout) -> str | None:
    """What is wrong with one line, and what to do; None if nothing is."""
    names = list(layout.columns)
    if fields in ([], [""]):
        return "the line is blank; remove it"
    if len(fields) != len(names):
        wanted = f"{len(names)}, separated by {layout.separator!r} ({', '.join(names)})"
        return f"has {len(fields)} field{'s' * (len(fields) != 1)} and should have {wanted}; correct the line"
    for field, (name, kind) in zip(fields, layout.columns.items(), strict=True):
        if not field:
            if name in layout.optional:
                continue
            return f"{name} is empty; fill it in or remove the line"
        fault = _number_fault(name, field, kind) if kind in _NUMBERS else None
        if fault:
            return fault
    return None


def _number_fault(name: str, field: str, kind: type[pl.DataType]) -> str | None:
    """What is wrong with a field that should be a number."""
    parse, article = _NUMBERS[kind]
    shown = repr(field if len(field) <= 40 else f"{field[:40]}…")
    try:
        value = parse(field) if field == field.strip() else None
    except ValueError:
        value = None
    if value is None or math.isnan(value):
        return f"{name} {shown} is not {article}; correct it, or remove the line if it is a header"
    if name == "time" and not EARLIEST <= value <= LATEST:
        way_out = "it looks like milliseconds, divide by 1000" if value > LATEST else "correct it"
        return f"time {shown} is not between 1970 and 2100 in unix seconds; {way_out}"
    return None
