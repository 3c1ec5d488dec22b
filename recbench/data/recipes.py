"""How each public data set is made from its owner's files: which reader, which selection.

Readers are imported where they are used, so that a data set costs nothing to those who do not load it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from recbench.data import raw
from recbench.data.selection import Selection, narrow
from recbench.data.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recbench.data.public import DataSet
    from recbench.data.source import Log

_CORE = Selection(min_user=5, min_item=5)


def source_of(log: Log, selection: Selection, describe: Callable[[pl.Series], pl.DataFrame]) -> Source:
    """Select from what was read, and describe the items that are left.

    Args:
        log: what was read.
        selection: what to keep.
        describe: raw item ids -> the table of these items.

    Returns:
        The source, without digests.

    Raises:
        DataError: nothing is left, or the items cannot be read.
        UsageError: the file has no times or ratings to select by.
    """
    interactions, notes = narrow(log, selection)
    wanted = interactions["item"].unique()
    items = describe(wanted.cast(pl.String) if wanted.dtype == pl.Categorical else wanted)
    features = [name for name in items.columns if name not in ("item", "raw_id")]
    bare = (
        items.filter(pl.all_horizontal(pl.col(name).is_null() for name in features))
        if features
        else items[:0]
    )
    if len(bare):
        notes += (f"{len(bare):,} of {len(items):,} items are not described",)
    return Source(interactions, items, log.clock, {}, notes=log.notes + notes)


def digests(data_set: DataSet) -> dict[str, str]:
    """File name -> sha256 of the files as they lie here; empty when one is not here."""
    return {path.name: raw.digest(path) for path in here(data_set)}


def sequences(data_set: DataSet) -> Source:
    """The sequence files of S3-Rec and what lies beside them."""
    from recbench.data.sources import s3rec

    return s3rec.read(data_set)


def sequence_digests(data_set: DataSet) -> dict[str, str]:
    """File name -> sha256 of the uncompressed content; empty when the sequence file is not here."""
    from recbench.data.sources import s3rec

    return s3rec.local_digests(data_set)


def amazon_2014(data_set: DataSet) -> Source:
    """Reviews and metadata of 2014, by S3-Rec's rule: every rating counts, 5-core."""
    from recbench.data.sources import amazon

    reviews, metadata = _paths(data_set)
    return _made(data_set, amazon.read_2014(reviews), _CORE, partial(amazon.items_2014, metadata))


def yelp_2019(data_set: DataSet) -> Source:
    """Yelp's reviews and businesses, by S3-Rec's rule: the reviews of 2019, 5-core."""
    from recbench.data.sources import yelp

    reviews, businesses = _paths(data_set)
    year = Selection(min_user=5, min_item=5, since="2019-01-01", until="2019-12-31")
    return _made(data_set, yelp.read_reviews(reviews), year, partial(yelp.business_items, businesses))


def redial(data_set: DataSet) -> Source:
    """ReDial's dialogues; the last files are the movies and, where there is one, the table about them.

    A movie that the seeker did not like is no interaction. Nobody is dropped: a seeker with one movie trains
    or tests nothing, and is on the card.
    """
    from recbench.data.sources import redial as reader

    paths = _paths(data_set)
    dialogues = [path for path in paths if "jsonl" in path.name]
    movies, *details = [path for path in paths if path not in dialogues]
    items = partial(reader.redial_items, movies, details=details[0] if details else None)
    source = _made(data_set, reader.read_redial(dialogues), Selection(), items)
    return source._replace(queries=reader.redial_queries(dialogues, source.interactions))


def music4all(data_set: DataSet) -> Source:
    """Music4All's listening events, all of them."""
    from recbench.data.sources import music

    history, songs = _paths(data_set)
    return _made(data_set, music.read_music4all(history), Selection(), partial(music.music4all_items, songs))


def foursquare(data_set: DataSet) -> Source:
    """All check-ins of TSMC2014, as CDA4Rec counts them."""
    from recbench.data.sources import foursquare as reader

    (path,) = _paths(data_set)
    return _made(data_set, reader.read_tsmc(path), Selection(), partial(reader.venue_items, path))


def foursquare_10core(data_set: DataSet) -> Source:
    """The check-ins at venues with at least ten."""
    from recbench.data.sources import foursquare as reader

    checkins, places = _paths(data_set)
    return _made(data_set, reader.read_checkins(checkins), Selection(), partial(reader.poi_items, places))


def movielens_100k(data_set: DataSet) -> Source:
    """The ratings of ml-100k as interactions, whatever the rating."""
    from recbench.data.sources import movielens

    ratings, movies = _paths(data_set)
    if ratings.name.removesuffix(".gz").endswith(".inter"):
        log, items = movielens.read_inter(ratings), movielens.atomic_items
    else:
        log, items = movielens.read_u_data(ratings), movielens.u_items
    return _made(data_set, log, Selection(), partial(items, movies))


def movielens_1m(data_set: DataSet) -> Source:
    """The ratings of ml-1m as interactions, whatever the rating."""
    from recbench.data.sources import movielens

    ratings, movies = _paths(data_set)
    return _made(data_set, movielens.read_dat(ratings), Selection(), partial(movielens.dat_items, movies))


def _paths(data_set: DataSet) -> list[Path]:
    """Where the files are.

    Raises:
        DataError: one is not here.
    """
    return here(data_set) or [raw.provided(file) for file in data_set.files]


def here(data_set: DataSet) -> list[Path]:
    """Where the files of a data set are, or those that hold the same; empty when they are not all here."""
    for files in (data_set.files, data_set.instead):
        paths = [path for path in map(raw.locate, files) if path is not None]
        if len(paths) == len(files):
            return paths
    return []


def _made(
    data_set: DataSet, log: Log, selection: Selection, describe: Callable[[pl.Series], pl.DataFrame]
) -> Source:
    """`source_of`, with the digests of the files."""
    return source_of(log, selection, describe)._replace(digests=digests(data_set))
