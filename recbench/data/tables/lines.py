"""The slow and exact reading of a table: which bytes and lines are to blame, and where a row begins."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recbench.data.problems import MAX_PROBLEMS, Problem, shown
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO, TextIO

_CHUNK = 1 << 22  # bytes


@dataclass(frozen=True)
class Bytes:
    """The bytes of a file, in memory only where it is gzip.

    Args:
        path: where it lies.
        content: what a gzip file unpacks to; None for a plain file, which is read where it lies.
    """

    path: Path
    content: bytes | None = None

    @property
    def source(self) -> Path | io.BytesIO:
        """What polars reads."""
        return self.path if self.content is None else io.BytesIO(self.content)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The bytes, from the start.

        Raises:
            DataError: the file may not be read.
        """
        if self.content is not None:
            yield io.BytesIO(self.content)
            return
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}); check its permissions"
            ) from None
        with file:
            yield file

    @contextmanager
    def text(self) -> Iterator[TextIO]:
        """The text, from the start, without byte order mark."""
        with self.opened() as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")

    def start(self, num_bytes: int) -> bytes:
        """The first bytes."""
        with self.opened() as file:
            return file.read(num_bytes)

    def sha256(self) -> str:
        """The sha256 of the bytes in hex."""
        digest = hashlib.sha256()
        with self.opened() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def refuse_binary(self) -> None:
        """Read everything once.

        Raises:
            DataError: this is no UTF-8 text; the message names line and byte.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        line, is_at_end = 1, False
        with self.opened() as file:
            while not is_at_end:
                chunk = file.read(_CHUNK)
                is_at_end = not chunk
                if (place := chunk.find(b"\0")) >= 0:
                    raise self._not_text(
                        line + chunk.count(b"\n", 0, place), "0x00", "save the file as UTF-8 text"
                    )
                try:
                    decoder.decode(chunk, final=is_at_end)
                except UnicodeDecodeError as error:
                    at = line + error.object.count(b"\n", 0, error.start)
                    way_out = (
                        f"save the file as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8 {self.path.name})"
                    )
                    raise self._not_text(at, f"{error.object[error.start]:#04x}", way_out) from None
                line += chunk.count(b"\n")

    def _not_text(self, line: int, byte: str, way_out: str) -> DataError:
        return DataError(f"{self.path}:{line}: byte {byte} is not UTF-8; {way_out}")


def ragged(file: TextIO, separator: str, num_fields: int) -> list[Problem]:
    """Rows with another number of fields than the header, and a quote that does not close."""
    found: list[Problem] = []
    with long_fields():
        reader = csv.reader(file, delimiter=separator, strict=True)
        while len(found) < MAX_PROBLEMS:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error:
                text = (
                    "a field starts with a quote and does not end with one; close it, and double the quotes "
                    "inside"
                )
                return [*found, Problem(line, text)]
            if fields and len(fields) != num_fields:
                found.append(Problem(line, ragged_text(len(fields), num_fields)))
    return found


def ragged_text(num_found: int, num_fields: int) -> str:
    """What is wrong with a row of `num_found` fields below a header of `num_fields`."""
    fields = "1 field" if num_found == 1 else f"{num_found} fields"
    return (
        f"{fields} where the header has {num_fields}; use one separator throughout, and put a field that "
        "contains it into double quotes"
    )


def not_json(file: TextIO) -> list[Problem]:
    """Lines that are no JSON objects."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON value")

    found = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            if not isinstance(json.loads(line, parse_constant=refuse), dict):
                found.append(
                    Problem(number, f"{shown(line.strip())} is no object; write {{...}} on each line")
                )
        except json.JSONDecodeError as error:
            text = (
                f"no JSON at character {error.pos + 1} ({error.msg}): {shown(line.strip())}; write the line"
            )
            found.append(Problem(number, f"{text} anew"))
        except ValueError as error:
            found.append(Problem(number, f"{error}; leave the key out, or remove the line"))
        except RecursionError:
            found.append(Problem(number, f"nested too deep: {shown(line.strip())}; write the line anew"))
        if len(found) == MAX_PROBLEMS:
            break
    return found


def records(file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Every record of a CSV file with the line that it begins at."""
    with long_fields():
        reader = csv.reader(file, delimiter=separator, strict=True)
        line = 1
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1


def record_lines(file: TextIO, separator: str) -> Iterator[int]:
    """The line that every row below the header begins at."""
    found = records(file, separator)
    next(found)  # the header
    return (line for line, _ in found)


def json_lines(file: TextIO) -> Iterator[int]:
    """The line of every JSON object."""
    return (number for number, line in enumerate(file, start=1) if line.strip())


@contextmanager
def long_fields() -> Iterator[None]:
    """Python's limit of 128 kB for a field is too little for a text."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
