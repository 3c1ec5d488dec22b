"""From what a file says of its items to the table that every source gives."""

from __future__ import annotations

import polars as pl


def described(wanted: pl.Series, table: pl.DataFrame) -> pl.DataFrame:
    """One row per wanted item, in order of the ids, with what `table` says of it.

    A feature that no wanted item has is left out, for an absent column is a stated fact.

    Args:
        wanted: raw item ids, integers or text; repeats count once.
        table: `item`, each at most once, and features; may have `raw_id`.

    Returns:
        `item`, `raw_id` (str) and the features of `table`.
    """
    ids = (wanted.cast(pl.String) if wanted.dtype == pl.Categorical else wanted).unique().sort()
    # text that is no number is no id that can be wanted
    table = table.with_columns(pl.col("item").cast(ids.dtype, strict=False)).drop_nulls("item")
    items = pl.DataFrame({"item": ids}).join(table, on="item", how="left", maintain_order="left")
    own = pl.col("item").cast(pl.String)
    raw_id = pl.coalesce("raw_id", own) if "raw_id" in table.columns else own
    features = [name for name in table.columns if name not in ("item", "raw_id")]
    known = [name for name in features if items[name].null_count() < len(items)]
    return items.select("item", raw_id.alias("raw_id"), *known)


def composed(*parts: pl.Expr) -> pl.Expr:
    """A text of the parts that are there, `. ` between them; null where none is."""
    filled = [pl.when(part != "").then(part) for part in parts]
    text = pl.concat_str(filled, separator=". ", ignore_nulls=True)
    return pl.when(text != "").then(text)


def split_list(column: str, separator: str, *, without: tuple[str, ...] = ()) -> pl.Expr:
    """The distinct entries of a separated list in their order; those in `without` and empty ones dropped."""
    entry = pl.element().str.strip_chars()
    entries = pl.col(column).str.split(separator).list.eval(entry.filter(~entry.is_in(["", *without])))
    return entries.list.unique(maintain_order=True)


def one_line(text: pl.Expr) -> pl.Expr:
    """Text without line breaks and double spaces; null where nothing is left."""
    text = text.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(text != "").then(text)
