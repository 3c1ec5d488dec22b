"""Files of one object a line, plain or gzip, read in blocks: any size in the memory of a block.

Reviews come as gigabytes in gzip, and unpacking them is half of the work of reading them; Intel's ISA-L does
it three times as fast as zlib. Damage and lines made to fill the memory are refused with file and line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

from isal import igzip, igzip_lib

from recbench.data import raw
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK = 4 << 20  # bytes; larger ones are not faster
_LONGEST_LINE = 64 << 20  # bytes; longer only in files that are made to fill the memory
_MAGIC = {"a tar archive": (257, b"ustar"), "a zip archive": (0, b"PK\x03\x04")}


class Block(NamedTuple):
    """Whole lines of a file: the number of the first, from 1, and their bytes."""

    line: int
    content: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every line that is not blank, with its number in the file."""
        for number, line in enumerate(self.content.split(b"\n"), self.line):
            if line.strip():
                yield number, line


def blocks(path: Path) -> Iterator[Block]:
    """The file in blocks of whole lines.

    Raises:
        DataError: the file is missing, unreadable, damaged, an archive, or has a line of more than 64 MiB.
    """
    line, rest = 1, b""
    with _opened(path) as file:
        while chunk := file.read(_BLOCK):
            content = rest + chunk
            end = content.rfind(b"\n") + 1
            if end:
                yield Block(line, content[:end])
                line += content.count(b"\n", 0, end)
            rest = content[end:]
            if len(rest) > _LONGEST_LINE:
                raise DataError(
                    f"{path}:{line}: the line has more than {_LONGEST_LINE >> 20} MiB; fetch the file again "
                    "or remove it"
                )
    if rest:
        yield Block(line, rest)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line that is not blank, with its number from 1.

    Raises:
        DataError: as `blocks`.
    """
    for block in blocks(path):
        yield from block.lines()


def loaded(line: bytes) -> dict[str, Any]:
    """The object in a line of JSON.

    Raises:
        ValueError: it is not one; the message says why and what to do.
    """
    if line.startswith(b"\xef\xbb\xbf"):
        raise ValueError("starts with a byte order mark (EF BB BF); save the file as UTF-8 without BOM")
    try:
        content = json.loads(decoded(line), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno} of {shown(decoded(line))}); fetch the file "
            "again, or remove the line"
        ) from None
    except RecursionError:
        raise ValueError("brackets are nested too deep for JSON of items; remove the line") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{shown(content)} is no JSON object; there should be one on each line; fetch it again"
        )
    return content


def decoded(line: bytes) -> str:
    """The text of a line.

    Raises:
        ValueError: it is not UTF-8; the message says which byte.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {line[error.start]:#04x} is not UTF-8; save the file as UTF-8") from None


def shown(value: object) -> str:
    """A value for a message, cut when long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed file; what goes wrong while it is read is a `DataError`."""
    if not path.is_file():
        raw.read(path)  # says why
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == b"\x1f\x8b"
        if path.suffix == ".gz" and not is_gzip:
            raw.read(path)  # says why
        with igzip.open(path) if is_gzip else path.open("rb") as file:  # type: ignore[no-untyped-call]
            _refuse_archive(path, file.read(512))
            file.seek(0)
            yield file
    except EOFError:
        raise DataError(f"{path}: the gzip file is truncated; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error, igzip_lib.IsalError) as error:  # type: ignore[misc]
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); check its permissions") from None


def _refuse_archive(path: Path, start: bytes) -> None:
    """An archive starts with the name of a file, not with a line of it."""
    for what, (place, magic) in _MAGIC.items():
        if start[place:].startswith(magic):
            raise DataError(f"{path}: this is {what}; unpack it and name the file in it")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON; write null or remove the line")
