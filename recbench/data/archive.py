"""Zip and tar downloads, opened as if whoever made them meant harm.

A name may lead out of the folder, a link may point anywhere, a device may be opened, and a few bytes may
unpack to more than the disk holds. All of these are refused before anything is written, and a name is written
only below the target folder, which appears whole or not at all. Nothing in an archive is ever executed or
unpickled: what comes out is bytes.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MAX_RATIO = 50  # as for gzip files: text shrinks 3 to 10 times
ALWAYS_FINE = 64 << 20  # bytes
MAX_MEMBERS = 100_000
_CHUNK = 1 << 20
# what the readers of the standard library raise for bytes that make no sense, or that they do not know
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile),
    *(EOFError, ValueError, NotImplementedError),
)


class _Member(NamedTuple):
    """A file in an archive: its name and bytes."""

    name: str
    content: IO[bytes]


class _Metered:
    """A stream that refuses to give more than `limit` bytes, whatever the headers inside it claim."""

    def __init__(self, path: Path, stream: IO[bytes], limit: int) -> None:
        self.path, self.stream, self.limit, self.left = path, stream, limit, limit

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise _too_large(self.path, self.limit)
        return data


def names(path: Path) -> tuple[str, ...]:
    """The files in a zip, tar or tar.gz archive, in its order.

    Raises:
        DataError: it is no such archive, damaged, or has a member that is not allowed.
    """
    with _opened(path) as members:
        return tuple(member.name for member in members)


def read_members(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The content of some files of an archive; nothing is written to disk.

    Args:
        path: a zip, tar or tar.gz file.
        wanted: full names in the archive, such as `ml-1m/ratings.dat`.

    Raises:
        DataError: as `names`, or one of `wanted` is not there.
    """
    found: dict[str, bytes] = {}
    others: list[str] = []
    with _opened(path) as members:
        for member in members:
            if member.name in wanted:
                found[member.name] = member.content.read()
            else:
                others.append(member.name)
    missing = [name for name in wanted if name not in found]
    if missing:
        have = ", ".join(sorted([*found, *others])[:5]) or "nothing"
        raise DataError(
            f"{path}: has no {missing[0]}, but {have}; name one of these, or fetch the right archive"
        )
    return found


def extract(path: Path, target: Path) -> Path:
    """Unpack an archive into a new folder, which appears when it is complete.

    Args:
        path: a zip, tar or tar.gz file.
        target: the folder to make; its parent must exist.

    Returns:
        `target`.

    Raises:
        DataError: as `names`, or `target` is there already.
    """
    if target.exists() or target.is_symlink():
        raise DataError(f"{target}: is there already; delete it or name another folder to unpack {path.name}")
    # beside the target: only within a file system is a rename one step
    half_done = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _opened(path) as members:
            for member in members:
                place = half_done / member.name
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("xb") as file:
                        shutil.copyfileobj(member.content, file, _CHUNK)
                except (FileExistsError, NotADirectoryError):
                    raise _refused(path, member.name, "is there twice") from None
        half_done.chmod(0o755)
        half_done.rename(target)
    finally:
        shutil.rmtree(half_done, ignore_errors=True)
    return target


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[_Member]]:
    """The allowed files of an archive, one at a time; errors of the format become a line."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _zipped(path, archive)
        else:
            with path.open("rb") as file:
                is_gzip = file.read(2) == b"\x1f\x8b"
            limit = _limit(path)
            with gzip.open(path) if is_gzip else path.open("rb") as stream:
                metered = _Metered(path, stream, limit)  # type: ignore[arg-type]
                # a stream is read once, front to back, so no header can send the reader elsewhere
                with tarfile.open(fileobj=metered, mode="r|") as archive:  # type: ignore[call-overload]
                    yield _tarred(path, archive, metered)
    except _DAMAGED as error:
        raise DataError(
            f"{path}: is no zip, tar or tar.gz archive, or a damaged one ({error}); fetch it again"
        ) from None
    except OSError as error:
        if error.filename != str(path):  # not about the archive but about what is written
            raise
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _zipped(path: Path, archive: zipfile.ZipFile) -> Iterator[_Member]:
    """The files of a zip; all are judged by the directory before the first is read."""
    infos = archive.infolist()
    limit = _limit(path)
    if sum(info.file_size for info in infos) > limit:
        raise _too_large(path, limit)
    seen: set[str] = set()
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(path, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(path, info.filename, "is encrypted")
        _checked_name(path, info.orig_filename, seen)
    for info in infos:
        if not info.is_dir():
            # zipfile gives at most the declared number of bytes, and checks them against the checksum
            with archive.open(info) as content:
                yield _Member(str(PurePosixPath(info.filename)), content)


def _tarred(path: Path, archive: tarfile.TarFile, stream: _Metered) -> Iterator[_Member]:
    """The files of a tar, in one pass."""
    seen: set[str] = set()
    for info in archive:
        if not (info.isreg() or info.isdir()):
            raise _refused(path, info.name, "is a link or a device")
        if info.issparse():  # its holes are not in the stream that is metered
            raise _refused(path, info.name, "is a sparse file")
        name = _checked_name(path, info.name, seen)
        content = archive.extractfile(info) if info.isreg() else None
        if content is not None:
            yield _Member(name, content)
    while stream.read(_CHUNK):  # the checksum of gzip stands at the very end
        pass


def _checked_name(path: Path, name: str, seen: set[str]) -> str:
    """The name of a member; refused if it could lead anywhere but below the target, or came before."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or parts[0][1:2] == ":" or "\0" in name or not name:
        raise _refused(path, name, "has an absolute or unportable name")
    if ".." in parts:
        raise _refused(path, name, "leads out of the folder")
    name = str(PurePosixPath(name))
    if name in seen and name != ".":
        raise _refused(path, name, "is there twice")
    seen.add(name)
    if len(seen) > MAX_MEMBERS:
        raise _refused(path, name, f"comes after {MAX_MEMBERS} others")
    return name


def _limit(path: Path) -> int:
    """How many bytes an archive may unpack to."""
    return max(ALWAYS_FINE, MAX_RATIO * path.stat().st_size)


def _too_large(path: Path, limit: int) -> DataError:
    return DataError(
        f"{path}: {path.stat().st_size} bytes unpack to more than {limit}, {MAX_RATIO} times as much or "
        "more; this is no archive of data; unpack it yourself if it is"
    )


def _refused(path: Path, name: str, why: str) -> DataError:
    shown = ascii(name if len(name) <= 80 else f"{name[:80]}…")
    return DataError(f"{path}: member {shown} {why}; fetch the archive from its owner, or unpack it yourself")
