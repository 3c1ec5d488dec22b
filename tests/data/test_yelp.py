"""Yelp's reviews and businesses as they lie on disk: what is read, what is refused, the 5-core of 2019."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pytest

from recbench.data.selection import Selection, select
from recbench.data.sources import yelp
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOMENT = 1_576_252_279  # 2019-12-13 15:51:19 UTC


def review(user: str, item: str, date: Any = "2019-12-13 15:51:19", **other: Any) -> dict[str, Any]:
    """A line of `yelp_academic_dataset_review.json`."""
    return {
        "review_id": "lWC-xP3rd6obsecCYsGZRg",
        "user_id": user,
        "business_id": item,
        "stars": 4.0,
        "useful": 3,
        "funny": 1,
        "cool": 1,
        "text": 'Apparently "Prides" \n is £5',
        "date": date,
    } | other


def business(item: str, **other: Any) -> dict[str, Any]:
    """A line of `yelp_academic_dataset_business.json`."""
    return {
        "business_id": item,
        "name": "Roy's",
        "address": "",
        "city": "Las  Vegas",
        "state": "NV",
        "postal_code": "89119",
        "latitude": 36.1,
        "longitude": -115.17,
        "stars": 4.5,
        "review_count": 5,
        "is_open": 1,
        "attributes": {"BusinessParking": "{'garage': False}"},
        "categories": "Bars, Food & Drink, Bars",
        "hours": None,
    } | other


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reviews(tmp_path: Path) -> None:
    rows = [review("a-_1", "-x"), review("b", "y", "2005-01-02", stars=1)]
    log = yelp.read_reviews(written(tmp_path / "yelp_academic_dataset_review.json", rows))
    ids = pl.col("user", "item").cast(pl.String)
    assert log.frame.select("row", ids, "rating", "time").collect().rows() == [
        (0, "a-_1", "-x", 4.0, MOMENT),
        (1, "b", "y", 1.0, 1_104_624_000),  # 2005-01-02 00:00:00 UTC, as `date -ud` says
    ]
    assert log.clock == "unix"


class Case(NamedTuple):
    """A line that follows a good one, and what the message must say."""

    line: Any
    says: str


CASES = {
    "broken": Case('{"user_id"', "not JSON"),
    "business file": Case(business("x"), "'user_id' is missing, which Yelp reviews have on every line"),
    "no date": Case(review("a", "x", None), "'date' is missing"),
    "american date": Case(review("a", "x", "12/13/2019"), "date '12/13/2019' is not a date like '2019-12-13"),
    "no such day": Case(review("a", "x", "2019-02-30 10:00:00"), "'2019-02-30 10:00:00' is not a date"),
    "number as date": Case(review("a", "x", MOMENT), "1576252279 is not a date like"),
    "future": Case(review("a", "x", "2919-12-13 15:51:19"), "is before 1995 or in the future"),
    "text stars": Case(review("a", "x", stars="4"), "stars '4' is not a number"),
    "id with a blank": Case(review("a b", "x"), "user_id 'a b' is no id"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_review_is_refused_with_its_line(case: Case, tmp_path: Path) -> None:
    path = written(tmp_path / "review.json", [review("a", "x"), case.line])
    message = refusal(lambda: yelp.read_reviews(path))
    assert message.startswith(f"{path}:2: ")
    assert case.says in message


def test_the_owners_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    inside = written(tmp_path / "yelp_academic_dataset_review.json", [review("a", "x")])
    for name, mode in (("yelp_dataset.tar", "w"), ("yelp_dataset.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(inside, inside.name)
        message = refusal(lambda name=name: yelp.read_reviews(tmp_path / name))
        assert message == f"{tmp_path / name}: this is a tar archive; unpack it and name the file in it"


def test_core_of_2019_by_hand(tmp_path: Path) -> None:
    users, items = [f"u{n}" for n in range(5)], [f"i{n}" for n in range(5)]
    rows = [
        review(user, item, f"2019-{12 - place:02}-01 00:00:00")
        for user in users
        for place, item in enumerate(items)
    ]
    rows += [review("u0", "i0", "2018-12-31 23:59:59"), review("u1", "i1", "2020-01-01 00:00:00")]
    rows += [review("u2", "i2", "2019-12-31 23:59:59"), review("u3", "i3", "2019-01-01 00:00:00")]
    rows += [review("u9", item, "2019-05-05 05:05:05") for item in items[:4]]  # one short of five
    log = yelp.read_reviews(written(tmp_path / "review.json", rows))
    rule = Selection(min_user=5, min_item=5, since="2019-01-01", until="2019-12-31")
    kept = select(log, rule)
    histories = dict.fromkeys(users, items[::-1])
    histories["u2"] = [*histories["u2"], "i2"]  # the last second of the year is in
    histories["u3"] = ["i3", *histories["u3"]]  # and so is the first
    assert kept.select("user", "item").rows() == [(user, item) for user in users for item in histories[user]]


def test_businesses_by_hand(tmp_path: Path) -> None:
    rows = [
        business("x"),
        business("y", categories=None, latitude=None, city=""),
        business("z", name=" ", city=None, categories=" ,", latitude=12, longitude=None),
        business("unwanted"),
        business("x", name="Second line of the same business"),
    ]
    path = written(tmp_path / "yelp_academic_dataset_business.json", rows)
    items = yelp.business_items(path, pl.Series(["z", "y", "x", "gone"]))
    assert items.columns == ["item", "raw_id", "title", "tags", "latitude", "longitude", "text"]
    assert items.rows() == [
        ("gone", "gone", None, None, None, None, None),
        ("x", "x", "Roy's", ["Bars", "Food & Drink"], 36.1, -115.17, "Roy's. Las Vegas. Bars, Food & Drink"),
        ("y", "y", "Roy's", None, None, -115.17, "Roy's"),
        ("z", "z", None, None, 12.0, None, None),
    ]


BAD_BUSINESSES = {
    "review file": Case({"user_id": "a"}, "'business_id' is missing"),
    "broken": Case("{", "not JSON"),
    "number as name": Case(business("x", name=3), "name 3 is no text"),
    "list of categories": Case(business("x", categories=["Bars"]), "categories ['Bars'] is no text"),
    "latitude": Case(business("x", latitude=91), "latitude 91 is not in degrees from -90 to 90"),
    "longitude": Case(business("x", longitude="east"), "longitude 'east' is not in degrees from -180 to 180"),
}


@pytest.mark.parametrize("case", BAD_BUSINESSES.values(), ids=BAD_BUSINESSES.keys())
def test_bad_business_is_refused_with_its_line(case: Case, tmp_path: Path) -> None:
    path = written(tmp_path / "business.json", [business("a"), case.line])
    message = refusal(lambda: yelp.business_items(path, pl.Series(["x"])))
    assert message.startswith(f"{path}:2: ")
    assert case.says in message


def test_businesses_of_another_release_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "business.json", [business("a")])
    assert "describes none of the 1 items" in refusal(lambda: yelp.business_items(path, pl.Series(["x"])))
