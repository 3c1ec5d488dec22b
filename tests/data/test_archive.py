"""Archives are opened as if whoever made them meant harm."""

from __future__ import annotations

import gzip
import io
import pickle
import stat
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from recbench.data import archive
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES = {"ml/ratings.dat": b"1::2::5::978300760\n", "ml/README": b"read me"}


def make_zip(path: Path, files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(info, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], **fields: object) -> Path:
    """A tar of `files`, gzipped if its name says so; `fields` are set in every header."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            made.addfile(info, io.BytesIO(content))
    return path


MAKERS = {"a.zip": make_zip, "a.tar": make_tar, "a.tar.gz": make_tar}
Maker = pytest.mark.parametrize("name", MAKERS)


@Maker
def test_members_are_named_read_and_extracted(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name, FILES)
    assert archive.names(path) == tuple(FILES)
    wanted = "ml/ratings.dat"
    assert archive.read_members(path, [wanted]) == {wanted: FILES[wanted]}
    target = archive.extract(path, tmp_path / "out")
    assert {
        str(file.relative_to(target)): file.read_bytes() for file in target.rglob("*") if file.is_file()
    } == FILES


@Maker
def test_a_member_that_is_missing_is_named_beside_those_that_are_there(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name, FILES)
    with pytest.raises(DataError, match=rf"{name}: has no ml/u.data, but ml/README, ml/ratings.dat; "):
        archive.read_members(path, ["ml/u.data"])


BAD_NAMES = {
    "absolute": "/tmp/evil",
    "parent": "../evil",
    "parent-inside": "ml/../../evil",
    "drive": "C:/evil",
    "backslash": "..\\evil",
}


@Maker
@pytest.mark.parametrize("kind", BAD_NAMES)
def test_names_that_lead_out_are_refused_and_nothing_is_written(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    path = MAKERS[name](folder / name, {"ml/fine": b"x", BAD_NAMES[kind]: b"evil"})
    for action in (archive.names, lambda path: archive.extract(path, folder / "out")):
        with pytest.raises(
            DataError, match=rf"{name}: member '.*evil' (leads out|has an absolute)"
        ) as raised:
            action(path)
        assert "\n" not in str(raised.value)
    assert sorted(file.name for file in tmp_path.rglob("*")) == sorted(["in", "deep", name])


@pytest.mark.parametrize(
    "kind",
    ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"],
)
def test_links_and_devices_in_a_tar_are_refused(kind: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"ml/x": b""}, type=getattr(tarfile, kind), linkname="/etc/passwd")
    with pytest.raises(DataError, match="member 'ml/x' is a link or a device"):
        archive.extract(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("kind", ["S_IFLNK", "S_IFCHR", "S_IFIFO"])
def test_links_and_devices_in_a_zip_are_refused(kind: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"ml/x": b"/etc/passwd"}, mode=getattr(stat, kind) | 0o777)
    with pytest.raises(DataError, match="member 'ml/x' is a link or a device"):
        archive.extract(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


@pytest.fixture
def _low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for archives beyond 64 MiB, without making one."""
    monkeypatch.setattr(archive, "ALWAYS_FINE", 1 << 16)


@pytest.mark.usefixtures("_low_limit")
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_bombs_are_refused(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name, {f"zeros/{number}": bytes(1 << 20) for number in range(2)})
    assert path.stat().st_size < (1 << 21) / 100
    for action in (
        archive.names,
        lambda path: archive.read_members(path, ["zeros/1"]),
        lambda path: archive.extract(path, tmp_path / "out"),
    ):
        with pytest.raises(DataError, match=rf"{name}: \d+ bytes unpack to more than \d+, 50 times"):
            action(path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("_low_limit")
@pytest.mark.parametrize("name", MAKERS)
def test_text_that_shrinks_as_text_does_is_no_bomb(name: str, tmp_path: Path) -> None:
    lines = "".join(f"{row % 997}\t{row * 7919 % 10_007}\t{row % 5}\n" for row in range(60_000)).encode()
    path = MAKERS[name](tmp_path / name, {"u.data": lines})
    assert archive.read_members(path, ["u.data"]) == {"u.data": lines}


@pytest.mark.usefixtures("_low_limit")
def test_a_header_that_claims_to_be_huge_does_not_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 4 << 30
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 24)))
    with pytest.raises(DataError, match="unpack to more than"):
        archive.names(path)


def test_holes_of_a_sparse_file_are_refused(tmp_path: Path) -> None:
    holes = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    path = make_tar(tmp_path / "a.tar", {"ml/x": b"1"}, pax_headers=holes)
    with pytest.raises(DataError, match="member 'ml/x' is a sparse file"):
        archive.read_members(path, ["ml/x"])


def test_a_zip_that_declares_less_than_it_holds_is_damaged(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x": bytes(100_000)})
    declared, forged = (100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(declared, forged))
    with pytest.raises(DataError, match=r"a\.zip: is no zip, tar or tar\.gz archive, or a damaged one"):
        archive.read_members(path, ["x"])


@Maker
def test_a_name_that_comes_twice_is_refused(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name, {"x": b"1", "./x": b"2"})
    with pytest.raises(DataError, match="member 'x' is there twice"):
        archive.names(path)


@Maker
def test_a_file_that_is_a_folder_of_another_is_refused(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name, {"x": b"1", "x/y": b"2"})
    with pytest.raises(DataError, match="member 'x/y' is there twice"):
        archive.extract(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # bit 0 of the flags in the directory
    path.write_bytes(content)
    with pytest.raises(DataError, match="member 'x' is encrypted"):
        archive.names(path)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    place = content.index(b"read me") if b"read me" in content else len(content) // 2
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [("a.zip", _cut), ("a.zip", _flipped), ("a.tar", _cut), ("a.tar.gz", _cut), ("a.tar.gz", _flipped)],
    ids=["zip-cut", "zip-flipped", "tar-cut", "gz-cut", "gz-flipped"],
)
def test_damaged_archives_are_refused_whole(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    content = b"".join(number.to_bytes(3, "big") for number in range(0, 1 << 20, 97))  # hard to compress
    path = MAKERS[name](tmp_path / name, {"x": content, "y": content})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{name}: .*fetch"):
        archive.extract(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "content", [b"", b"user,item\n1,2\n", pickle.dumps({"x": 1}), gzip.compress(b"text", mtime=0)]
)
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"file\.bin: is no zip, tar or tar\.gz archive"):
        archive.names(path)


@pytest.mark.parametrize("name", ["missing.zip", "folder"])
def test_paths_that_are_no_file_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=f"{name}: cannot be read .*check the path"):
        archive.names(tmp_path / name)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(DataError, match=r"out: is there already; delete it"):
        archive.extract(path, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_pickle_in_an_archive_stays_bytes(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return (tmp_path / "executed").mkdir, ()  # type: ignore[return-value]

    content = pickle.dumps(Evil())
    path = make_zip(tmp_path / "a.zip", {"maps.npy": content})
    assert archive.read_members(path, ["maps.npy"]) == {"maps.npy": content}
    assert not (tmp_path / "executed").exists()
