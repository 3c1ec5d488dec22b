"""One function per kind of raw source; each returns interactions and items under the source's own ids.

The public data sets are the sequence files of S3-Rec (Zhou et al., CIKM 2020), which P5, POD, CoSeRec and
most later work use. Item text, tags and times come from parquet tables beside the sequence file where the
user has them: `items.parquet` (item, raw_id, title, attribute_names, keywords) and `interactions.parquet`
(user, item, pos, rel_time_s). Without `items.parquet`, tags are the anonymous attribute ids of
`<Name>_item2attributes.json`.
"""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

from recbench.data import raw, sequence_file
from recbench.data.raw import RawFile
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)
_S3REC = (
    "https://raw.githubusercontent.com/aHuiWang/CIKM2020-S3Rec/49a890dcb516c9ed3126564495234ea74d5cd566/data"
)
_NAMELESS = ["", "Unknown"]  # what the tables call an empty brand

Clock = Literal[
    "unix", "relative", "none"
]  # what `time` counts from: 1970, the user's first interaction, not known


class Source(NamedTuple):
    """What was read.

    Args:
        interactions: raw ids `user` and `item`, `pos` and, where known, `time` in seconds.
        items: `item`, `raw_id` (str) and, where known, `title`, `tags`, `text`, `latitude`, `longitude`.
        clock: what `time` counts from.
        digests: file name -> sha256 of its uncompressed content, for every file that was read.
        queries: `user` and `query`, what the user asked for when choosing the last item; None where unknown.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    clock: Clock
    digests: dict[str, str]
    queries: pl.DataFrame | None = None


class Golden(NamedTuple):
    """Published sizes of a data set."""

    num_users: int
    num_items: int
    num_interactions: int


@dataclass(frozen=True, slots=True)
class DataSet:
    """A public data set: its files and what is known of them.

    Args:
        name: what `--data` calls it.
        about: one line for people.
        sequences: the interactions.
        attributes: anonymous item attributes, wanted where there is no `items.parquet`.
        golden: published sizes.
    """

    name: str
    about: str
    sequences: RawFile
    attributes: RawFile
    golden: Golden


def _s3rec(name: str, about: str, folder: str, file: str, hashes: tuple[str, str], golden: Golden) -> DataSet:
    """A data set of the S3-Rec repository; a file without a known hash is not downloaded."""
    names = (f"{file}.txt", f"{file}_item2attributes.json")
    sequences, attributes = (
        RawFile(folder, named, f"{_S3REC}/{named}" if digest else "", digest)
        for named, digest in zip(names, hashes, strict=True)
    )
    return DataSet(name, about, sequences, attributes, golden)


DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        _s3rec(
            "beauty",
            "Amazon reviews 2014, Beauty, 5-core",
            "amazon_beauty",
            "Beauty",
            (
                "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
                "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
            ),
            Golden(22_363, 12_101, 198_502),
        ),
        _s3rec(
            "sports",
            "Amazon reviews 2014, Sports and Outdoors, 5-core",
            "amazon_sports",
            "Sports_and_Outdoors",
            (
                "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
                "7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b",
            ),
            Golden(35_598, 18_357, 296_337),
        ),
        _s3rec(
            "toys",
            "Amazon reviews 2014, Toys and Games, 5-core",
            "amazon_toys",
            "Toys_and_Games",
            ("176c680c", ""),  # only these digits are known; the sizes below are checked as well
            Golden(19_412, 11_924, 167_597),
        ),
        _s3rec(
            "yelp",
            "Yelp Open Dataset, reviews of 2019, 5-core",
            "yelp",
            "Yelp",
            (
                "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
                "f25acd5e1e680e0b22fd4e3f4fb6be4b2a7461e9222610616e3e1ee6702dd58d",
            ),
            Golden(30_431, 20_033, 316_354),
        ),
    )
}


def public(data_set: DataSet) -> Source:
    """Read a public data set, downloading what is not here.

    Raises:
        DataError: a file is missing, damaged, or does not fit the others.
    """
    file = raw.fetch(data_set.sequences)
    interactions = sequence_file.parse(file.content, str(file.path))
    digests = {file.path.name.removesuffix(".gz"): file.sha256}
    clock: Clock = "none"
    times = _beside(file.path, "interactions.parquet")
    if times is not None:
        interactions = with_times(interactions, times)
        clock = "relative" if "time" in interactions.columns else "none"
        digests[times.path.name] = times.sha256
    table = _beside(file.path, "items.parquet")
    if table is not None:
        items = described_items(interactions, table)
        digests[table.path.name] = table.sha256
    else:
        items = bare_items(interactions)
        attributes = _attributes(data_set.attributes)
        if attributes is not None:
            items = tagged_items(items, attributes)
            digests[attributes.path.name.removesuffix(".gz")] = attributes.sha256
    return Source(interactions, items, clock, digests)


def own(path: Path) -> Source:
    """Read a sequence file of the user's.

    Raises:
        DataError: the file is unreadable or malformed.
    """
    content = raw.read(path)
    interactions = sequence_file.parse(content, str(path))
    return Source(interactions, bare_items(interactions), "none", {path.name: raw.sha256(content)})


def local_digests(data_set: DataSet) -> dict[str, str]:
    """sha256 of the files of `data_set` that are here now; empty when its sequence file is not."""
    file = raw.find(data_set.sequences)
    if file is None:
        return {}
    found = (file, _beside(file.path, "interactions.parquet"), _beside(file.path, "items.parquet"))
    return {each.path.name.removesuffix(".gz"): each.sha256 for each in found if each is not None}


def bare_items(interactions: pl.DataFrame) -> pl.DataFrame:
    """Items of which nothing but the id is known."""
    return interactions.select(pl.col("item").unique().sort()).with_columns(
        raw_id=pl.col("item").cast(pl.String)
    )


def described_items(interactions: pl.DataFrame, table: raw.Raw) -> pl.DataFrame:
    """Items with what `items.parquet` says of them: title, tags, and a text composed of both.

    Keywords enter the text only where there are no titles, since a model made them up from the title.

    Raises:
        DataError: the table is damaged or describes other items.
    """
    frame = _read_parquet(
        table, {"item": pl.Int32, "raw_id": pl.String, "attribute_names": pl.List(pl.String)}
    )
    known, described = interactions["item"].unique().sort(), frame["item"].sort()
    if not known.equals(described):
        raise DataError(
            f"{table.path}: describes {len(described)} items, and not the {len(known)} items of the "
            "sequence file beside it; put each data set into a folder of its own"
        )
    named = pl.element().filter(~pl.element().is_in(_NAMELESS))
    tags = pl.col("attribute_names").list.unique(maintain_order=True).list.eval(named)
    headline = "title" if "title" in frame.columns else "keywords"
    frame = frame.with_columns(
        tags=tags, headline=_one_line(pl.col(headline)) if headline in frame.columns else None
    )
    title = {"title": pl.col("headline")} if headline == "title" else {}
    parts = [pl.when(pl.col(part) != "").then(pl.col(part)) for part in ("headline", "tag_list")]
    return frame.with_columns(tag_list=pl.col("tags").list.join(", ")).select(
        "item", "raw_id", **title, tags="tags", text=pl.concat_str(parts, separator=". ", ignore_nulls=True)
    )


def tagged_items(items: pl.DataFrame, attributes: raw.Raw) -> pl.DataFrame:
    """Items with their anonymous attributes as tags, `attribute 17`.

    Raises:
        DataError: the file is no JSON object of lists of ids, or names items that are not there.
    """
    try:
        content = json.loads(attributes.content)
        table = pl.DataFrame(
            {"item": [int(item) for item in content], "ids": list(content.values())},
            schema={"item": pl.Int32, "ids": pl.List(pl.Int64)},
        )
    except json.JSONDecodeError as error:
        raise DataError(f"{attributes.path}:{error.lineno}: {error.msg}; fetch the file again") from None
    except (ValueError, TypeError, AttributeError, pl.exceptions.PolarsError):
        raise DataError(
            f"{attributes.path}: expected {{item id: [attribute id, ...]}}; fetch the file again"
        ) from None
    unknown = table.join(items, on="item", how="anti")
    if len(unknown):
        raise DataError(
            f"{attributes.path}: item {unknown['item'][0]} is not in the sequence file; fetch both again"
        )
    tags = pl.format("attribute {}", pl.element())
    table = table.select("item", tags=pl.col("ids").list.unique(maintain_order=True).list.eval(tags))
    return items.join(table, on="item", how="left", maintain_order="left")


def with_times(interactions: pl.DataFrame, table: raw.Raw) -> pl.DataFrame:
    """Interactions with `time` from `interactions.parquet`, where it has times.

    Raises:
        DataError: the table is damaged or not about these interactions.
    """
    keys = {"user": pl.Int32, "item": pl.Int32, "pos": pl.Int32}
    frame = _read_parquet(table, keys)
    if not frame.select(*keys).sort("user", "pos").equals(interactions.sort("user", "pos")):
        raise DataError(
            f"{table.path}: its {len(frame)} rows are not the {len(interactions)} interactions of the "
            "sequence file beside it; fetch both again, or remove it to go without times"
        )
    if "rel_time_s" not in frame.columns:
        return interactions
    times = frame.select("user", "pos", time=pl.col("rel_time_s").cast(pl.Int64))
    return interactions.join(times, on=["user", "pos"], how="left", maintain_order="left")


def _attributes(file: RawFile) -> raw.Raw | None:
    """The attribute file, or None with a warning: a data set is usable without tags."""
    if not file.url:
        return raw.find(file)
    try:
        return raw.fetch(file)
    except DataError as error:
        _log.warning("items have no tags: %s", error)
        return None


def _beside(path: Path, name: str) -> raw.Raw | None:
    """A table in the same folder, if there is one."""
    table = path.with_name(name)
    if not table.is_file():
        return None
    content = raw.read(table)
    return raw.Raw(table, content, raw.sha256(content))


def _read_parquet(table: raw.Raw, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """The table, `columns` cast to their types."""
    try:
        return pl.read_parquet(io.BytesIO(table.content)).cast(columns)  # type: ignore[arg-type]
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{table.path}: cannot be used ({first}); fetch it again or remove it") from None


def _one_line(text: pl.Expr) -> pl.Expr:
    """Text without line breaks and double spaces."""
    return text.str.replace_all(r"\s+", " ").str.strip_chars()
