"""A user's own table is read as it stands, in every format; what is mended is noted."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from recbench.data import prepare
from recbench.data.selection import Selection
from recbench.data.sources.table import Columns, read_table, table_items
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recbench.data.source import Log

ROWS = [("ann", "x1", 1_600_000_000), ("bob", "x2", 1_600_000_060), ("ann", "x2", 1_599_999_940)]
CSV = "user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
JSON = "".join(json.dumps({"user": user, "item": item, "time": time}) + "\n" for user, item, time in ROWS)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    r"""Writes a file: `table("user,item\\n...")`, `table(bytes, name="mine.jsonl")`."""

    def write(content: str | bytes, name: str = "mine.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(log: Log, *columns: str) -> list[tuple[Any, ...]]:
    return log.frame.sort("row").select(*columns or ("user", "item", "time")).collect().rows()


def parquet(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_parquet(path)
    return path


FORMATS = {
    "comma": (CSV, "mine.csv"),
    "tab": (CSV.replace(",", "\t"), "mine.tsv"),
    "semicolon": (CSV.replace(",", ";"), "mine.csv"),
    "bar": (CSV.replace(",", "|"), "mine.csv"),
    "windows lines": (CSV.replace("\n", "\r\n"), "mine.csv"),
    "no last line end": (CSV.removesuffix("\n"), "mine.csv"),
    "quoted": (CSV.replace("ann", '"ann"'), "mine.csv"),
    "json lines": (JSON, "mine.jsonl"),
    "json lines with blanks": (JSON.replace("\n", "\n\n"), "mine.jsonl"),
    "tables by content, not by name": (JSON, "mine.csv"),
}


@pytest.mark.parametrize(("content", "name"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("is_zipped", [False, True], ids=["plain", "gzip"])
def test_formats_give_the_same_log(
    content: str, name: str, is_zipped: bool, table: Callable[..., Path]
) -> None:
    path = table(gzip.compress(content.encode()), f"{name}.gz") if is_zipped else table(content, name)
    log = read_table(path)
    assert rows(log) == ROWS
    assert (log.clock, log.notes) == ("unix", ())


def test_parquet_gives_the_same_log(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    assert rows(read_table(parquet(frame, tmp_path / "mine.parquet"))) == ROWS


def test_parquet_types_are_understood(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": pl.Series([1.0, 2.0]),  # what pandas makes of integers where some are missing
            "item": pl.Series(["a", "b"], dtype=pl.Categorical),
            "time": [dt.datetime(2019, 12, 13, 15, 51, 19), dt.datetime(1969, 12, 31) + dt.timedelta(days=2)],
            "rating": pl.Series([4, 5], dtype=pl.Int8),
        }
    )
    log = read_table(parquet(frame, tmp_path / "mine.parquet"))
    found = rows(log, "user", "item", "time", "rating")
    assert found == [(1, "a", 1_576_252_279, 4.0), (2, "b", 86_400, 5.0)]


def test_byte_order_mark_is_left_out_and_noted(table: Callable[..., Path]) -> None:
    for content, name in ((CSV, "mine.csv"), (JSON, "mine.jsonl")):
        log = read_table(table("\ufeff" + content, name))
        assert rows(log) == ROWS
        assert any("byte order mark" in note for note in log.notes)


def test_line_breaks_and_separators_inside_quotes(table: Callable[..., Path]) -> None:
    path = table('user,comment,item\nann,"a, ""b""\n\nc",x1\nbob,,x2\n')
    assert rows(read_table(path), "user", "item") == [("ann", "x1"), ("bob", "x2")]


def test_empty_lines_are_left_out_and_counted(table: Callable[..., Path]) -> None:
    log = read_table(table(CSV.replace("\nbob", "\n\n\nbob") + "\n"))
    assert rows(log) == ROWS
    assert log.notes == ("3 empty lines left out",)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["7", "12"], [7, 12]),
        (["7", "012"], ["7", "012"]),
        (["7", "x"], ["7", "x"]),
        (["7.0", "12.0"], [7, 12]),
        (["7.5", "12.0"], ["7.5", "12.0"]),
        (["-7", "12"], ["-7", "12"]),
        (["B0020YLEYK", "0020"], ["B0020YLEYK", "0020"]),
        (["9" * 18, "1"], [10**18 - 1, 1]),
        (["9" * 30, "1"], ["9" * 30, "1"]),
        ([" 7 ", "12"], [7, 12]),
        (["café 🎸", "مقهى"], ["café 🎸", "مقهى"]),
        (["None of us", "nano"], ["None of us", "nano"]),
    ],
    ids=str,
)
def test_ids_are_text_unless_all_are_whole_numbers(
    ids: list[str], expected: list[Any], table: Callable[..., Path]
) -> None:
    content = "user,item\n" + "".join(f"u{n},{item}\n" for n, item in enumerate(ids))
    assert rows(read_table(table(content)), "item") == [(value,) for value in expected]


def test_mended_ids_are_noted(table: Callable[..., Path]) -> None:
    log = read_table(table("user,item\n1.0, x\n2.0,y\n3,z \n"))
    assert rows(log, "user", "item") == [(1, "x"), (2, "y"), (3, "z")]
    assert log.notes == (
        "user ids are written as 12.0; read as whole numbers",
        "white space around 2 item ids left out",
    )


TIMES = {
    "seconds": (["1576252279", "1576252280"], [1_576_252_279, 1_576_252_280], "unix"),
    "milliseconds": (["1576252279000", "1576252280999"], [1_576_252_279, 1_576_252_280], "unix"),
    "microseconds": (["1576252279000000"] * 2, [1_576_252_279] * 2, "unix"),
    "nanoseconds": (["1576252279000000000"] * 2, [1_576_252_279] * 2, "unix"),
    "floats": (["1576252279.0", "1.57625228e9"], [1_576_252_279, 1_576_252_280], "unix"),
    "dates": (["2019-12-13", "2019-12-14"], [1_576_195_200, 1_576_281_600], "unix"),
    "dates with time": (["2019-12-13 15:51:19", "2019-12-13T15:51"], [1_576_252_279, 1_576_252_260], "unix"),
    "zones": (["2019-12-13T15:51:19Z", "2019-12-13 17:51:19+02:00"], [1_576_252_279] * 2, "unix"),
    "day numbers": (["20191213", "20191214"], [1_576_195_200, 1_576_281_600], "unix"),
    "an order": (["3", "7"], [0, 0], "relative"),  # from each user's first
    "before 1980 beside after": (["100000000", "1576252279"], [100_000_000, 1_576_252_279], "unix"),
}


@pytest.mark.parametrize(("times", "expected", "clock"), TIMES.values(), ids=TIMES)
def test_times(times: list[str], expected: list[int], clock: str, table: Callable[..., Path]) -> None:
    content = "user,item,ts\n" + "".join(f"u{n},{n},{time}\n" for n, time in enumerate(times))
    log = read_table(table(content))
    assert log.clock == clock
    assert rows(log, "time") == [(time,) for time in expected]


def test_order_counts_from_the_users_first(table: Callable[..., Path]) -> None:
    log = read_table(table("user,item,time\na,1,5\nb,1,2\na,2,9\n"))
    assert rows(log) == [("a", 1, 0), ("b", 1, 0), ("a", 2, 4)]
    assert "used as an order" in " ".join(log.notes)


def test_conversion_of_milliseconds_is_noted_with_the_year(table: Callable[..., Path]) -> None:
    log = read_table(table("user,item,time\na,1,1576252279000\nb,2,1576252279000\n"))
    assert (
        "times are unix milliseconds (as seconds they would lie in the year 51,919); converted" in log.notes
    )


def test_fractions_of_a_second_decide_the_order(table: Callable[..., Path]) -> None:
    log = read_table(
        table("user,item,time\na,late,1576252279900\nb,x,1576252279500\na,early,1576252279100\n")
    )
    assert rows(log, "item") == [("early",), ("x",), ("late",)]
    assert log.frame.collect()["time"].unique().to_list() == [1_576_252_279]


def test_selection_keeps_that_order(table: Callable[..., Path], cache: Path) -> None:  # noqa: ARG001
    content = "user,item,time\n" + "".join(
        f"{user},{item},15762522799{place}0\n"
        for user in "ab"
        for item, place in (("z", 2), ("y", 1), ("x", 0))
    )
    prepared = prepare.load(str(table(content)))
    names = dict(prepared.items.select("item", "raw_id").iter_rows())
    assert [names[item] for item in prepared.interactions["item"]] == ["x", "y", "z"] * 2


def test_columns_are_found_by_their_usual_names(table: Callable[..., Path]) -> None:
    content = "reviewerID,asin,overall,unixReviewTime,extra\na,B1,4.5,1576252279,?\nb,B2,5,1576252279,?\n"
    assert rows(read_table(table(content)), "user", "item", "rating", "time") == [
        ("a", "B1", 4.5, 1_576_252_279),
        ("b", "B2", 5.0, 1_576_252_279),
    ]
    recbole = "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t1576252279\n2\t3\t1576252279\n"
    assert rows(read_table(table(recbole))) == [(1, 2, 1_576_252_279), (2, 3, 1_576_252_279)]


def test_declared_columns_win_over_usual_names(table: Callable[..., Path]) -> None:
    path = table("user,who,item,thing,time\nu1,w1,i1,t1,5\nu2,w2,i2,t2,x\n")
    log = read_table(path, Columns(user="who", item="thing", time="-"))
    assert rows(log, "user", "item") == [("w1", "t1"), ("w2", "t2")]
    assert (log.clock, log.frame.collect_schema().names()) == ("none", ["row", "user", "item"])


def items_of(path: Path, columns: Columns = Columns()) -> pl.DataFrame:  # noqa: B008 - immutable
    return table_items(path, columns, read_table(path, columns).frame.collect()["item"])


def test_item_features_of_the_interactions(table: Callable[..., Path]) -> None:
    path = table(
        'user,item,title,genres,lat,lon,brand\na,i1,"A\n  film",Drama|War,1,10,\nb,i1,,,3,10,\nb,i2,,|,,,\n'
    )
    found = items_of(path)
    assert found.columns == ["item", "raw_id", "title", "tags", "latitude", "longitude"]  # no brand anywhere
    assert found.rows() == [
        ("i1", "i1", "A film", ["Drama", "War"], 2.0, 10.0),
        ("i2", "i2", None, [], None, None),
    ]


def test_what_differs_between_rows_of_an_item_is_not_the_items(
    table: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = table("user,item,title\na,1,Great!\nb,1,Awful.\nb,2,So so\n")
    assert items_of(path).columns == ["item", "raw_id"]
    assert "title differs between the rows of 1 items" in caplog.text
    assert items_of(path, Columns(title="title"))["title"].to_list() == ["Great!", "So so"]


def test_what_is_read_as_something_else_is_no_feature(table: Callable[..., Path]) -> None:
    path = table("name,item,label\na,1,A\nb,2,B\n")
    assert items_of(path, Columns(user="name")).columns == ["item", "raw_id"]
    assert items_of(path, Columns(user="name", title="label"))["title"].to_list() == ["A", "B"]


def test_a_second_table_describes_the_items(table: Callable[..., Path]) -> None:
    table('item_id,name,tags\n2,Two,\n9,Nine,x;y\n1,One,"a; b;a"\n', "items.csv")
    path = table("user,item,title\na,1,no\nb,2,no\nb,3,no\n")
    found = items_of(path, Columns(items="items.csv"))
    assert found.rows() == [(1, "1", "One", ["a", "b"]), (2, "2", "Two", None), (3, "3", None, None)]


def test_tags_of_json_lines_are_lists(table: Callable[..., Path]) -> None:
    lines = [{"user": u, "item": u, "categories": tags} for u, tags in (("a", ["x", "y,z"]), ("b", None))]
    path = table("".join(json.dumps(line) + "\n" for line in lines), "mine.jsonl")
    assert items_of(path)["tags"].to_list() == [["x", "y,z"], None]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("item,title\n1,A\n2,B\n1,C\n", ("items.csv:4: ", "'1'", "described before")),
        ("item,lat,lon\n1,91,0\n", ("items.csv:2: ", "latitude '91'", "-90 to 90")),
        ("item,lat,lon\n1,0,here\n", ("items.csv:2: ", "longitude 'here'", "not a number")),
        ("title\tname\nA\tB\n", ("items.csv:1: ", "no column for item")),
        ("item,title\n1,A,B\n", ("items.csv:2: ", "3 fields", "2")),
    ],
    ids=["twice", "off the earth", "no number", "no items", "ragged"],
)
def test_bad_item_tables_are_refused(content: str, says: tuple[str, ...], table: Callable[..., Path]) -> None:
    table(content, "items.csv")
    path = table("user,item\na,1\nb,2\n")
    with pytest.raises(DataError) as caught:
        items_of(path, Columns(items="items.csv"))
    assert all(part in str(caught.value) for part in says)


@pytest.mark.parametrize("text", ["🎸" * 9, "שלום עולם", "w" * 50_000, 'a "quoted", word'], ids=range(4))
def test_item_text_of_any_kind_and_length(text: str, table: Callable[..., Path]) -> None:
    quoted = text.replace('"', '""')
    path = table(f'user,item,description\na,1,"{quoted}"\nb,2,\n')
    assert items_of(path)["text"].to_list() == [text, None]


def test_prepared_from_a_table(table: Callable[..., Path], cache: Path) -> None:  # noqa: ARG001
    lines = [f"{user},{item},{place}" for user in ("ann", "bob") for place, item in enumerate("xyz")]
    path = table("user,item,time\n" + "\n".join([*lines, "eve,x,1"]) + "\n")
    prepared = prepare.load(str(path), selection=Selection())
    assert (prepared.card.num_users, prepared.card.num_items) == (2, 3)  # eve cannot be split
    assert sorted(prepared.items["raw_id"]) == ["x", "y", "z"]
