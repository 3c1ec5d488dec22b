"""Raw files are found where the documentation says, in that order, and only right ones count."""

from __future__ import annotations

import gzip
import os
import zipfile
from typing import TYPE_CHECKING

import pytest

from recbench.data import raw
from recbench.data.raw import RawFile
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"1 1 2 3\n2 3 2 1\n"
FILE = RawFile("set", "Set.txt", "http://127.0.0.1:9/Set.txt", raw.sha256(CONTENT))


@pytest.mark.parametrize("place", ["Set.txt", "set/Set.txt", "other/Set.txt"])
def test_found_in_a_raw_folder_and_one_level_below(
    place: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not cache.exists()
    path = tmp_path / "raw" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "raw"))
    assert raw.find(FILE) == raw.Raw(path, CONTENT, FILE.sha256)


def test_gzip_and_plain_copies_are_the_same_file(cache: Path) -> None:
    path = cache / "raw" / "Set.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(CONTENT))
    assert raw.find(FILE) == raw.Raw(path, CONTENT, FILE.sha256)


def test_the_users_folders_come_in_order_and_before_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "first", tmp_path / "second", cache / "raw"]
    for folder in folders:
        folder.mkdir(parents=True)
    monkeypatch.setenv("RECBENCH_RAW", os.pathsep.join(str(folder) for folder in folders[:2]))
    for folder in reversed(folders):
        (folder / "Set.txt").write_bytes(CONTENT)
        found = raw.find(FILE)
        assert found is not None
        assert found.path.parent == folder


def test_nothing_is_found_where_nothing_is(cache: Path) -> None:
    assert raw.find(FILE) is None
    assert not cache.exists()  # looking leaves no trace


def test_a_file_two_levels_down_is_not_searched_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not cache.exists()
    path = tmp_path / "raw" / "deep" / "set" / "Set.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "raw"))
    assert raw.find(FILE) is None


def test_wrong_content_is_refused_with_both_hashes(cache: Path) -> None:
    path = cache / "raw" / "set" / "Set.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT + b"3 1 2 3\n")
    with pytest.raises(DataError, match=rf"{path}: sha256 .*{FILE.sha256[:12]}"):
        raw.find(FILE)


def test_known_first_digits_of_a_hash_are_compared(cache: Path) -> None:
    path = cache / "raw" / "Set.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert raw.find(RawFile("set", "Set.txt", sha256=FILE.sha256[:8])) is not None
    with pytest.raises(DataError, match="00000000"):
        raw.find(RawFile("set", "Set.txt", sha256="00000000"))


def test_raw_folder_that_is_none_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"absent, which is not a folder"):
        raw.find(FILE)


def test_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"1" * (80 << 20), compresslevel=9))
    with pytest.raises(DataError, match="unpack to more than"):
        raw.read(path)


HANDED_OUT = RawFile("set", "Set.txt", owner="their page", archive="set.zip")


def zipped(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, CONTENT)
    return path


def test_a_file_is_taken_out_of_the_archive_it_is_handed_out_in(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(tmp_path / "raw" / "set.zip", "owner-1.0/README", "owner-1.0/Set.txt")
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "raw"))
    assert raw.locate(HANDED_OUT) is None
    path = raw.provided(HANDED_OUT)
    assert path.is_relative_to(cache / "raw" / "set")  # the user's folders are read only
    assert path.read_bytes() == CONTENT
    assert raw.locate(HANDED_OUT) == raw.provided(HANDED_OUT) == path
    assert [each.name for each in (tmp_path / "raw").iterdir()] == ["set.zip"]


def test_a_file_beside_its_archive_is_taken_as_it_is(cache: Path) -> None:
    zipped(cache / "raw" / "set" / "set.zip", "Set.txt")
    (cache / "raw" / "set" / "Set.txt").write_bytes(b"1 5 6 7\n")
    assert raw.provided(HANDED_OUT) == cache / "raw" / "set" / "Set.txt"


def test_an_archive_that_leads_out_of_its_folder_is_refused(cache: Path) -> None:
    zipped(cache / "raw" / "set" / "set.zip", "Set.txt", "../Set.txt")
    with pytest.raises(DataError, match="leads out of the folder"):
        raw.provided(HANDED_OUT)
    assert [each.name for each in (cache / "raw" / "set").iterdir()] == ["set.zip"]


def test_an_archive_without_the_file_is_no_help(cache: Path) -> None:
    zipped(cache / "raw" / "set" / "set.zip", "Other.txt")
    with pytest.raises(
        DataError, match=r"Set\.txt or Set\.txt\.gz or set\.zip is not in .* get it from their page"
    ):
        raw.provided(HANDED_OUT)
