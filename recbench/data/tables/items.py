"""What a table says of the items: names, makers, tags, descriptions, places."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from recbench.data.problems import BrokenFileError
from recbench.data.tables.columns import FEATURES, ROLES, UNUSED, find_columns
from recbench.data.tables.fields import (
    COORDINATES,
    Fault,
    id_faults,
    id_value,
    is_nothing,
    list_problems,
    number,
    number_faults,
    stripped,
)
from recbench.data.tables.file import TableFile, open_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from recbench.data.tables.columns import Columns

_log = logging.getLogger(__name__)
_LIST_SEPARATORS = "|;,"  # between tags; the first of them that the column has anywhere


def items_path(path: Path, columns: Columns) -> Path | None:
    """The second table, which describes the items; None when `path` does so itself."""
    return path.parent / columns.items if columns.items not in ("", UNUSED) else None


def table_items(path: Path, columns: Columns, wanted: pl.Series) -> pl.DataFrame:
    """What a table says of some items: `item`, `raw_id`, and the features that it has columns for.

    In the table of interactions an item has many rows: of its coordinates the median is taken, of other
    features the first value. A feature that was not declared and differs between the rows of an item is the
    interaction's and not the item's, such as the title of a review, and is left out.

    Args:
        path: the table of interactions.
        columns: which column holds what, and the second table, if the features are there.
        wanted: raw item ids, as `read_table` gave them.

    Raises:
        DataError: the second table is missing or malformed, or a coordinate is no number.
    """
    described = items_path(path, columns)
    table = open_table(described or path)
    if described is None:
        used = find_columns(columns, table.header, ROLES, table.top, needed=("item",))
    else:
        own = replace(columns, item=columns.item if columns.item in table.header else "")
        used = find_columns(own, table.header, ("item",), table.top, needed=("item",))
    roles = {"item": used["item"], **find_features(table, columns, used)}
    if described is None and len(roles) == 1:
        every = wanted.unique().sort().alias("item")
        return pl.DataFrame({"item": every, "raw_id": every.cast(pl.String)})
    rows = table.rows(roles)
    _refuse_bad_items(table, rows, roles, is_one_row_each=described is not None)
    ids = id_value("item", is_whole=wanted.dtype.is_integer()).cast(wanted.dtype)
    known = rows.with_columns(item=ids).filter(pl.col("item").is_in(wanted.implode()))
    features = {role: _feature(role) for role in roles if role != "item"}
    spread = {f"{role} differs": _differs(role) for role in features}
    found = table.collect(known.group_by("item", maintain_order=True).agg(**features, **spread).sort("item"))
    asked = pl.DataFrame({"item": wanted.unique().sort()})
    frame = asked.join(found, on="item", how="left", maintain_order="left")
    kept = [role for role in features if _is_of_items(role, frame, columns, table)]
    texts = [_tags(frame["tags"]) if role == "tags" else frame[role] for role in kept]
    return frame.select("item", raw_id=pl.col("item").cast(pl.String)).with_columns(*texts)


def find_features(table: TableFile, columns: Columns, used: Mapping[str, str]) -> dict[str, str]:
    """Which columns of a table describe the items, among those that are not `used` otherwise."""
    rest = [name for name in table.header if name not in used.values()]
    return find_columns(columns, rest, FEATURES, table.top, needed=())


def _refuse_bad_items(
    table: TableFile, rows: pl.LazyFrame, roles: Mapping[str, str], *, is_one_row_each: bool
) -> None:
    """Raise where a row describes no item or one that an earlier row did, or a coordinate is no number."""
    faults = []
    if is_one_row_each:
        faults = id_faults("item")
        again = ~stripped("item").is_first_distinct()
        faults.append(Fault("item", again, "item {} was described before; keep one row per item"))
    for role in sorted(COORDINATES.keys() & roles.keys()):
        there = ~is_nothing(role)
        faults += [fault._replace(broken=fault.broken & there) for fault in number_faults(role)]
    if faults and (found := list_problems(table, rows, faults)):
        raise BrokenFileError(table.path, found)


def _feature(role: str) -> pl.Expr:
    """The value that an item has, over its rows."""
    if role in COORDINATES:
        return number(role).median()
    column = pl.col(role)
    return (column if role == "tags" else _one_line(role)).drop_nulls().first()


def _one_line(role: str) -> pl.Expr:
    """Text without line breaks and double spaces; null where nothing is left."""
    text = pl.col(role).str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(text != "").then(text)


def _differs(role: str) -> pl.Expr:
    return pl.col(role).drop_nulls().n_unique() > 1


def _is_of_items(role: str, frame: pl.DataFrame, columns: Columns, table: TableFile) -> bool:
    """Whether the items have this feature: some value, and one per item unless the user insists."""
    if not frame[role].count():
        return False
    differing = int(frame[f"{role} differs"].sum())
    if not differing or role in COORDINATES:
        return True
    what = f"{table.path}: {role} differs between the rows of {differing:,} items"
    if getattr(columns, role):
        _log.warning("%s; the first is taken", what)
        return True
    _log.warning("%s, so it is not the items'; declare it as columns.%s to take the first", what, role)
    return False


def _tags(column: pl.Series) -> pl.Series:
    """Tags as lists: of a list, of a JSON list, or of one text with separators."""
    if column.dtype == pl.String:
        if column.str.starts_with("[").any():
            column = column.str.json_decode(pl.List(pl.String))
        else:
            present = (sep for sep in _LIST_SEPARATORS if column.str.contains(sep, literal=True).any())
            column = column.str.split(next(present, ","))
    tag = pl.element().str.strip_chars()
    return column.list.eval(tag.filter(tag != "")).list.unique(maintain_order=True).alias("tags")
