"""Where raw files come from: the user's folders, then the cache, then the network.

The folders of $RECBENCH_RAW are read only; a file is looked for in each of them and one level below. What is
downloaded goes into the cache, `$RECBENCH_CACHE` or the user's cache folder. A copy counts only if its
uncompressed content has the known sha256, so `Beauty.txt` and `Beauty.txt.gz` are the same file.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import platformdirs

from recbench.data.archive import extract
from recbench.data.download import DownloadError, download
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GZIP = b"\x1f\x8b"
_MAX_RATIO = 50  # text shrinks 3 to 10 times; far beyond that a small file is made to fill the memory
_ALWAYS_FINE = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class RawFile:
    """A public file, and how to know a copy of it.

    Args:
        folder: the folder it may lie in, below a raw folder or in the cache.
        name: its name, uncompressed; a copy may be called `<name>.gz`.
        url: where it is downloaded from; empty for a file that only the user can provide.
        sha256: of the uncompressed content; the first digits where no more are known, empty where nothing is.
        owner: where its owner hands it out, for people; a file without a known sha256 is never downloaded.
        archive: name of the zip or tar it is handed out in, if it is; unpacked into the cache when needed.
    """

    folder: str
    name: str
    url: str = ""
    sha256: str = ""
    owner: str = ""
    archive: str = ""


class Raw(NamedTuple):
    """A copy that was found: where, its uncompressed content, and the content's sha256."""

    path: Path
    content: bytes
    sha256: str


def cache_folder() -> Path:
    """Where recbench may write: `$RECBENCH_CACHE`, or the user's cache folder."""
    named = os.environ.get("RECBENCH_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("recbench")


def raw_folders() -> tuple[Path, ...]:
    """The folders of `$RECBENCH_RAW` in order, then the cache's.

    Raises:
        UsageError: `$RECBENCH_RAW` names something that is not a folder.
    """
    named = [Path(part).expanduser() for part in os.environ.get("RECBENCH_RAW", "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise UsageError(f"RECBENCH_RAW names {folder}, which is not a folder; correct or unset it")
    return (*named, cache_folder() / "raw")


def find(file: RawFile) -> Raw | None:
    """The first local copy of `file`, checked; None when there is none.

    Raises:
        DataError: the first copy found is unreadable or has another sha256.
    """
    for folder in raw_folders():
        for path in _places(folder, file):
            if path.is_file():
                return _checked(file, path)
    return None


def fetch(file: RawFile) -> Raw:
    """A copy of `file`: a local one, or downloaded into the cache.

    Raises:
        DataError: it is neither here nor to be had; the message says how to provide it.
    """
    found = find(file)
    if found is not None:
        return found
    if not file.url:
        return _checked(file, provided(file))
    target = cache_folder() / "raw" / file.folder / file.name
    try:
        download(file.url, file.sha256, target)
    except DownloadError as error:
        digest = file.sha256 if len(file.sha256) == 64 else f"{file.sha256}…"
        raise DataError(
            f"{file.name} is not in {_searched()} and the download failed: {error}; "
            f"get {file.url} (sha256 {digest}) and put it into {target.parent}"
        ) from None
    return _checked(file, target)


def locate(file: RawFile) -> Path | None:
    """Where the first local copy of `file` is, unread; None when there is none, or only packed.

    Raises:
        UsageError: `$RECBENCH_RAW` names something that is not a folder.
    """
    packed = _packed(file)
    unpacked = sorted(_unpacked(file, packed).rglob(file.name)) if packed else []
    return next((path for path in (*_copies(file), *unpacked) if path.is_file()), None)


def provided(file: RawFile) -> Path:
    """Where the copy of a file is that only the user can provide; unpacked, if it lies in its archive.

    Raises:
        DataError: it is not here; the message says where it comes from and where to put it.
    """
    packed = _packed(file)
    if locate(file) is None and packed is not None:
        folder = _unpacked(file, packed)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            extract(packed, folder)
    path = locate(file)
    if path is None:
        names = " or ".join(filter(None, (file.name, f"{file.name}.gz", file.archive)))
        raise DataError(
            f"{names} is not in {_searched()}; it is not downloaded, get it from "
            f"{file.owner} and put it into {cache_folder() / 'raw' / file.folder}"
        )
    return path


def _copies(file: RawFile) -> Iterator[Path]:
    """Where a copy may lie, in all folders."""
    return (path for folder in raw_folders() for path in _places(folder, file))


def _packed(file: RawFile) -> Path | None:
    """The archive that holds `file`, if it is here."""
    if not file.archive:
        return None
    return next((path for path in _copies(replace(file, name=file.archive)) if path.is_file()), None)


def _unpacked(file: RawFile, packed: Path) -> Path:
    """Where an archive is unpacked to; another one of the same name, told by its size, goes elsewhere."""
    return cache_folder() / "raw" / file.folder / f"{packed.name}-{packed.stat().st_size}"


def digest(path: Path) -> str:
    """The sha256 of the file at `path` as it lies, however large.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def read(path: Path) -> bytes:
    """The content of `path`, uncompressed when it is gzip.

    Raises:
        DataError: it is missing, a folder, unreadable, or damaged gzip.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder; name the file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if content.startswith(_GZIP):
        return _unzipped(path, len(content))
    if path.suffix == ".gz":
        start = content[:8].decode("latin-1")
        raise DataError(
            f"{path}: not a gzip file, it starts with {start!r}; compress it or drop the .gz from its name"
        )
    return content


def sha256(content: bytes) -> str:
    """The sha256 of `content` in hex."""
    return hashlib.sha256(content).hexdigest()


def _unzipped(path: Path, num_bytes: int) -> bytes:
    """The content of a gzip file of `num_bytes`, refused when damaged or far larger than text can be."""
    limit = max(_ALWAYS_FINE, _MAX_RATIO * num_bytes)
    try:
        with gzip.open(path) as file:
            content = file.read(limit + 1)
    except EOFError:
        raise DataError(
            f"{path}: the gzip file is truncated after {num_bytes} bytes; fetch it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error, OSError) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    if len(content) > limit:
        raise DataError(
            f"{path}: {num_bytes} bytes unpack to more than {limit}, {_MAX_RATIO} times as much or more; "
            "this is not sequence data; unpack it yourself if it is"
        )
    return content


def _places(folder: Path, file: RawFile) -> Iterator[Path]:
    """Where in `folder` a copy may lie: itself, the data set's own folder, any other folder in it."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for place in (folder, folder / file.folder, *below):
        yield place / f"{file.name}.gz"
        yield place / file.name


def _checked(file: RawFile, path: Path) -> Raw:
    """The content of `path`, if it is `file`'s."""
    content = read(path)
    digest = sha256(content)
    if not digest.startswith(file.sha256):
        raise DataError(
            f"{path}: sha256 of the content is {digest[:12]}…, but {file.name} has {file.sha256[:12]}…; "
            f"replace it by the original{f' from {file.url}' if file.url else ''}, or delete it"
        )
    return Raw(path, content, digest)


def _searched() -> str:
    """The folders looked in, for a message."""
    return ", ".join(str(folder) for folder in raw_folders())
