"""MovieLens (Harper & Konstan, TiiS 2015) in each of its layouts, and RecBole's atomic files.

| release | interactions | titles and genres |
|---|---|---|
| ml-100k | `u.data`: user, item, rating, time between tabs | `u.item`: latin-1, bars, 19 genre flags |
| ml-1m, ml-10m | `ratings.dat`: `user::item::rating::time` | `movies.dat`: latin-1 |
| ml-20m, ml-25m, ml-32m | `ratings.csv`: with header | `movies.csv`: titles in quotes where needed |
| RecBole | `<name>.inter`: tabs, header `user_id:token` | `<name>.item` |

Times are unix seconds. GroupLens allows research use and no redistribution, so the files are the user's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from recbench.data.source import Log
from recbench.data.sources.delimited import Columns, Layout, header, scan
from recbench.data.sources.described import composed, described, one_line, split_list
from recbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_RATING: Columns = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Int64}
_MOVIE: Columns = {"item": pl.Int64, "title": pl.String, "genres": pl.String}
_NO_GENRE = ("(no genres listed)", "unknown")
# the flags of u.item, in the order of u.genre
_FLAGS: tuple[str, ...] = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
)
_FLAGS += ("Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller")
_FLAGS += ("War", "Western")
_ATOMIC = {"user_id": "user", "item_id": "item", "rating": "rating", "timestamp": "time"}
_ATOMIC_TYPES = ("token", "float", "token_seq", "float_seq")


def read_u_data(path: Path) -> Log:
    """The 100,000 ratings of ml-100k, `u.data`.

    Raises:
        DataError: the file is unreadable, or a line is malformed.
    """
    return Log(scan(path, Layout(_RATING)), "unix")


def read_dat(path: Path) -> Log:
    """`ratings.dat` of ml-1m and ml-10m.

    Raises:
        DataError: the file is unreadable, or a line is malformed.
    """
    return Log(scan(path, Layout(_RATING, separator="::")), "unix")


def read_csv(path: Path) -> Log:
    """`ratings.csv` of ml-20m and later, lazily: 32 million ratings are not held in memory.

    Raises:
        DataError: the file is unreadable, has other columns, or a line is malformed.
    """
    _expect(path, ["userId", "movieId", "rating", "timestamp"])
    return Log(scan(path, Layout(_RATING, separator=",", has_header=True)), "unix")


def read_inter(path: Path) -> Log:
    """A RecBole `.inter` file: `user_id`, `item_id` and, where there, `rating` and `timestamp`.

    Ids that are all whole numbers are read as such, so that `ml-100k.inter` and `u.data` are one data set.
    Fractions of a second are cut off.

    Raises:
        DataError: the file is unreadable, its header is not typed, lacks an id, or a line is malformed.
    """
    columns = _atomic_columns(path)
    missing = [name for name in ("user_id", "item_id") if _ATOMIC[name] not in columns]
    if missing:
        raise DataError(f"{path}:1: has no column {missing[0]}:token; name the column so, or add it")
    ours = [name for name in columns if name in _ATOMIC.values()]
    rest = frozenset(columns) - frozenset(ours)
    frame = scan(path, Layout(columns, has_header=True, optional=rest)).select("row", *ours)
    is_whole = pl.col("user", "item").str.contains(r"^(0|[1-9][0-9]{0,17})$").all()
    whole = frame.select(is_whole).collect(engine="streaming").row(0, named=True)
    numeric = [name for name, is_number in whole.items() if is_number] + ["time"] * ("time" in columns)
    return Log(frame.with_columns(pl.col(numeric).cast(pl.Int64)), "unix" if "time" in columns else "none")


def u_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title, genres as tags, and text from `u.item` of ml-100k.

    Raises:
        DataError: the file is unreadable, or a line is malformed.
    """
    flags: Columns = dict.fromkeys(_FLAGS, pl.Int64)
    columns: Columns = {"item": pl.Int64, "title": pl.String}
    columns |= dict.fromkeys(("released", "video", "url"), pl.String)
    layout = Layout(
        columns | flags, separator="|", is_latin1=True, optional=frozenset({"released", "video", "url"})
    )
    genres = pl.concat_str(
        [pl.when(pl.col(flag) == 1).then(pl.lit(flag)) for flag in _FLAGS], separator="|", ignore_nulls=True
    )
    return _movies(scan(path, layout).with_columns(genres=genres).collect(), wanted)


def dat_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title, genres as tags, and text from `movies.dat` of ml-1m and ml-10m.

    Raises:
        DataError: the file is unreadable, or a line is malformed.
    """
    return _movies(scan(path, Layout(_MOVIE, separator="::", is_latin1=True)).collect(), wanted)


def csv_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title, genres as tags, and text from `movies.csv` of ml-20m and later.

    Raises:
        DataError: the file is unreadable, has other columns, or a line is malformed.
    """
    _expect(path, ["movieId", "title", "genres"])
    return _movies(
        scan(path, Layout(_MOVIE, separator=",", has_header=True, is_quoted=True)).collect(), wanted
    )


def atomic_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title with year, genres as tags, and text from a RecBole `.item` file of MovieLens.

    Raises:
        DataError: the file is unreadable, its header is not typed, lacks a column, or a line is malformed.
    """
    columns = _atomic_columns(path)
    for name in ("item", "movie_title", "class"):
        if name not in columns:
            shown = "item_id" if name == "item" else name
            raise DataError(f"{path}:1: has no column {shown}; take the .item file of MovieLens")
    layout = Layout(columns, has_header=True, optional=frozenset(columns) - {"item"})
    frame = scan(path, layout).with_columns(genres=pl.col("class").str.replace_all(" ", "|"))
    title = pl.col("movie_title")
    if "release_year" in columns:
        is_year = pl.col("release_year").str.contains(r"^[0-9]{4}$")
        title = pl.when(is_year).then(pl.format("{} ({})", title, "release_year")).otherwise(title)
    table = frame.with_columns(title=title).collect()
    return _movies(table, wanted)


def _movies(table: pl.DataFrame, wanted: pl.Series) -> pl.DataFrame:
    """The wanted ones among movies with `item`, `title` and `genres` between bars."""
    movies = table.select(
        "item",
        title=one_line(pl.col("title")),
        tags=split_list("genres", "|", without=_NO_GENRE),
    ).unique("item", keep="first", maintain_order=True)
    genres = pl.col("tags").list.join(", ")
    return described(wanted, movies.with_columns(text=composed(pl.col("title"), genres)))


def _expect(path: Path, names: list[str]) -> None:
    """Refuse a CSV file with another header."""
    found = header(path, ",")
    if found != names:
        raise DataError(
            f"{path}:1: has the columns {','.join(found)} and should have {','.join(names)}; correct it"
        )


def _atomic_columns(path: Path) -> Columns:
    """Our names and types for the columns of an atomic file, in file order."""
    columns: Columns = {}
    for field in header(path):
        name, _, kind = field.partition(":")
        if kind not in _ATOMIC_TYPES:
            raise DataError(
                f"{path}:1: column {field!r} has no type; write name:token, name:float, name:token_seq or "
                "name:float_seq, with tabs between"
            )
        columns[_ATOMIC.get(name, name)] = pl.Float64 if kind == "float" else pl.String
    return columns
