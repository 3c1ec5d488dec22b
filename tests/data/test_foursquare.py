"""Foursquare check-ins: UTC, places, categories; malformed rows; the real rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest

from recbench.data.sources import foursquare
from recbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

# Eight fields as in dataset_TSMC2014_NYC.txt
FIRST = "470\tv1\tc1\tArts & Crafts Store\t40.71981\t-74.002581\t-240\tTue Apr 03 18:00:09 +0000 2012"
ROWS = [
    FIRST,
    "979\tv2\tc2\tCafé\t40.60\t-74.04\t-240\tTue Apr 03 18:00:25 +0000 2012",
    "470\tv2\tc3\tBar\t40.62\t-74.10\t-240\tTue Apr 03 18:02:24 +0000 2012",
    "470\tv2\tc2\tCafé\t40.61\t-74.05\t-240\tTue Apr 03 18:02:24 +0000 2012",
]


@pytest.fixture
def tsmc(tmp_path: Path) -> Path:
    path = tmp_path / "dataset_TSMC2014_NYC.txt"
    path.write_bytes("\n".join([*ROWS, ""]).encode("latin-1"))
    return path


def test_check_ins_are_in_utc_with_the_offset_beside(tsmc: Path) -> None:
    log = foursquare.read_tsmc(tsmc)
    assert log.clock == "unix"
    first = log.frame.collect().row(0, named=True)
    assert first == {
        "user": 470,
        "item": "v1",
        "row": 0,
        "time": int(datetime(2012, 4, 3, 18, 0, 9, tzinfo=UTC).timestamp()),
        "latitude": 40.71981,
        "longitude": -74.002581,
        "offset_min": -240,
    }


def test_repeats_and_venues_of_several_categories_are_counted(tsmc: Path) -> None:
    assert foursquare.read_tsmc(tsmc).notes == (
        "1 check-ins repeat another one's user, venue and second; kept",
        "1 venues have check-ins under several categories; their tag is the most frequent",
    )


def test_venues_have_the_median_place_and_the_most_frequent_category(tsmc: Path) -> None:
    items = foursquare.venue_items(tsmc, pl.Series(["v2", "v1", "v2"]))
    assert items.select("item", "raw_id", "tags", "text").rows() == [
        ("v1", "v1", ["Arts & Crafts Store"], "Arts & Crafts Store"),
        ("v2", "v2", ["Café"], "Café"),
    ]
    assert items.select("latitude", "longitude").row(1) == (40.61, -74.05)


def test_text_ids_may_come_as_categories(tsmc: Path) -> None:
    wanted = pl.Series(["v2"], dtype=pl.Categorical)
    assert foursquare.venue_items(tsmc, wanted)["item"].to_list() == ["v2"]


def test_a_venue_without_category_has_no_tag(tsmc: Path) -> None:
    tsmc.write_text("\n".join([FIRST, FIRST.replace("v1\tc1\tArts & Crafts Store", "v3\t\t")]))
    items = foursquare.venue_items(tsmc, pl.Series(["v1", "v3"]))
    assert items.select("tags", "text").rows() == [
        (["Arts & Crafts Store"], "Arts & Crafts Store"),
        (None, None),
    ]


MALFORMED = {
    "seven-fields": (
        FIRST.rpartition("\t")[0],
        r"has 7 fields and should have 8, separated by '\\t' \(user, item",
    ),
    "nine-fields": (FIRST + "\textra", "has 9 fields and should have 8"),
    "commas": (FIRST.replace("\t", ","), "has 1 field and should have 8"),
    "blank": ("", "the line is blank; remove it"),
    "header": ("user\tvenue\tc\tn\tlat\tlon\toff\ttime", "user 'user' is not a whole number; .* header"),
    "no-venue": (FIRST.replace("v1", ""), "item is empty; fill it in or remove the line"),
    "no-time": (FIRST.replace("Tue Apr 03 18:00:09 +0000 2012", ""), "utc is empty"),
    "word-as-place": (FIRST.replace("40.71981", "north"), "latitude 'north' is not a number"),
    "nan-as-place": (FIRST.replace("40.71981", "nan"), "latitude 'nan' is not a number"),
    "off-the-globe": (FIRST.replace("40.71981", "140.7"), "latitude 140.7, longitude -74.002581 is no place"),
    "half-a-minute": (FIRST.replace("-240", "-240.5"), "offset_min '-240.5' is not a whole number"),
    "other-time": (
        FIRST.replace("Tue Apr 03", "2012-04-03"),
        "'2012-04-03 18:00:09 .* is no time such as 'Tue",
    ),
    "wrong-weekday": (FIRST.replace("Tue Apr", "Wed Apr"), "'Wed Apr 03 18:00:09 .* is no time such as 'Tue"),
    "no-such-day": (FIRST.replace("Apr 03", "Feb 30"), "'Tue Feb 30 18:00:09 .* is no time such as 'Tue"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_rows_are_refused_with_their_line(kind: str, tsmc: Path) -> None:
    line, says = MALFORMED[kind]
    tsmc.write_text("\n".join([FIRST, FIRST, line, FIRST, ""]))
    with pytest.raises(DataError, match=rf"NYC\.txt:3: {says}") as raised:
        foursquare.read_tsmc(tsmc)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("content", "says"), [(b"", "the file is empty"), (b"\x1f\x8b\x08oops", "gzip")])
def test_files_that_are_no_table_are_refused(content: bytes, says: str, tsmc: Path) -> None:
    tsmc.write_bytes(content)
    with pytest.raises(DataError, match=rf"NYC\.txt: .*{says}"):
        foursquare.read_tsmc(tsmc)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"NYC\.txt: no such file; check the path"):
        foursquare.read_tsmc(tmp_path / "NYC.txt")


def test_windows_line_ends_are_read(tsmc: Path) -> None:
    expected = foursquare.read_tsmc(tsmc).frame.collect()
    tsmc.write_bytes("\r\n".join([*ROWS, ""]).encode("latin-1"))
    assert foursquare.read_tsmc(tsmc).frame.collect().equals(expected)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "checkins.parquet"
    visits = {"user": [1, 1, 2, 1], "poi": [5, 6, 5, 5], "ts": [60, 120, 60, 60]}
    pl.DataFrame(visits, schema={"user": pl.Int32, "poi": pl.Int32, "ts": pl.Int64}).write_parquet(path)
    return path


def test_check_ins_of_the_subset(parquet: Path) -> None:
    log = foursquare.read_checkins(parquet)
    assert log.frame.select("user", "item", "time", "row").collect().rows() == [
        (1, 5, 60, 0),
        (1, 6, 120, 1),
        (2, 5, 60, 2),
        (1, 5, 60, 3),
    ]
    assert log.notes == ("1 check-ins repeat another one's user, place and minute; kept",)


def test_places_of_the_subset(parquet: Path) -> None:
    path = parquet.with_name("pois.parquet")
    places = {
        "poi": [5, 6],
        "lat": [1.5, 2.5],
        "lon": [3.5, 4.5],
        "venue_id": ["a", None],
        "category": ["Bar", None],
    }
    pl.DataFrame(places).write_parquet(path)
    items = foursquare.poi_items(path, pl.Series([6, 5]))
    assert items.select("item", "raw_id", "tags", "text", "latitude", "longitude").rows() == [
        (5, "a", ["Bar"], "Bar", 1.5, 3.5),
        (6, "6", None, None, 2.5, 4.5),
    ]


def test_a_place_described_twice_is_refused(parquet: Path) -> None:
    path = parquet.with_name("pois.parquet")
    twice = {
        "poi": [5, 5],
        "lat": [1.0, 2.0],
        "lon": [3.0, 4.0],
        "venue_id": ["a", "b"],
        "category": ["x", "y"],
    }
    pl.DataFrame(twice).write_parquet(path)
    with pytest.raises(DataError, match=r"pois\.parquet: place 5 is described twice"):
        foursquare.poi_items(path, pl.Series([5]))


@pytest.mark.parametrize("content", [b"user,poi,ts\n", b""])
def test_what_is_no_parquet_is_refused(content: bytes, parquet: Path) -> None:
    parquet.write_bytes(content)
    with pytest.raises(
        DataError, match=r"checkins\.parquet: cannot be used .*needs the columns user, poi, ts"
    ):
        foursquare.read_checkins(parquet)


def test_a_parquet_without_a_column_is_refused(parquet: Path) -> None:
    pl.read_parquet(parquet).drop("ts").write_parquet(parquet)
    with pytest.raises(
        DataError, match=r"checkins\.parquet: cannot be used .*needs the columns user, poi, ts"
    ):
        foursquare.read_checkins(parquet)


@pytest.mark.realdata
def test_real_rows_in_the_original_layout(raw_root: Path) -> None:
    folder = raw_root / "foursquare_nyc"
    path = folder / "tsmc_format_rows_getnext_valtest.tsv.gz"
    frame = foursquare.read_tsmc(path).frame.collect()
    assert (len(frame), frame["user"].n_unique(), frame["item"].n_unique()) == (20_713, 620, 3_248)
    started = int(datetime(2012, 11, 9, tzinfo=UTC).timestamp())
    assert frame["time"].min() >= started  # type: ignore[operator]
    items = foursquare.venue_items(path, frame["item"])
    assert len(items) == 3_248
    assert "Café" in items["text"].to_list()  # latin-1, read as such
    assert items["latitude"].is_between(40.5, 41.0).all()
    assert items["longitude"].is_between(-74.3, -73.6).all()
    # every real row is a check-in of the subset, which an independent copy dates by the minute
    subset = pl.read_parquet(folder / "checkins.parquet").join(
        pl.read_parquet(folder / "pois.parquet"), on="poi"
    )
    ours = frame.select(pl.col("user").cast(pl.Int32), venue_id="item", ts=pl.col("time") // 60 * 60)
    known = ours.join(subset.select("venue_id").unique(), on="venue_id", how="semi")
    assert len(known) > 20_000
    assert len(known.join(subset, on=["user", "venue_id", "ts"], how="anti")) == 0


@pytest.mark.realdata
def test_real_subset_is_that_of_the_readme(raw_root: Path) -> None:
    folder = raw_root / "foursquare_nyc"
    log = foursquare.read_checkins(folder / "checkins.parquet")
    frame = log.frame.collect()
    assert (len(frame), frame["user"].n_unique(), frame["item"].n_unique()) == (147_938, 1_083, 5_135)
    assert log.notes == ("458 check-ins repeat another one's user, place and minute; kept",)
    assert frame.group_by("item").len()["len"].min() == 10
    assert frame["time"].min() == datetime(2012, 4, 3, 18, 0, tzinfo=UTC).timestamp()
    assert frame["time"].max() == datetime(2013, 2, 16, 2, 34, tzinfo=UTC).timestamp()
    items = foursquare.poi_items(folder / "pois.parquet", frame["item"])
    assert len(items) == 5_135
    assert items["tags"].null_count() == 69
    assert items.filter(pl.col("raw_id") == pl.col("item").cast(pl.String)).height == 23
    tops = items["text"].drop_nulls().value_counts().sort("count", descending=True).head(3)
    assert tops.rows() == [("Bar", 490), ("Home (private)", 379), ("Office", 321)]
