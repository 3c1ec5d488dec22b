"""Broken sequence files and names: one line with file, line, value and way out, the exit code, no traces."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from recbench.data import audit, prepare, sequence_file
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = b"1 1 2 3\n2 2 3 1\n"


class Case(NamedTuple):
    """A file, the line that its message must name (0: none), and what else the message must say."""

    content: bytes
    line: int
    says: tuple[str, ...]


CASES = {
    "tabs": Case(GOOD + b"3\t1\t2\t3\n", 3, (r"3\t1\t2", "a tab", "one space")),
    "commas": Case(b"1,1,2,3\n", 1, ("1,1,2,3", "a comma", "one space")),
    "semicolons": Case(GOOD + b"3;1;2;3\n", 3, ("a semicolon", "one space")),
    "double colons": Case(b"1::1193::5::978300760\n", 1, ("a double colon", "one space")),
    "two spaces": Case(GOOD + b"3 1  2 3\n", 3, ("two spaces", "one space")),
    "space at the end": Case(b"1 1 2 3 \n" + GOOD, 1, ("end of the line", "one space")),
    "byte order mark": Case(b"\xef\xbb\xbf" + GOOD, 1, ("byte order mark", "without BOM")),
    "utf-16": Case(GOOD.decode().encode("utf-16"), 1, ("ff fe", "UTF-16", "save the file as UTF-8")),
    "latin-1": Case(GOOD + b"3 caf\xe9 1 2\n", 3, ("0xe9", "save the file as UTF-8")),
    "binary": Case(GOOD + b"3 1 2\0 3\n", 3, ("0x00", "no text", "save the file as UTF-8")),
    "old mac lines": Case(GOOD.replace(b"\n", b"\r"), 1, ("carriage return", "line feed")),
    "empty": Case(b"", 0, ("empty", "user item item item")),
    "white space only": Case(b" \n\n", 0, ("empty", "user item item item")),
    "header only": Case(b"user items\n", 1, ("user items", "header", "remove it")),
    "header": Case(b"user_id item_ids\n" + GOOD, 1, ("user_id item_ids", "header", "remove it")),
    "blank line": Case(b"1 1 2 3\n\n2 2 3 1\n", 2, ("blank", "remove it")),
    "blank line at the end": Case(GOOD + b"\n", 3, ("blank", "remove it")),
    "letters": Case(GOOD + b"3 1 B0020YLEYK 2\n", 3, ("B0020YLEYK", "not a number", "whole numbers")),
    "emoji": Case(GOOD + "3 1 🎸 2\n".encode(), 3, ("🎸", "not a number")),
    "arabic digits": Case(GOOD + "3 1 ٣ 2\n".encode(), 3, ("not a number",)),
    "nan": Case(GOOD + b"3 1 nan 2\n", 3, ("nan", "not a number")),
    "negative": Case(GOOD + b"3 1 -2 2\n", 3, ("-2", "negative", "from 1")),
    "zero item": Case(GOOD + b"3 1 0 2\n", 3, ("0", "padding", "from 1")),
    "zero user": Case(b"0 1 2 3\n" + GOOD, 1, ("0", "padding", "from 1")),
    "float": Case(GOOD + b"3 1 2.5 2\n", 3, ("2.5", "whole number", "integers")),
    "float user": Case(GOOD + b"3.0 1 2 4\n", 3, ("3.0", "whole number", "integers")),
    "exponent": Case(GOOD + b"3 1.e5 2 2\n", 3, ("1.e5", "whole number")),
    "leading zero": Case(GOOD + b"3 007 2 2\n", 3, ("007", "leading zero", "without")),
    "too large": Case(GOOD + b"3 1 2147483648 2\n", 3, ("2147483648", "32-bit", "renumber")),
    "far too large": Case(GOOD + b"3 1 99999999999999999999 2\n", 3, ("99999999999999999999", "32-bit")),
    "user without items": Case(GOOD + b"3\n", 3, ("user 3 has 0 items", "3", "remove the user")),
    "one item": Case(GOOD + b"3 1\n", 3, ("user 3 has 1 item,", "remove the user")),
    "two items": Case(GOOD + b"3 1 2\n", 3, ("user 3 has 2 items", "remove the user")),
    "user twice": Case(GOOD + b"1 3 2 1\n", 3, ("user 1", "line 1", "join")),
    "one user": Case(b"7 1 2 3\n", 1, ("only user", "3 items", "at least 2")),
    "one item in all": Case(b"1 5 5 5\n2 5 5 5\n", 1, ("item 5", "at least 2")),
    "long line": Case(b"1 " * 5_000_000 + b"1\n", 1, ("only user", "5000000 items")),
    "long line of letters": Case(b"x" * 10_000_000, 1, ("xxxx…", "header")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_broken_file_is_refused_in_one_line(case: Case, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(case.content)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        prepare.load(str(path))
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(f"{path}:{case.line}: " if case.line else f"{path}: ")
    assert "\n" not in message
    assert len(message) < 400
    for part in case.says:
        assert part in message
    assert caught.value.exit_code == 3
    assert not cache.exists()


def _truncated(path: Path) -> None:
    path.write_bytes(gzip.compress(GOOD * 100)[:-20])


def _flipped(path: Path) -> None:
    content = bytearray(gzip.compress(GOOD * 100))
    content[-6] ^= 1  # in the checksum
    path.write_bytes(bytes(content))


FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (lambda _: None, ("no such file", "check the path")),
    "folder": (lambda path: path.mkdir(), ("is a folder", "name the file")),
    "not gzip": (lambda path: path.write_bytes(GOOD), ("not a gzip file", "1 1 2 3", "drop the .gz")),
    "truncated gzip": (_truncated, ("truncated", "fetch it again")),
    "damaged gzip": (_flipped, ("damaged gzip", "fetch it again")),
}


@pytest.mark.parametrize(("make", "says"), FILES.values(), ids=FILES.keys())
def test_unreadable_file_is_refused_in_one_line(
    make: Callable[[Path], object], says: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "mine.txt.gz"
    make(path)
    with pytest.raises(DataError) as caught:
        prepare.load(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in says:
        assert part in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "nearest"), [("beuty", "beauty"), ("Sport", "sports"), ("yelpp", "yelp"), ("dmeo", "demo")]
)
def test_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"no data set '{name}'; did you mean '{nearest}'") as caught:
        prepare.load(name)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_name_like_nothing_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known are demo, beauty, sports, toys, yelp"):
        prepare.load("xyzzy")


def test_negative_index_seed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"index_seed must be 0 or more, got -1"):
        prepare.load("demo", index_seed=-1)


@pytest.mark.parametrize(
    "content",
    [GOOD.replace(b"\n", b"\r\n"), GOOD.removesuffix(b"\n"), gzip.compress(GOOD)],
    ids=["crlf", "no last line end", "gzip"],  # gzip writes the time, and workers must agree on a test's name
)
def test_line_ends_and_compression_do_not_matter(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    assert sequence_file.sequences(path).equals(sequence_file.parse(GOOD, "good"))


def test_load_counts_the_other_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(GOOD + b"3 x 1 2\n4 1\n")
    with pytest.raises(DataError, match=r"mine.txt:3: .*'x'.*\(1 more line is wrong\)"):
        prepare.load(str(path))


def test_check_lists_every_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"1 1 2 3\n2 2 3 -1\n\n3 0 1 2\n1 5 6 7\n")
    with pytest.raises(DataError) as caught:
        audit.check_text(str(path))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{number}" for number in (2, 3, 4, 5)]


def test_check_stops_listing_at_twenty(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"1 x\n" * 25)
    with pytest.raises(DataError) as caught:
        audit.check_text(str(path))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 5 more lines"


def test_same_user_and_item_again_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"1 4 4 4 2\n2 2 4 2\n")
    assert prepare.load(str(path)).card.repeat_rate == pytest.approx(3 / 7)
