"""Tables as they lie on disk: CSV, TSV, JSON lines and Parquet, plain or gzip, opened as columns of text.

Text is UTF-8, with or without byte order mark, with any line ends; the first line names the columns. The
separator is found by itself: comma, semicolon, tab or bar. Fields with the separator, a quote or a line break
in them stand in double quotes, quotes inside doubled (RFC 4180). A file is read twice, lazily and in little
memory: once to see that it is sound, once for its content. Only where something is wrong it is read a third
time, slowly, for the lines to blame.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from recbench.data import raw
from recbench.data.problems import MAX_PROBLEMS, BrokenFileError, Problem, shown
from recbench.data.tables import lines
from recbench.data.tables.lines import Bytes
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Format = Literal["CSV", "JSON lines", "Parquet"]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq")
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SAMPLE = 1 << 16  # bytes in which the separator is looked for
_SAMPLE_LINES = 1000  # JSON lines in which the keys are looked for
_GZIP = b"\x1f\x8b"
_UNUSED = "\x01"  # a separator that cuts nothing in a text
_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or an Excel file",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"\x80\x02": "a pickle, which is never opened since it can run code",
    b"\x80\x03": "a pickle, which is never opened since it can run code",
    b"\x80\x04": "a pickle, which is never opened since it can run code",
    b"\x80\x05": "a pickle, which is never opened since it can run code",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


@dataclass(frozen=True)
class TableFile:
    """A table that was opened.

    Args:
        file: its bytes.
        format: what it is.
        separator: between the fields of a CSV file; empty for other formats.
        types: column -> what the file says it holds: `text` throughout where the format knows nothing else.
        frame: every column as String, or List(String) where the file has lists.
        notes: what was mended in opening.
    """

    file: Bytes
    format: Format
    separator: str
    types: dict[str, str]
    frame: pl.LazyFrame
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.file.path

    @property
    def top(self) -> str:
        """Where the names of the columns stand, for messages."""
        return f"{self.path}" if self.format == "Parquet" else f"{self.path}:1"

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.types)

    def rows(self, roles: Mapping[str, str]) -> pl.LazyFrame:
        """The columns of `roles` (role -> column) under the names of the roles, and `row`, counted from 0.

        Empty lines are left out, though they count as rows.
        """
        frame = self.frame.with_row_index("row")
        return frame.filter(~self.is_blank).select(
            "row", **{role: pl.col(name) for role, name in roles.items()}
        )

    @property
    def is_blank(self) -> pl.Expr:
        """Rows of `frame` without any value, such as an empty line gives."""
        return pl.all_horizontal(pl.col(name).is_null() for name in self.header)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """`frame`, which derives from this table, in memory.

        Raises:
            DataError: the file is not sound; the message names the first line to blame.
        """
        try:
            return frame.collect(engine="streaming")
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            found = self.unsound() or [Problem(0, f"cannot be read ({str(error).splitlines()[0]})")]
            raise BrokenFileError(self.path, found) from None

    def unsound(self) -> list[Problem]:
        """Lines that are no rows of this table, looked for one by one."""
        if self.format == "Parquet":
            return []
        with self.file.text() as text:
            if self.separator:
                return lines.ragged(text, self.separator, len(self.types))
            return lines.not_json(text)

    def short_rows(self) -> list[Problem]:
        """Lines with fewer fields than the header, whose absent fields would pass for empty ones."""
        whole = pl.scan_csv(
            self.file.source,
            has_header=False,
            separator=_UNUSED,
            quote_char=None,
            infer_schema=False,
            new_columns=["text"],
            truncate_ragged_lines=True,
        )
        text, fields = pl.col("text"), pl.col("fields")
        counted = whole.with_row_index("line", offset=1).filter(
            ~text.str.contains('"', literal=True), text.str.strip_chars() != ""
        )
        counted = counted.with_columns(fields=text.str.count_matches(self.separator, literal=True) + 1)
        short = counted.filter(fields < len(self.types)).select("line", "fields").head(MAX_PROBLEMS)
        found = self.collect(short).iter_rows()
        return [Problem(line, lines.ragged_text(number, len(self.types))) for line, number in found]

    def places(self, rows: Sequence[int]) -> list[int]:
        """The lines at which these rows of `frame` (from 0, ascending) begin; 0 in Parquet."""
        if self.format == "Parquet":
            return [0] * len(rows)
        with self.file.text() as text:
            starts = lines.record_lines(text, self.separator) if self.separator else lines.json_lines(text)
            wanted = set(rows)
            numbered = zip(range(rows[-1] + 1), starts, strict=False)
            return [line for row, line in numbered if row in wanted]


def is_table(path: Path) -> bool:
    """Whether the name of a file says that it is a table; any other is taken for a sequence file."""
    return _suffix(path) in SUFFIXES


def open_table(path: Path) -> TableFile:
    """Open a table of any format.

    Raises:
        DataError: it is missing, unreadable, of an unknown format, not text, empty, or has no header.
    """
    file = open_bytes(path)
    start = file.start(_SAMPLE)
    if not start.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{path}: the file is empty; it should hold a header and one row per interaction")
    if start.startswith(b"PAR1"):
        return _open_parquet(file)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{path}: this is {kind}; save the table as CSV in UTF-8, or as Parquet")
    if _suffix(path) in (".parquet", ".pq"):
        raise DataError(
            f"{path}: not a Parquet file, it starts with {shown(start[:8].decode('latin-1'))}; write it "
            "anew, or name it after what it is"
        )
    file.refuse_binary()
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"{"):
        return _open_json_lines(file)
    if text.startswith(b"["):
        raise DataError(
            f"{path}:1: starts with '[', as one JSON array does; write one object a line, as "
            "`jq -c '.[]'` does"
        )
    return _open_csv(file)


def open_bytes(path: Path) -> Bytes:
    """The bytes of a file, unpacked where it is gzip.

    Raises:
        DataError: it is missing, unreadable, or damaged gzip.
    """
    file = Bytes(path)
    is_zipped = not path.is_file() or path.suffix == ".gz" or file.start(2) == _GZIP
    return Bytes(path, raw.read(path)) if is_zipped else file


def _open_csv(file: Bytes) -> TableFile:
    start = file.start(_SAMPLE).decode("utf-8-sig", errors="ignore")
    if "\r" in start and "\n" not in start:
        raise DataError(
            f"{file.path}:1: lines end with carriage returns, as in old Mac files; use line feeds"
        )
    separator = _separator(file.path, start)
    with file.text() as text:
        header = [name.strip() for name in next(lines.records(text, separator))[1]]
    for name in header:
        if header.count(name) > 1 or not name:
            what = f"two columns are called {shown(name)}" if name else "a column has no name"
            raise DataError(f"{file.path}:1: {what}; give each its own name in the header")
    frame = pl.scan_csv(
        file.source, separator=separator, infer_schema=False, with_column_names=lambda _: list(header)
    )
    return TableFile(file, "CSV", separator, dict.fromkeys(header, "text"), frame, _mended(file))


def _open_json_lines(file: Bytes) -> TableFile:
    keys: dict[str, str] = {}
    with file.text() as text:
        for _, line in zip(range(_SAMPLE_LINES), text, strict=False):
            try:
                value = json.loads(line) if line.strip() else {}
            except (ValueError, RecursionError):
                break  # which line it is, and why, is said when it is read
            keys |= dict.fromkeys(value, "text") if isinstance(value, dict) else {}
    source, notes = file.source, _mended(file)
    if notes:  # polars takes no byte order mark here
        with file.opened() as opened:
            source = io.BytesIO(opened.read().removeprefix(codecs.BOM_UTF8))
    frame = pl.scan_ndjson(source, schema=pl.Schema(dict.fromkeys(keys, pl.String)))
    table = TableFile(file, "JSON lines", "", keys, frame, notes)
    if not keys:
        raise BrokenFileError(
            file.path, table.unsound() or [Problem(1, "an object without keys; name the columns")]
        )
    return table


def _open_parquet(file: Bytes) -> TableFile:
    try:
        frame = pl.scan_parquet(file.source)
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{file.path}: damaged Parquet file ({why}); write it anew") from None
    texts = {name: text for name, dtype in schema.items() if (text := _as_text(name, dtype)) is not None}
    types = {name: str(schema[name]) for name in texts}
    return TableFile(file, "Parquet", "", types, frame.select(**texts))


def _mended(file: Bytes) -> tuple[str, ...]:
    has_mark = file.start(3) == codecs.BOM_UTF8
    return ("starts with a byte order mark, which was left out",) if has_mark else ()


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr | None:
    """A Parquet column as the text that a CSV file would have; None for what no column here can be."""
    column = pl.col(name)
    if dtype.is_float():  # 3.0 is what pandas makes of 3 where a value is missing
        is_whole = (column == column.round()) & (column.abs() < 2**53)
        return pl.when(is_whole).then(column.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(
            column.cast(pl.String)
        )  # fmt: skip
    if dtype in (pl.Date, pl.Datetime):
        return column.dt.to_string("iso")
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)) if not dtype.inner.is_nested() else None
    return None if dtype.is_nested() or dtype == pl.Binary else column.cast(pl.String)


def _separator(path: Path, start: str) -> str:
    """The separator that gives the most lines as many fields as the header, and the header at least two."""
    sample = [line for line in start.splitlines()[:21] if line.strip()]
    if len(sample) > 2:
        sample = sample[:-1]  # the sample may end inside a line

    def fit(separator: str) -> tuple[int, int]:
        counts = [len(next(csv.reader([line], delimiter=separator), [])) for line in sample]
        return (sum(count == counts[0] for count in counts), counts[0]) if counts[0] > 1 else (0, 0)

    with lines.long_fields():
        best = max(SEPARATORS, key=fit)
        if fit(best) != (0, 0):
            return best
    other = next((sep for sep in ("::", ":", " ") if sep in sample[0]), "")
    hint = f"{shown(other)} is none" if other else "there is only one column"
    raise DataError(
        f"{path}:1: no separator in {shown(sample[0])}, {hint}; separate the columns by comma, semicolon, "
        "tab or bar, or name a sequence file *.txt"
    )
