"""Foursquare check-ins in New York City (Yang et al., IEEE TSMC 2015), as published and as a real subset.

`dataset_TSMC2014_NYC.txt` has tabs, no header, is ISO-8859-1, and gives per check-in: user, venue id,
category id, category name, latitude, longitude, offset of local time in minutes, and UTC time as in
`Tue Apr 03 18:00:09 +0000 2012`. Venues have no names. Coordinates and, rarely, the category differ between
check-ins at one venue. `checkins.parquet` (user, poi, ts) and `pois.parquet` (poi, lat, lon, venue_id,
category) hold the check-ins at venues with at least ten.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import polars as pl

from recbench.data import raw
from recbench.data.source import Log
from recbench.data.sources.delimited import Columns, Layout, scan
from recbench.data.sources.described import described, one_line
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TSMC: Columns = {
    "user": pl.Int64,
    "item": pl.String,
    "category_id": pl.String,
    "category": pl.String,
    "latitude": pl.Float64,
    "longitude": pl.Float64,
    "offset_min": pl.Int64,
    "utc": pl.String,
}
_LAYOUT = Layout(_TSMC, is_latin1=True, optional=frozenset({"category_id", "category"}))
_UTC = "%a %b %d %H:%M:%S %z %Y"


def read_tsmc(path: Path) -> Log:
    """The check-ins of `dataset_TSMC2014_<city>.txt`.

    Besides the columns of a `Log` the frame has `offset_min`: `time` is UTC, and local time is
    `time + 60 * offset_min`. Exact duplicates are kept and counted.

    Raises:
        DataError: the file is unreadable, or a line has other fields, a time that is none, or a place that is
            not on Earth.
    """
    frame = _checkins(path)
    again = len(frame) - frame.select("user", "item", "time").n_unique()
    several = frame.group_by("item").agg(pl.col("category").n_unique()).filter(pl.col("category") > 1).height
    notes = _counted(
        (again, "check-ins repeat another one's user, venue and second; kept"),
        (several, "venues have check-ins under several categories; their tag is the most frequent"),
    )
    columns = ("user", "item", "row", "time", "latitude", "longitude", "offset_min")
    return Log(frame.select(columns).lazy(), "unix", notes)


def venue_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """The venues of a TSMC2014 file.

    `tags` and `text` are the venue's category, of several the most frequent and then the first in the
    alphabet; the place is the median over the venue's check-ins, all of them, for it moves between check-ins.

    Raises:
        DataError: as `read_tsmc`.
    """
    venues = (
        _checkins(path)
        .group_by("item")
        .agg(pl.col("category").drop_nulls().mode().sort().first(), pl.col("latitude", "longitude").median())
    )
    return described(wanted, _with_category(venues))


def read_checkins(path: Path) -> Log:
    """The check-ins of `checkins.parquet`, at minute resolution.

    Exact duplicates (same user, place and minute) are kept and counted; a selection may merge them.

    Raises:
        DataError: the file is damaged or lacks a column.
    """
    table = _parquet(path, {"user": pl.Int64, "poi": pl.Int64, "ts": pl.Int64})
    frame = table.select("user", item="poi", time="ts").with_row_index("row")
    again = len(table) - table.n_unique()
    notes = _counted((again, "check-ins repeat another one's user, place and minute; kept"))
    return Log(frame.lazy(), "unix", notes)


def poi_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """The places of `pois.parquet`: venue id where it is known, category as `tags` and `text`, coordinates.

    Raises:
        DataError: the file is damaged, lacks a column, or describes a place twice.
    """
    table = _parquet(
        path,
        {"poi": pl.Int64, "lat": pl.Float64, "lon": pl.Float64, "venue_id": pl.String, "category": pl.String},
    )
    twice = table.filter(pl.col("poi").is_duplicated())
    if len(twice):
        raise DataError(f"{path}: place {twice['poi'][0]} is described twice; fetch the file again")
    places = table.select("category", item="poi", raw_id="venue_id", latitude="lat", longitude="lon")
    return described(wanted, _with_category(places))


def _checkins(path: Path) -> pl.DataFrame:
    """The rows of a TSMC2014 file with `time`, checked."""
    frame = scan(path, _LAYOUT).collect()
    when = pl.col("utc").str.to_datetime(_UTC, strict=False).dt.epoch("s")
    frame = frame.with_columns(time=when, category=one_line(pl.col("category")))
    is_nowhere = ~pl.col("latitude").is_between(-90, 90) | ~pl.col("longitude").is_between(-180, 180)
    bad = frame.filter(pl.col("time").is_null() | is_nowhere).head(1)
    for row, utc, time, *place in bad.select("row", "utc", "time", "latitude", "longitude").iter_rows():
        fault = (
            f"{utc!r} is no time such as 'Tue Apr 03 18:00:09 +0000 2012'"
            if time is None
            else f"latitude {place[0]}, longitude {place[1]} is no place on Earth"
        )
        raise DataError(f"{path}:{row + 1}: {fault}; correct or remove the line")
    return frame


def _with_category(items: pl.DataFrame) -> pl.DataFrame:
    """The category as a tag and as all the text there is."""
    category = one_line(pl.col("category"))
    tags = pl.when(category.is_not_null()).then(pl.concat_list(category))
    return items.with_columns(tags=tags, text=category).select(pl.exclude("category"))


def _parquet(path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """These columns of a parquet table, cast to their types."""
    try:
        frame = pl.read_parquet(io.BytesIO(raw.read(path)))
        return frame.select(pl.col(name).cast(kind) for name, kind in columns.items())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        first = str(error).splitlines()[0]
        needs = ", ".join(columns)
        raise DataError(
            f"{path}: cannot be used ({first}); it needs the columns {needs}; fetch it again"
        ) from None


def _counted(*counts: tuple[int, str]) -> tuple[str, ...]:
    """`<count> <what>` for counts above 0."""
    return tuple(f"{count:,} {what}" for count, what in counts if count)
