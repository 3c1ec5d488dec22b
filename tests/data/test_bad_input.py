"""Broken files and words: one line with file, line, value and way out, the exit code, in time, no traces."""

from __future__ import annotations

import ast
import gzip
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
import pytest

import recbench
from recbench import cli
from recbench.data import audit, prepare, sequence_file
from recbench.data.selection import Selection
from recbench.errors import DataError, FaultyFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 2  # of processor time: other work on the machine is not the program's fault
GOOD = b"1 1 2 3\n2 2 3 1\n"


TABLE = b"user,item,time\nann,x1,1600000000\nbob,x2,1600000060\n"  # two more users make it trainable


class Case(NamedTuple):
    """A file, the line that its message must name (0: none), and what else the message must say."""

    content: bytes
    line: int
    says: tuple[str, ...]
    name: str = "mine.txt"


def _table(content: bytes, line: int, *says: str, name: str = "mine.csv") -> Case:
    return Case(content, line, says, name)


def _rows(*rows: bytes) -> bytes:
    return TABLE + b"".join(row + b"\n" for row in rows)


def _parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


SEQUENCES = {
    "tabs": Case(GOOD + b"3\t1\t2\t3\n", 3, (r"3\t1\t2", "a tab", "one space", "name a table *.csv")),
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


TABLES = {
    "another separator below": _table(
        _rows(b"eve;x1;1600000000"), 4, "1 field", "header has 3", "one separator"
    ),
    "decimal commas": _table(b"user;item;time\na;1;1,5\nb;2;2,5\n", 2, "time '1,5'", "not a number"),
    "double colons": _table(b"1::1193::5\n1::661::3\n", 1, "'::'", "comma, semicolon, tab or bar"),
    "spaces": _table(b"user item\na x\nb y\n", 1, "'user item'", "separate the columns"),
    "one column": _table(b"user\na\nb\n", 1, "one column", "separate the columns"),
    "too many fields": _table(_rows(b"eve,x1,1,2"), 4, "4 fields", "header has 3", "double quotes"),
    "too few fields": _table(_rows(b"eve,x1"), 4, "2 fields", "header has 3"),
    "too few fields in a column not used": _table(
        b"user,item,note\na,1,x\nb,2\n", 3, "2 fields", "header has 3"
    ),
    "quote without end": _table(_rows(b'"eve,x1,1600000000'), 4, "does not end", "close it"),
    "quotes not doubled": _table(_rows(b'"eve"s",x1,1600000000'), 4, "double the quotes"),
    "utf-16": _table(TABLE.decode().encode("utf-16"), 0, "UTF-16", "CSV in UTF-8"),
    "latin-1": _table(_rows(b"ren\xe9,x1,1600000000"), 4, "0xe9", "not UTF-8", "iconv -f latin1"),
    "cut inside a letter": _table(TABLE + "é".encode()[:1], 4, "0xc3", "not UTF-8"),
    "binary": _table(_rows(b"e\0ve,x1,1600000000"), 4, "0x00", "UTF-8"),
    "old mac lines": _table(TABLE.replace(b"\n", b"\r"), 1, "carriage returns", "line feeds"),
    "empty": _table(b"", 0, "empty", "a header and one row per interaction"),
    "white space only": _table(b" \n\n", 0, "empty", "a header"),
    "byte order mark only": _table(b"\xef\xbb\xbf", 0, "empty", "a header"),
    "header only": _table(b"user,item,time\n", 0, "a header and nothing below", "one row per interaction"),
    "no header": _table(
        b"1,2,1600000000\n2,3,1600000000\n", 1, "'1', '2'", "data, not a header", "user,item"
    ),
    "missing column": _table(
        b"user,thing\na,1\nb,2\n", 1, "no column for item", "'thing'", "set columns.item"
    ),
    "column twice": _table(b"user,item,item\na,1,2\nb,2,3\n", 1, "two columns are called 'item'", "own name"),
    "column without a name": _table(b"user,item,\na,1,2\n", 1, "no name", "in the header"),
    "missing user": _table(_rows(b",x1,1600000000"), 4, "user is missing (empty)", "remove the row"),
    "nan item": _table(_rows(b"eve,NaN,1600000000"), 4, "item is missing ('NaN')", "remove the row"),
    "line break in an id": _table(
        _rows(b'"e\nve",x1,1600000000'), 4, r"'e\nve'", "line break", "on one line"
    ),
    "missing time": _table(_rows(b"eve,x1,"), 4, "time is missing (empty)", "columns.time to '-'"),
    "nan time": _table(_rows(b"eve,x1,NaN"), 4, "time is missing ('NaN')", "columns.time to '-'"),
    "infinite time": _table(_rows(b"eve,x1,inf"), 4, "time 'inf' is not a number", "unix seconds"),
    "negative time": _table(_rows(b"eve,x1,-86400"), 4, "time '-86400' is negative", "remove the row"),
    "word for a time": _table(_rows(b"eve,x1,today"), 4, "time 'today' is not a number", "2019-12-13"),
    "date among seconds": _table(_rows(b"eve,x1,2019-12-13"), 4, "'2019-12-13'", "write unix seconds"),
    "seconds among dates": _table(
        b"user,item,date\na,1,2019-12-13\nb,2,2019-12-14\nc,3,1600000000\n", 4, "'1600000000' is no date"
    ),
    "day before month": _table(
        b"user,item,date\na,1,13/12/2019\nb,2,14/12/2019\n", 2, "13/12/2019", "2019-12-13"
    ),
    "no such day": _table(
        b"user,item,date\na,1,2019-12-13\nb,2,2019-02-30\n", 3, "'2019-02-30' is no date", "2019-12-13"
    ),
    "milliseconds among seconds": _table(
        _rows(b"eve,x1,1600000000000"), 4, "'1600000000000' is not in unix seconds", "one unit"
    ),
    "future": _table(_rows(b"eve,x1,32503680000"), 4, "'32503680000' lies in the future", "remove the row"),
    "future date": _table(
        b"user,item,date\na,1,2019-12-13\nb,2,2999-01-01\n", 3, "'2999-01-01' lies in the future"
    ),
    "all times in the future": _table(b"user,item,ts\na,1,9000000000\nb,2,9000000000\n", 2, "in the future"),
    "word for a rating": _table(
        b"user,item,rating\na,1,5\nb,2,good\n", 3, "rating 'good' is not a number", "'-'"
    ),
    "stars for a rating": _table(
        "user,item,rating\na,1,★★★\nb,2,★\n".encode(), 2, "rating '★★★' is not a number", "'-'"
    ),
    "empty rating": _table(b"user,item,rating\na,1,5\nb,2,\n", 3, "rating empty is not a number", "'-'"),
    "nan rating": _table(b"user,item,rating\na,1,5\nb,2,nan\n", 3, "rating 'nan' is not a number", "'-'"),
    "one user": _table(
        b"user,item\nann,1\nann,2\nann,3\n", 0, "'ann' is the only user in 3 rows", "at least 2"
    ),
    "one item": _table(b"user,item\nann,1\nbob,1\n", 0, "'1' is the only item in 2 rows", "at least 2"),
    "nobody with three interactions": _table(TABLE, 0, "no interaction of 2 is left", "min_user=3"),
    "long line": _table(b"x" * 10_000_000, 1, "xxxx…", "one column"),
    "long line without end": _table(_rows(b'"' + b"x" * 10_000_000), 4, "does not end"),
    "long line of fields": _table(_rows(b"1," * 5_000_000), 4, "5000001 fields", "header has 3"),
    "excel": _table(b"PK\x03\x04" + bytes(60), 0, "Excel", "save the table as CSV"),
    "pickle": _table(b"\x80\x04\x95" + bytes(60), 0, "a pickle", "run code", "save the table as CSV"),
    "hdf5": _table(b"\x89HDF\r\n" + bytes(60), 0, "HDF5", "save the table as CSV"),
    "json array": _table(b'[{"user": 1}]', 1, "one JSON array", "one object a line", name="mine.jsonl"),
    "broken json": _table(
        b'{"user": 1, "item": 2}\n{"user":\n', 2, "no JSON at character", name="mine.jsonl"
    ),
    "json of another kind": _table(b'{"user": 1, "item": 2}\n[1, 2]\n', 2, "no object", name="mine.jsonl"),
    "nan in json": _table(
        b'{"user": 1, "item": 2}\n{"user": NaN, "item": 2}\n', 2, "NaN is no JSON value", name="mine.jsonl"
    ),
    "json without the key": _table(
        b'{"user": 1, "item": 2}\n\n{"user": 2, "thing": 2}\n', 3, "item is missing", name="mine.jsonl"
    ),
    "json nested": _table(b"[" * 100_000, 1, "one JSON array", name="mine.jsonl"),
    "json deep": _table(b'{"user":' + b"[" * 100_000 + b"\n", 1, "nested too deep", name="mine.jsonl"),
    "not parquet": _table(TABLE, 0, "not a Parquet file", "'user,ite'", name="mine.parquet"),
    "parquet cut short": _table(
        _parquet(user=[1, 2], item=[1, 2])[:-8], 0, "damaged Parquet", "write it anew", name="mine.parquet"
    ),
    "null in parquet": _table(
        _parquet(user=[1, None], item=[1, 2]),
        0,
        "row 2: user is missing",
        "remove the row",
        name="mine.parquet",
    ),
    "list in parquet": _table(
        _parquet(user=[[1], [2]], item=[1, 2]), 0, "column 'user' holds lists", name="mine.parquet"
    ),
}
CASES = {
    **{f"sequences: {name}": case for name, case in SEQUENCES.items()},
    **{f"table: {name}": case for name, case in TABLES.items()},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_broken_file_is_refused_in_one_line(
    case: Case, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.content)
    start = time.process_time()
    assert cli.main(["data", "prepare", str(path)]) == 3
    assert time.process_time() - start < LIMIT_S
    shown = capsys.readouterr()
    assert shown.out == ""
    message = shown.err.removeprefix("recbench: ")
    assert message.startswith(f"{path}:{case.line}: " if case.line else f"{path}: ")
    assert message.count("\n") == 1
    assert len(message) < 500
    for part in case.says:
        assert part in message
    assert not cache.exists()
    assert list(tmp_path.iterdir()) == [path]  # nothing half written


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


def _truncated(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content * 100)[:-20])


def _flipped(path: Path, content: bytes) -> None:
    zipped = bytearray(gzip.compress(content * 100))
    zipped[-6] ^= 1  # in the checksum
    path.write_bytes(bytes(zipped))


def _bomb(path: Path, _: bytes) -> None:
    path.write_bytes(gzip.compress(bytes(80 << 20)))


FILES: dict[str, tuple[Callable[[Path, bytes], object], tuple[str, ...]]] = {
    "missing": (lambda *_: None, ("no such file", "check the path")),
    "folder": (lambda path, _: path.mkdir(), ("is a folder", "name the file")),
    "not gzip": (lambda path, content: path.write_bytes(content), ("not a gzip file", "drop the .gz")),
    "truncated gzip": (_truncated, ("truncated", "fetch it again")),
    "damaged gzip": (_flipped, ("damaged gzip", "fetch it again")),
    "gzip bomb": (_bomb, ("unpack to more than", "unpack it yourself")),
}


@pytest.mark.parametrize(("make", "says"), FILES.values(), ids=FILES)
@pytest.mark.parametrize(
    ("name", "content"), [("mine.txt.gz", GOOD), ("mine.csv.gz", TABLE)], ids=["txt", "csv"]
)
def test_unreadable_file_is_refused_in_one_line(
    make: Callable[[Path, bytes], object],
    says: tuple[str, ...],
    name: str,
    content: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    make(path, content)
    start = time.process_time()
    assert cli.main(["data", "prepare", str(path)]) == 3
    assert time.process_time() - start < LIMIT_S
    message = capsys.readouterr().err
    assert message.startswith(f"recbench: {path}: ")
    assert message.count("\n") == 1
    for part in says:
        assert part in message


@pytest.mark.parametrize("name", ["mine.csv", "mine.txt"])
def test_all_users_below_the_core(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rows = [f"{user},{item}" for user in (1, 2) for item in (1, 2, 3)]
    path.write_bytes(GOOD if name.endswith("txt") else "\n".join(["user,item", *rows]).encode())
    with pytest.raises(DataError, match=r"no interaction of 6 is left .*min_user=5.*select less strictly"):
        prepare.load(str(path), selection=Selection(min_user=5, min_item=5))


DECLARED = {
    "misspelt": (
        ["--columns.user", "usr"],
        "no column 'usr' for user; did you mean 'user'? there are 'user', 'it",
    ),
    "absent": (
        ["--columns.rating", "stars"],
        "no column 'stars' for rating; there are 'user', 'item', 'time'",
    ),
    "twice": (["--columns.item", "user"], "column 'user' cannot be two things"),
    "given up": (["--columns.user", "-"], "no column for user"),
    "no second table": (["--columns.items", "none.csv"], "none.csv: no such file; check the path"),
}


@pytest.mark.parametrize(("words", "says"), DECLARED.values(), ids=DECLARED)
def test_declared_columns_must_be_there(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{user},{item},{item}" for user in (1, 2) for item in (1, 2, 3)]
    path.write_text("\n".join(["user,item,time", *rows]))
    assert cli.main(["data", "check", str(path), *words]) == 3
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.count("\n") == 1


WORDS = {
    "unknown option": ("data check FILE --colums.user u", "did you mean"),
    "unknown column": (
        "data check FILE --columns.usr u",
        "columns.usr: no such option; did you mean columns.user?",
    ),
    "unknown data set": ("data check beuty", "no data set 'beuty'; did you mean 'beauty'?"),
    "columns of a data set": ("data check demo --columns.user u", "demo is no file of yours"),
    "wrong type": (
        "fit --model Popularity --data FILE --data.max_len long",
        "data.max_len: must be int, got 'long'",
    ),
    "history of nothing": (
        "fit --model Popularity --data FILE --data.max_len 0",
        "max_len must be at least 1",
    ),
    "negative learning rate": ("fit --model SASRec --data FILE --model.recipe.lr -1", "lr must be"),
    "learning rate of nan": (
        "fit --model SASRec --data FILE --model.recipe.lr nan",
        "model.recipe.lr: must be",
    ),
}


@pytest.mark.parametrize(("words", "says"), WORDS.values(), ids=WORDS)
def test_wrong_words_are_refused_in_one_line(
    words: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_bytes(TABLE)
    assert cli.main(words.replace("FILE", "./mine.csv").split()) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert says in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_yaml_of_a_data_set_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: demo\nmax_len: !!python/object/apply:os.mkdir [executed]\n")
    assert cli.main(["fit", "--model", "Popularity", "--data", "mine.yaml"]) == 3
    assert "mine.yaml:2: could not determine a constructor" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


FILES_OF_CODE = sorted(Path(recbench.__file__).parent.rglob("*.py"))


def test_no_module_imports_what_unpickles() -> None:
    unsafe = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in FILES_OF_CODE:
        if path.name == "workers.py":  # for a process it starts: the bytes never are a file
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not unsafe & {name.partition(".")[0] for name in named}, path


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
    [GOOD.replace(b"\n", b"\r\n"), GOOD.removesuffix(b"\n"), gzip.compress(GOOD, mtime=0)],
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
    with pytest.raises(FaultyFileError) as caught:
        audit.check_text(str(path))
    head, count, *lines = caught.value.report.splitlines()
    assert (head, count) == (f"{path}: sequence file", "4 problems:")
    assert [line.split(": ")[0].strip() for line in lines] == [f"{path}:{number}" for number in (2, 3, 4, 5)]


def test_check_stops_listing_at_twenty(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"1 x\n" * 25)
    with pytest.raises(FaultyFileError) as caught:
        audit.check_text(str(path))
    lines = caught.value.report.splitlines()
    assert len(lines) == 23
    assert lines[-1] == "  ... and 5 more"


def test_same_user_and_item_again_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"1 4 4 4 2\n2 2 4 2\n")
    assert prepare.load(str(path)).card.repeat_rate == pytest.approx(3 / 7)
