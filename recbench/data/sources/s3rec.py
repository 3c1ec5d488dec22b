"""The sequence files of S3-Rec (Zhou et al., CIKM 2020), which P5, POD, CoSeRec and most later work use.

Item text, tags and times come from parquet tables beside the sequence file where the
user has them: `items.parquet` (item, raw_id, title, attribute_names, keywords) and `interactions.parquet`
(user, item, pos, rel_time_s). Without `items.parquet`, tags are the anonymous attribute ids of
`<Name>_item2attributes.json`.
"""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import polars as pl

from recbench.data import raw, sequence_file
from recbench.data.source import Source, bare_items
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from recbench.data.public import DataSet
    from recbench.data.raw import RawFile
    from recbench.data.source import Clock

_log = logging.getLogger(__name__)
_NAMELESS = ["", "Unknown"]  # what the tables call an empty brand


def read(data_set: DataSet) -> Source:
    """Read a public data set, downloading what is not here.

    Raises:
        DataError: a file is missing, damaged, or does not fit the others.
    """
    file = raw.fetch(data_set.files[0])
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
        attributes = _attributes(data_set.attributes) if data_set.attributes else None
        if attributes is not None:
            items = tagged_items(items, attributes)
            digests[attributes.path.name.removesuffix(".gz")] = attributes.sha256
    return Source(interactions, items, clock, digests)


def local_digests(data_set: DataSet) -> dict[str, str]:
    """sha256 of the files of `data_set` that are here now; empty when its sequence file is not."""
    file = raw.find(data_set.files[0])
    if file is None:
        return {}
    found = (file, _beside(file.path, "interactions.parquet"), _beside(file.path, "items.parquet"))
    return {each.path.name.removesuffix(".gz"): each.sha256 for each in found if each is not None}


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
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{table.path}: cannot be used ({first}); fetch it again or remove it") from None


def _one_line(text: pl.Expr) -> pl.Expr:
    """Text without line breaks and double spaces."""
    return text.str.replace_all(r"\s+", " ").str.strip_chars()
