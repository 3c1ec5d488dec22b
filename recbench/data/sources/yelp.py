"""The Yelp Open Dataset: reviews and businesses, JSON lines as its owner hands them out, plain or gzip.

`yelp_academic_dataset_review.json` has review_id, user_id, business_id, stars, useful, funny, cool, text,
date; `yelp_academic_dataset_business.json` has business_id, name, address, city, state, latitude, longitude,
categories (one string with commas, or null) and more. The archive that they come in is for the user to
unpack. S3-Rec keeps the reviews of 2019 by this date, and the 5-core of them. Dates have no zone: they are
taken as they stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from recbench.data.source import Log
from recbench.data.sources import reviews
from recbench.data.sources.described import composed, described, one_line, split_list
from recbench.data.sources.jsonlines import lines, loaded, shown
from recbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_REVIEWS = reviews.Layout("Yelp reviews", "user_id", "business_id", "stars", "date", "text")
_TEXTS = ("name", "city", "categories")
_DEGREES = {"latitude": 90, "longitude": 180}


def read_reviews(path: Path) -> Log:
    """Reviews, `yelp_academic_dataset_review.json`.

    Raises:
        DataError: the file is unreadable, or a line is malformed; the message has its number.
    """
    return Log(reviews.read_log(path, _REVIEWS).lazy(), "unix")


def business_items(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Name as title, categories as tags, coordinates, and a text of name, city and categories.

    Args:
        path: `yelp_academic_dataset_business.json`.
        wanted: raw business ids.

    Returns:
        `item`, `raw_id` and, where any has them, `title`, `tags`, `latitude`, `longitude` and `text`.

    Raises:
        DataError: the file is unreadable, of other items, or a line is malformed.
    """
    ids = set(wanted.cast(pl.String).unique())
    rows: dict[str, dict[str, Any]] = {}
    for number, line in lines(path):
        try:
            row = _row(loaded(line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        if row["item"] in ids:
            rows.setdefault(row["item"], row)
    if not rows:
        hint = "take the businesses of the same release"
        raise DataError(f"{path}: describes none of the {len(ids)} items; {hint}")
    schema = dict.fromkeys(("item", *_TEXTS), pl.String) | dict.fromkeys(_DEGREES, pl.Float64)
    tags = split_list("categories", ",")
    table = (
        pl.DataFrame([*rows.values()], schema=schema)
        .with_columns(title=one_line(pl.col("name")), city=one_line(pl.col("city")))
        .with_columns(tags=pl.when(tags.list.len() > 0).then(tags))
    )
    text = composed(pl.col("title"), pl.col("city"), pl.col("tags").list.join(", "))
    return described(wanted.cast(pl.String), table.select("item", "title", "tags", *_DEGREES, text=text))


def _row(content: dict[str, Any]) -> dict[str, Any]:
    """What a line says of a business.

    Raises:
        ValueError: it lacks the id, or a value is of another kind; the message says which.
    """
    item = content.get("business_id")
    if not isinstance(item, str):
        raise ValueError("key 'business_id' is missing, which every business has; fetch the file again")
    for key in _TEXTS:
        if not isinstance(content.get(key), str | None):
            raise ValueError(f"{key} {shown(content[key])} is no text; correct it or remove the key")
    for key, limit in _DEGREES.items():
        value = content.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and -limit <= value <= limit):
            raise ValueError(f"{key} {shown(value)} is not in degrees from -{limit} to {limit}; correct it")
    return {"item": item} | {key: content.get(key) for key in (*_TEXTS, *_DEGREES)}
