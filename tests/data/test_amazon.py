"""Amazon's three releases as they lie on disk: what is read, what is refused and where, and the core."""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pytest

from recbench.data import sequence_file
from recbench.data.selection import Selection, select
from recbench.data.sources import amazon, jsonlines
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400
NOON = 1_252_800_000  # 2009-09-13, midnight UTC


def review(user: str, item: str, moment: int = NOON, **other: Any) -> dict[str, Any]:
    """A line of `reviews_<Cat>_5.json.gz`."""
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'Ann "Annie" O\'Neil',
        "helpful": [1, 2],
        "reviewText": "Says {\"asin\": \"B9\"}, \n costs 5 £",
        "overall": 5.0,
        "summary": "Fine",
        "unixReviewTime": moment,
        "reviewTime": "09 13, 2009",
    } | other  # fmt: skip


def review_2023(user: str, item: str, moment: int = NOON * 1000 + 999) -> dict[str, Any]:
    """A line of `<Cat>.jsonl.gz`."""
    return {
        "rating": 4.0,
        "title": "Fine",
        "text": "Good",
        "images": [],
        "asin": f"{item}-red",
        "parent_asin": item,
        "user_id": user,
        "timestamp": moment,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def packed(path: Path, rows: list[Any]) -> Path:
    """The rows as JSON lines in gzip; bytes and text as they are."""
    texts = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    content = b"\n".join(text if isinstance(text, bytes) else text.encode() for text in texts)
    path.write_bytes(gzip.compress(content + b"\n", mtime=0))
    return path


def table(log_frame: pl.LazyFrame) -> list[tuple[Any, ...]]:
    columns = pl.col("user", "item").cast(pl.String)
    return log_frame.select(columns, "rating", "time", "row").collect().rows()


@pytest.mark.parametrize("read", [amazon.read_2014, amazon.read_2018], ids=["2014", "2018"])
def test_reviews(read: Callable[[Path], Any], tmp_path: Path) -> None:
    rows = [review("A1", "0001"), review("A2", "B2", NOON - DAY, overall=1, verified=True)]
    log = read(packed(tmp_path / "reviews_Made_5.json.gz", rows))
    assert table(log.frame) == [("A1", "0001", 5.0, NOON, 0), ("A2", "B2", 1.0, NOON - DAY, 1)]
    assert log.clock == "unix"


def test_reviews_of_2023_are_of_the_parent_and_in_milliseconds(tmp_path: Path) -> None:
    log = amazon.read_2023(packed(tmp_path / "Made.jsonl.gz", [review_2023("AE", "B1")]))
    assert table(log.frame) == [("AE", "B1", 4.0, NOON, 0)]


@pytest.mark.parametrize(
    ("more_header", "more"), [("", ""), (",history", ",B7 B8")], ids=["plain", "history"]
)
def test_csv_of_the_2023_benchmark(more_header: str, more: str, tmp_path: Path) -> None:
    header = f"user_id,parent_asin,rating,timestamp{more_header}"
    rows = [header, f"AE,B1,4.0,{NOON * 1000 + 999}{more}", f"AF,B2,1.0,{NOON * 1000}{',' * bool(more)}"]
    log = amazon.read_2023(packed(tmp_path / "Made.csv.gz", rows))
    assert table(log.frame) == [("AE", "B1", 4.0, NOON, 0), ("AF", "B2", 1.0, NOON, 1)]


def test_line_ends_blank_lines_and_compression_do_not_matter(tmp_path: Path) -> None:
    rows = [json.dumps(review(user, "B1")) for user in ("A1", "A2", "A3")]
    packed_path = packed(tmp_path / "a.json.gz", rows)
    plain = tmp_path / "a.json"
    plain.write_text("\r\n".join([rows[0], "", *rows[1:]]))
    members = tmp_path / "b.json.gz"
    members.write_bytes(b"".join(gzip.compress(f"{row}\n".encode(), mtime=0) for row in rows))
    assert table(amazon.read_2014(plain).frame) == table(amazon.read_2014(packed_path).frame)
    assert table(amazon.read_2014(members).frame) == table(amazon.read_2014(packed_path).frame)


def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.json.gz", [review(f"A{n}", f"B{n % 3}", NOON + n) for n in range(20)])
    whole = table(amazon.read_2014(path).frame)
    monkeypatch.setattr(jsonlines, "_BLOCK", 700)  # between two and three lines
    assert len(list(jsonlines.blocks(path))) > 7
    assert table(amazon.read_2014(path).frame) == whole
    assert [row[:2] for row in whole] == [(f"A{n}", f"B{n % 3}") for n in range(20)]
    assert [row[4] for row in whole] == list(range(20))


class Case(NamedTuple):
    """A line that follows two good ones, and what the message must say."""

    line: Any
    says: tuple[str, ...]


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in review("A3", "B1").items() if name != key}


CASES = {
    "broken": Case('{"reviewerID": "A3", "asin"', ("not JSON", "column 28", "fetch the file again")),
    "two objects": Case("{}{}", ("not JSON", "column 3")),
    "no object": Case("[1, 2]", ("[1, 2] is no JSON object", "one on each line")),
    "python literal": Case("{'asin': 'B1'}", ("not JSON", "column 2")),
    "nan": Case('{"overall": NaN}', ("NaN is not JSON",)),
    "latin-1": Case(json.dumps(review("A3", "B1")).encode().replace(b"Fine", b"caf\xe9"), ("0xe9", "UTF-8")),
    "no user": Case(without("reviewerID"), ("'reviewerID' is missing", "this one has asin, ")),
    "no item": Case(without("asin"), ("'asin' is missing",)),
    "no rating": Case(without("overall"), ("'overall' is missing",)),
    "no time": Case(without("unixReviewTime"), ("'unixReviewTime' is missing", "read it as what it is")),
    "null item": Case(review("A3", "B1", asin=None), ("'asin' is missing",)),
    "empty user": Case(review("", "B1"), ("reviewerID ''", "no id of letters")),
    "space in id": Case(review("A3", "B 1"), ("asin 'B 1'", "no id of letters")),
    "object as id": Case(review("A3", "B1", asin={"a": 1}), ("asin {'a': 1}", "no id of letters")),
    "2023": Case(review_2023("AE", "B1"), ("'reviewerID' is missing", "parent_asin", "read it as")),
    "text rating": Case(review("A3", "B1", overall="5.0"), ("overall '5.0' is not a number",)),
    "true rating": Case(review("A3", "B1", overall=True), ("overall True is not a number",)),
    "text time": Case(review("A3", "B1", unixReviewTime="today"), ("unixReviewTime 'today'", "whole number")),
    "float time": Case(review("A3", "B1", unixReviewTime=1.5e9), ("1500000000.0", "whole number", "seconds")),
    "huge time": Case(review("A3", "B1", 10**20), ("100000000000000000000", "in the future")),
    "milliseconds": Case(review("A3", "B1", NOON * 1000), ("in milliseconds", "divide the times by 1000")),
    "negative time": Case(review("A3", "B1", -5), ("unixReviewTime -5 is before 1995",)),
    "future": Case(review("A3", "B1", 4_000_000_000), ("4000000000 is before 1995 or in the future",)),
}  # fmt: skip


def refusal(read: Callable[[], Any]) -> str:
    """What the `DataError` of a call says: one short line, at once."""
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        read()
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_line_is_refused_with_its_number(case: Case, tmp_path: Path) -> None:
    good = review("A1", "B1")
    path = packed(tmp_path / "reviews_Made_5.json.gz", [good, "", good, case.line, good])
    message = refusal(lambda: amazon.read_2014(path))
    assert message.startswith(f"{path}:4: ")
    for part in case.says:
        assert part in message


def test_bad_line_in_a_later_block_has_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = [review(f"A{n}", "B1") for n in range(30)]
    rows[20] = "no JSON"
    rows[25] = "no JSON either"
    path = packed(tmp_path / "a.json.gz", rows)
    monkeypatch.setattr(jsonlines, "_BLOCK", 700)
    assert refusal(lambda: amazon.read_2014(path)).startswith(f"{path}:21: not JSON")


def test_byte_order_mark_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.json.gz", [b"\xef\xbb\xbf" + json.dumps(review("A1", "B1")).encode()])
    assert ":1: starts with a byte order mark" in refusal(lambda: amazon.read_2014(path))


def test_seconds_in_the_2023_release_are_refused(tmp_path: Path) -> None:
    lines = packed(tmp_path / "a.jsonl.gz", [review_2023("AE", "B1"), review_2023("AE", "B1", NOON)])
    header = "user_id,parent_asin,rating,timestamp"
    csv = packed(tmp_path / "a.csv.gz", [header, f"AE,B1,4.0,{NOON * 1000}", f"AE,B1,4.0,{NOON}"])
    for path, line in ((lines, 2), (csv, 3)):
        message = refusal(lambda path=path: amazon.read_2023(path))
        assert message == (
            f"{path}:{line}: timestamp {NOON} is in seconds and should be in milliseconds; multiply the "
            "times by 1000"
        )


def test_other_csv_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.csv.gz", ["item,user,rating,timestamp", "B1,A1,5.0,1252800000"])
    message = refusal(lambda: amazon.read_2023(path))
    assert message.startswith(
        f"{path}:1: 'item,user,rating,timestamp' is the start of neither JSON lines nor"
    )
    assert "user_id,parent_asin,rating,timestamp" in message


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum
    path.write_bytes(bytes(content))


def _bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(80 << 20), compresslevel=1, mtime=0))


def _tar(path: Path) -> None:
    path.write_bytes(
        gzip.compress(b"review.json".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"), mtime=0)
    )


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_cut, "the gzip file is truncated; fetch it again"),
    "damaged": (_flipped, "damaged gzip file"),
    "not gzip": (lambda path: path.write_bytes(b'{"asin"'), "not a gzip file"),
    "empty": (lambda path: packed(path, []), "is empty; it should hold Amazon reviews of 2014"),
    "missing": (lambda path: path.unlink(), "no such file"),
    "bomb": (_bomb, ":1: the line has more than 64 MiB"),
    "archive": (_tar, "this is a tar archive; unpack it"),
    "zip": (lambda path: path.write_bytes(gzip.compress(b"PK\x03\x04..")), "this is a zip archive"),
}


@pytest.mark.parametrize(("spoil", "says"), FILES.values(), ids=FILES.keys())
def test_damaged_file_is_refused(spoil: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.json.gz", [review(f"A{n * 7919}", f"B{n * 104729}") for n in range(50)])
    spoil(path)
    message = refusal(lambda: amazon.read_2014(path))
    assert message.startswith(str(path))
    assert says in message


def test_core_in_stable_order_by_hand(tmp_path: Path) -> None:
    # 2-core: A4 has one review; without it B4 has one, without that A3 has one, without that B3 keeps two
    rows = [
        review("A1", "B1", NOON + 2 * DAY), review("A2", "B2", NOON), review("A3", "B3"), review("A4", "B4"),
        review("A1", "B2", NOON), review("A2", "B1", NOON), review("A3", "B4"), review("A1", "B3", NOON),
        review("A2", "B3", NOON - DAY),
    ]  # fmt: skip
    log = amazon.read_2014(packed(tmp_path / "reviews_Made_5.json.gz", rows))
    kept = select(log, Selection(min_user=2, min_item=2))
    assert kept.select("user", "item", "pos", "time").rows() == [
        ("A1", "B2", 0, NOON), ("A1", "B3", 1, NOON), ("A1", "B1", 2, NOON + 2 * DAY),
        ("A2", "B3", 0, NOON - DAY), ("A2", "B2", 1, NOON), ("A2", "B1", 2, NOON),
    ]  # fmt: skip


def literal(**values: Any) -> str:
    """A line of the 2014 metadata: a Python literal."""
    return repr(
        {"related": {"also_bought": ["B7", "B8"]}, "salesRank": {"Beauty": 12}, "price": 3.5} | values
    )


META_2014 = [
    literal(
        asin="B1",
        title="Salt &amp; Pepper\n  Mill, 6&quot;",
        brand="O'Neil",
        description="It's <b>good</b>, it's &lt;i&gt;cheap&lt;/i&gt;. 'asin': 'B3' is not.",
        categories=[["Beauty", "Tools"], ["Beauty", "Make &amp; up", "Face"], ["Beauty", "Hair", "Care"]],
    ),
    literal(asin="B2", brand="Unknown", categories=[["Beauty"]]),
    literal(asin="B9", title="not wanted", categories=3),
    literal(title="Comb", description="Isn't 'asin': 'B0'", asin="B3"),  # an id before the item's own
]


def test_items_of_2014_by_hand(tmp_path: Path) -> None:
    path = packed(tmp_path / "meta_Made.json.gz", META_2014)
    items = amazon.items_2014(path, pl.Series(["B3", "B1", "B2", "B4", "B1"]))
    assert items.columns == ["item", "raw_id", "title", "brand", "tags", "text"]
    text = "Salt & Pepper Mill, 6\". O'Neil. Make & up, Face. It's good , it's cheap . 'asin': 'B3' is not."
    assert items.rows() == [
        ("B1", "B1", 'Salt & Pepper Mill, 6"', "O'Neil", ["Make & up", "Face"], text),
        ("B2", "B2", None, None, None, None),
        ("B3", "B3", "Comb", None, None, "Comb. Isn't 'asin': 'B0'"),
        ("B4", "B4", None, None, None, None),
    ]


def test_features_that_no_item_has_are_not_claimed(tmp_path: Path) -> None:
    path = packed(tmp_path / "meta_Made.json.gz", META_2014)
    assert amazon.items_2014(path, pl.Series(["B2", "B3"])).columns == ["item", "raw_id", "title", "text"]


def test_items_of_2018_by_hand(tmp_path: Path) -> None:
    rows = [
        {
            "category": ["Sports", "Outdoor", "Bikes &amp; More"],
            "tech1": "",
            "description": ["Two <br> wheels.", "", "One&nbsp;bell."],
            "title": "Bike",
            "also_buy": ["B2"],
            "brand": "Acme",
            "feature": ["Red"],
            "asin": "B1",
        },
        {
            "category": [],
            "description": [],
            "title": "var aPageStart = (new Date()).getTime();",
            "asin": "B2",
        },
        {"title": "Second line of the same item", "asin": "B1"},
    ]
    items = amazon.items_2018(packed(tmp_path / "meta_Made.json.gz", rows), pl.Series(["B1", "B2"]))
    assert items.rows() == [
        ("B1", "B1", "Bike", "Acme", ["Outdoor", "Bikes & More"],
         "Bike. Acme. Outdoor, Bikes & More. Two wheels. One bell."),
        ("B2", "B2", None, None, None, None),
    ]  # fmt: skip


def test_items_of_2023_by_hand(tmp_path: Path) -> None:
    rows = [
        {
            "main_category": "All Beauty",
            "title": "Cream",
            "average_rating": 4.1,
            "features": ["Soft"],
            "description": ["For hands."],
            "store": "Acme",
            "categories": ["Beauty", "Skin", "Skin"],
            "details": {"parent_asin": "B7"},
            "parent_asin": "B1",
            "bought_together": None,
        },
        {"title": "", "store": None, "categories": [], "description": [], "parent_asin": "B2"},
    ]
    items = amazon.items_2023(packed(tmp_path / "meta_Made.jsonl.gz", rows), pl.Series(["B1", "B2"]))
    assert items.rows() == [
        ("B1", "B1", "Cream", "Acme", ["Skin"], "Cream. Acme. Skin. For hands."),
        ("B2", "B2", None, None, None, None),
    ]


READERS = {"2014": amazon.items_2014, "2018": amazon.items_2018, "2023": amazon.items_2023}
BAD_META = {
    "json as 2014": ("2014", '{"asin": "B1"}', ("this is JSON, as metadata of 2018 and 2023",)),
    "literal as 2018": ("2018", "{'asin': 'B1'}", ("this is a Python literal, as metadata of 2014",)),
    "2018 as 2023": ("2023", '{"asin": "B1"}', ("'parent_asin' is missing", "metadata of 2014 or 2018")),
    "2023 as 2018": ("2018", '{"parent_asin": "B1"}', ("'asin' is missing", "metadata of 2023")),
    "no id": ("2014", "{'title': 'x'}", ("'asin' is missing", "fetch the file again")),
    "call": ("2014", "{'asin': 'B1', 'title': exit(3)}", ("no Python literal", "more than strings")),
    "import": ("2014", "__import__('os').system('true')", ("no Python literal", "more than strings")),
    "unclosed": ("2014", "{'asin': 'B1', 'title': 'x", ("no Python literal", "unterminated")),
    "nested": ("2014", "[" * 5_000, ("no Python literal",)),
    "list": ("2014", "['asin', 'B1']", ("is no dict",)),
    "latin-1": ("2014", b"{'asin': 'B1', 'title': '\xe9'}", ("0xe9 is not UTF-8",)),
    "number as title": ("2014", "{'asin': 'B1', 'title': 3}", ("title 3 is no text",)),
    "flat categories": ("2014", "{'asin': 'B1', 'categories': ['Beauty']}", ("no list of paths",)),
    "text as category": ("2018", '{"asin": "B1", "category": "Beauty"}', ("category 'Beauty' is no list",)),
    "broken": ("2023", '{"parent_asin": "B1", ', ("not JSON", "fetch the file again")),
    "deep": ("2018", '{"asin": "B1", "a": ' + "[" * 100_000, ("nested too deep",)),
}


@pytest.mark.parametrize(("release", "line", "says"), BAD_META.values(), ids=BAD_META.keys())
def test_bad_metadata_is_refused_with_its_line(
    release: str, line: Any, says: tuple[str, ...], tmp_path: Path
) -> None:
    good = {"2014": "{'asin': 'B9'}", "2018": '{"asin": "B9"}', "2023": '{"parent_asin": "B9"}'}[release]
    path = packed(tmp_path / "meta_Made.json.gz", [good, line])
    message = refusal(lambda: READERS[release](path, pl.Series(["B1"])))
    assert message.startswith(f"{path}:2: ")
    for part in says:
        assert part in message


def test_metadata_of_other_items_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "meta_Made.json.gz", META_2014)
    message = refusal(lambda: amazon.items_2014(path, pl.Series(["B5", "B6"])))
    assert message == (
        f"{path}: describes none of the 2 items; take the metadata of the same category and release"
    )


@pytest.mark.realdata
def test_beauty_laid_out_as_in_2014_gives_the_same_interactions(raw_root: Path, tmp_path: Path) -> None:
    known = pl.read_parquet(raw_root / "amazon_beauty" / "interactions.parquet").with_row_index("place")
    asin = pl.read_parquet(raw_root / "amazon_beauty" / "items.parquet").select("item", "raw_id")
    rows = (
        known.sample(fraction=1, shuffle=True, seed=3)
        .sort("rel_time_s", "place")  # as the file: days in any order of users, and within a day as reviewed
        .join(asin, on="item", how="left", maintain_order="left")
        .select(
            reviewerID=pl.format("A{}", pl.col("user").cast(pl.String).str.zfill(13)),
            asin="raw_id",
            overall=pl.lit(5.0),
            unixReviewTime=pl.col("rel_time_s") + NOON,
            reviewTime=pl.lit("09 13, 2009"),
        )
    )
    path = tmp_path / "reviews_Beauty_5.json.gz"
    path.write_bytes(gzip.compress(rows.write_ndjson().encode(), compresslevel=1, mtime=0))
    kept = select(amazon.read_2014(path), Selection(min_user=5, min_item=5))
    assert kept["user"].n_unique() == 22_363
    assert kept["item"].n_unique() == 12_101
    found = kept.select(
        user=pl.col("user").str.slice(1).cast(pl.Int32), raw_id="item", pos="pos", time=pl.col("time") - NOON
    )
    (sequences,) = (raw_root / "amazon_beauty").glob("Beauty.txt*")
    expected = (
        sequence_file.sequences(sequences)
        .with_columns(pl.col("user", "item").cast(pl.Int32))
        .join(asin, on="item", how="left", maintain_order="left")
        .join(known.select("user", pl.col("pos").cast(pl.Int32), "rel_time_s"), on=["user", "pos"])
        .select("user", "raw_id", "pos", time="rel_time_s")
    )
    assert len(found) == 198_502
    assert found.sort("user", "pos").equals(expected.sort("user", "pos"))
