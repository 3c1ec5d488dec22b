"""Music: the tables of Music4All (Santana et al., IWSSIP 2020) and of HetRec 2011's Last.fm.

Music4All is given out on request only. Its tables are called .csv, have a header, and tabs between fields:
`listening_history.csv` (user, song, time), `id_information.csv` (id, artist, song, album_name),
`id_genres.csv`, `id_tags.csv` (id, and a list between commas), `id_metadata.csv`, `id_lang.csv`.

HetRec's `user_artists.dat` has numbers of plays, without any order, so there is no sequence in it. The order
that S3-Rec uses is that of the taggings in `user_taggedartists-timestamps.dat` (userID, artistID, tagID, and
milliseconds), which the download holds as well. Neither of the two is a stand-in for Music4All.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from recbench.data.source import Log
from recbench.data.sources.delimited import LATEST, Columns, Layout, header, scan
from recbench.data.sources.described import composed, described, one_line, split_list
from recbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_LISTENING = {  # what the columns of a listening history are called, in small letters
    "user": ("user", "user_id", "userid"),
    "item": ("song", "song_id", "songid", "track", "track_id", "item", "id"),
    "when": ("timestamp", "time", "date", "datetime", "listened_at"),
}
_WHEN = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M")
_LASTFM_BEGAN = 1_009_843_200  # 2002-01-01; some taggings are dated 1956 or before 1970
_TAGGINGS = ("userID", "artistID", "tagID", "timestamp")


def read_music4all(path: Path) -> Log:
    """The listening events of Music4All's `listening_history.csv`.

    Columns are found by their names in the header; times are unix seconds or `YYYY-MM-DD HH:MM[:SS]`, taken
    for UTC.

    Raises:
        DataError: the file is unreadable, has no such columns, or a line is malformed.
    """
    names = header(path)
    ours = {_named(role, names, path): role for role in _LISTENING}
    columns: Columns = {ours.get(name, name): pl.String for name in names}
    rest = frozenset(columns) - frozenset(_LISTENING)
    # a fraction of a second, or a T between date and time, changes neither order nor day
    text = pl.col("when").str.replace("T", " ").str.strip_suffix("Z").str.replace(r"\.[0-9]+$", "")
    times = [text.str.to_datetime(form, strict=False).dt.epoch("s") for form in _WHEN]
    unix = text.cast(pl.Int64, strict=False)
    unix = pl.when(unix.is_between(0, LATEST)).then(unix)
    frame = scan(path, Layout(columns, has_header=True, is_quoted=True, optional=rest))
    frame = frame.with_columns(time=pl.coalesce(unix, *times))
    bad = frame.filter(pl.col("time").is_null()).select("row", "when").head(1).collect(engine="streaming")
    for row, when in bad.iter_rows():
        raise DataError(f"{path}:{row + 2}: {when!r} is no time; write YYYY-MM-DD HH:MM, or unix seconds")
    return Log(frame.select("user", "item", "row", "time"), "unix")


def music4all_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """What Music4All says of its songs.

    `title` is `artist - song`; `tags` are the genres of `id_genres.csv` (853 in all; `id_tags.csv` has 19,541
    listeners' tags, too many to group items by); `text` is title, album, genres and listeners' tags.

    Args:
        path: `id_information.csv`; the other tables are looked for beside it, and one that is not there is a
            feature that is not known.
        wanted: raw song ids.

    Raises:
        DataError: a table is unreadable, lacks a column, or a line is malformed.
    """
    songs = _songs(path, ("artist", "song", "album_name"))
    parts = ["title", "album_name"]
    songs = songs.with_columns(
        title=pl.concat_str(
            [one_line(pl.col("artist")), one_line(pl.col("song"))], separator=" - ", ignore_nulls=True
        )
    )
    for file, column in (("id_genres.csv", "genres"), ("id_tags.csv", "tags")):
        if path.with_name(file).is_file():
            lists = _songs(path.with_name(file), (column,)).select(
                "item", split_list(column, ",").alias(column)
            )
            songs = songs.join(lists, on="item", how="left", maintain_order="left")
            songs = songs.with_columns(pl.col(column).list.join(", ").alias(f"{column}_text"))
            parts.append(f"{column}_text")
    songs = songs.with_columns(text=composed(*[one_line(pl.col(part)) for part in parts]))
    tags = {"tags": pl.col("genres")} if "genres" in songs.columns else {}
    return described(wanted, songs.select("item", "title", **tags, text="text"))


def read_hetrec(path: Path) -> Log:
    """Who first tagged which artist when, from `user_taggedartists-timestamps.dat` of HetRec's Last.fm.

    An artist tagged several times by a user counts once, at the first time. Taggings dated before Last.fm
    began (2002) have no usable time and are dropped. Both are counted.

    Raises:
        DataError: the file is `user_artists.dat`, which has no order; is unreadable; or a line is malformed.
    """
    names = header(path)
    if names != list(_TAGGINGS):
        if len(names) == 3:
            raise DataError(
                f"{path}: has numbers of plays and no times, so there are no sequences in it; read "
                "user_taggedartists-timestamps.dat of the same download, or the plays with hetrec_plays"
            )
        raise DataError(
            f"{path}:1: has the columns {', '.join(names)} and should have {', '.join(_TAGGINGS)}; "
            "take the original file"
        )
    columns: Columns = {"user": pl.Int64, "item": pl.Int64, "tag": pl.Int64, "ms": pl.Int64}
    rows = scan(path, Layout(columns, has_header=True)).collect()
    dated = rows.with_columns(time=pl.col("ms") // 1000).filter(pl.col("time") >= _LASTFM_BEGAN)
    first = dated.sort("time", "row").unique(["user", "item"], keep="first", maintain_order=True)
    notes = (
        f"{len(rows) - len(dated):,} taggings are dated before 2002, when Last.fm began; dropped",
        f"{len(dated) - len(first):,} taggings of an artist that the user had tagged before; merged",
    )
    return Log(first.select("user", "item", "row", "time").lazy(), "unix", notes)


def hetrec_plays(path: Path) -> Log:
    """Numbers of plays per user and artist from `user_artists.dat`, as `rating`; they have no order.

    Blanks around numbers and a missing header line, as public copies have them, are mended. `row` is the
    place in the file, which sorts by plays: a sequence made of it would be an artefact, so `clock` is `none`
    and `read_hetrec` is the reader of sequences.

    Raises:
        DataError: the file is unreadable, or a line is malformed.
    """
    has_header = header(path)[0] == "userID"
    columns: Columns = dict.fromkeys(("user", "item", "rating"), pl.String)
    rows = scan(path, Layout(columns, has_header=has_header)).collect()
    stripped = rows.with_columns(pl.col(*columns).str.strip_chars(" \r"))
    plays = stripped.with_columns(
        pl.col("user", "item").cast(pl.Int64, strict=False), pl.col("rating").cast(pl.Float64, strict=False)
    )
    bad = plays.filter(pl.any_horizontal(pl.col(*columns).is_null())).head(1)
    for (row,) in bad.select("row").iter_rows():
        fields = "\t".join(rows.row(row)[1:])
        raise DataError(
            f"{path}:{row + 1 + has_header}: {fields!r} should be three numbers, user, artist, plays; "
            "correct the line"
        )
    mended = rows.filter(pl.any_horizontal(pl.col(*columns).str.contains(" "))).height
    notes = (f"{mended:,} lines had blanks around a number; stripped",) * (mended > 0)
    notes += ("the header line is missing; read without",) * (not has_header)
    return Log(plays.lazy(), "none", notes)


def hetrec_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Artist names from `artists.dat` (id, name, url, pictureURL), as `title` and `text`.

    Raises:
        DataError: the file is unreadable, or a line is malformed.
    """
    columns: Columns = {"item": pl.Int64, "name": pl.String, "url": pl.String, "pictureURL": pl.String}
    layout = Layout(columns, has_header=True, optional=frozenset({"url", "pictureURL"}))
    names = scan(path, layout).select("item", title=one_line(pl.col("name"))).collect()
    return described(wanted, names.with_columns(text="title"))


def _named(role: str, names: list[str], path: Path) -> str:
    """The column of a listening history that has this role."""
    for known in _LISTENING[role]:
        for name in names:
            if name.lower() == known:
                return name
    raise DataError(
        f"{path}:1: none of the columns {', '.join(names)} is called {' or '.join(_LISTENING[role])}; "
        "name one so, with tabs between"
    )


def _songs(path: Path, wanted: tuple[str, ...]) -> pl.DataFrame:
    """`item` and the `wanted` columns of one of Music4All's tables."""
    names = header(path)
    missing = [name for name in ("id", *wanted) if name not in names]
    if missing:
        raise DataError(
            f"{path}:1: has the columns {', '.join(names)} and lacks {missing[0]}; the original has "
            "tabs between fields, take it"
        )
    columns: Columns = {"item" if name == "id" else name: pl.String for name in names}
    layout = Layout(columns, has_header=True, is_quoted=True, optional=frozenset(columns) - {"item"})
    table = scan(path, layout).select("item", *wanted).collect()
    return table.unique("item", keep="first", maintain_order=True)
