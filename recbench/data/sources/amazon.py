"""Amazon reviews in the layouts of their three releases, as McAuley's group hands them out.

| release | reviews | metadata |
|---|---|---|
| 2014, McAuley et al., SIGIR 2015 | `reviews_<Cat>_5.json.gz`, seconds | `meta_<Cat>.json.gz`, literals |
| 2018, Ni et al., EMNLP 2019 | `<Cat>_5.json.gz`, seconds | `meta_<Cat>.json.gz`, JSON lines |
| 2023, Hou et al., 2024 | `<Cat>.jsonl.gz`, milliseconds, or a CSV | `meta_<Cat>.jsonl.gz`, JSON lines |

An item of 2023 is a `parent_asin`: colours and sizes of a product are one item. Tags are the category names
of an item's deepest path (of equally deep ones the first) without the root, which is the department and the
same for all; the brand (2023: the store) is kept apart. Texts have their HTML entities and tags resolved.
What an item lacks is null, and a feature that no wanted item has is not in the table.
"""

from __future__ import annotations

import ast
import html
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from recbench.data.source import Log
from recbench.data.sources import delimited, reviews
from recbench.data.sources.described import composed, described
from recbench.data.sources.jsonlines import decoded, lines, loaded, shown
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OLD = reviews.Layout("Amazon reviews of 2014 or 2018", "reviewerID", "asin", "overall", "unixReviewTime")
_NEW = reviews.Layout("Amazon reviews of 2023", "user_id", "parent_asin", "rating", "timestamp", "ms")
_NO_BRAND = frozenset({"", "Unknown"})
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_SCRIPT = "getTime"  # titles of 2018 that are the page's script instead, as its authors warn


class _Meta(NamedTuple):
    """How a release describes its items."""

    release: str
    key: str
    brand: str
    paths: Callable[[dict[str, Any]], list[list[str]]]
    load: Callable[[bytes], dict[str, Any]]
    quote: str  # around a key at the start of a line


def read_2014(path: Path) -> Log:
    """Reviews of the 2014 release; also of 2018, whose keys are the same.

    Raises:
        DataError: the file is unreadable, or a line is malformed; the message has its number.
    """
    return _log(path, _OLD)


def read_2018(path: Path) -> Log:
    """Reviews of the 2018 release.

    Raises:
        DataError: the file is unreadable, or a line is malformed; the message has its number.
    """
    return _log(path, _OLD)


def read_2023(path: Path) -> Log:
    """Reviews of the 2023 release, JSON lines or the benchmark's CSV; the first line says which.

    Raises:
        DataError: the file is unreadable, or a line is malformed; the message has its number.
    """
    _, first = next(lines(path), (1, b""))
    return _log(path, _NEW) if first.lstrip().startswith(b"{") or not first else _benchmark(path)


def items_2014(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title, brand, tags and text of the 2014 release.

    Args:
        path: `meta_<Cat>.json.gz`; only lines of wanted items are parsed.
        wanted: raw item ids.

    Raises:
        DataError: the file is unreadable, of another release, of other items, or a line is malformed.
    """
    return _items(path, wanted, _META_2014)


def items_2018(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title, brand, tags and text of the 2018 release; of an item with several lines the first counts.

    Args:
        path: `meta_<Cat>.json.gz`; only lines of wanted items are parsed.
        wanted: raw item ids.

    Raises:
        DataError: the file is unreadable, of another release, of other items, or a line is malformed.
    """
    return _items(path, wanted, _META_2018)


def items_2023(path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Title, brand (the store), tags and text of the 2023 release.

    Args:
        path: `meta_<Cat>.jsonl.gz`; only lines of wanted items are parsed.
        wanted: raw item ids.

    Raises:
        DataError: the file is unreadable, of another release, of other items, or a line is malformed.
    """
    return _items(path, wanted, _META_2023)


def _log(path: Path, layout: reviews.Layout) -> Log:
    return Log(reviews.read_log(path, layout).lazy(), "unix")


def _benchmark(path: Path) -> Log:
    """The CSV files of the 2023 benchmark; `history`, where there, is what the other lines say."""
    columns: delimited.Columns = {
        "user_id": pl.String, "parent_asin": pl.String, "rating": pl.Float64, "timestamp": pl.Int64,
    }  # fmt: skip
    names = delimited.header(path, ",")
    if names not in ([*columns], [*columns, "history"]):
        raise DataError(
            f"{path}:1: {shown(','.join(names))} is the start of neither JSON lines nor the benchmark's "
            f"CSV, which has the header {','.join(columns)}; read it as what it is, or fetch it again"
        )
    if "history" in names:
        columns["history"] = pl.String
    layout = delimited.Layout(columns, separator=",", has_header=True, optional=frozenset({"history"}))
    frame = delimited.scan(path, layout).select(
        "row", "rating", user="user_id", item="parent_asin", time=pl.col("timestamp")
    )
    wrong = (
        frame.filter(~reviews.is_plausible(pl.col("time") // 1000)).select("row", "time").head(1).collect()
    )
    for row, value in wrong.iter_rows():
        raise DataError(f"{path}:{row + 2}: {reviews.time_fault(value, _NEW)}")
    return Log(frame.with_columns(pl.col("time") // 1000), "unix")


def _items(path: Path, wanted: pl.Series, meta: _Meta) -> pl.DataFrame:
    """The wanted items of a metadata file."""
    ids = set(wanted.cast(pl.String).unique())
    named = re.compile("{0}{1}{0}: ?{0}([^{0}]*){0}".format(meta.quote, meta.key).encode())  # noqa: UP032
    rows: dict[str, dict[str, Any]] = {}
    for number, line in lines(path):
        # an id in the middle of a text is one candidate more, so no wanted item is missed
        candidates = {found.decode(errors="replace") for found in named.findall(line)}
        if candidates and candidates.isdisjoint(ids):
            continue
        try:
            content = meta.load(line)
            item = content.get(meta.key)
            if not isinstance(item, str):
                raise ValueError(_keyless(content, meta))
            if item in ids and item not in rows:
                rows[item] = _row(item, content, meta)
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from None
    if not rows:
        hint = "take the metadata of the same category and release"
        raise DataError(f"{path}: describes none of the {len(ids)} items; {hint}")
    schema: dict[str, Any] = dict.fromkeys(("item", "title", "brand", "description"), pl.String)
    table = pl.DataFrame([*rows.values()], schema=schema | {"tags": pl.List(pl.String)})
    text = composed(pl.col("title"), pl.col("brand"), pl.col("tags").list.join(", "), pl.col("description"))
    table = table.with_columns(text=text).drop("description")
    return described(wanted.cast(pl.String), table)


def _row(item: str, content: dict[str, Any], meta: _Meta) -> dict[str, Any]:
    """What a line of metadata says of an item."""
    title = _text(content.get("title"), "title")
    brand = _text(content.get(meta.brand), meta.brand)
    path = max(meta.paths(content), key=len, default=[])
    tags = dict.fromkeys(tag for part in path[1:] if (tag := _text(part, "categories")))
    return {
        "item": item,
        "title": None if _SCRIPT in title else title or None,
        "brand": None if brand in _NO_BRAND else brand,
        "tags": list(tags) or None,
        "description": _text(content.get("description"), "description") or None,
    }


def _text(value: object, key: str) -> str:
    """A text on one line, entities and tags resolved; the parts of a list one after the other."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, (_text(part, key) for part in value)))
    if not isinstance(value, str):
        raise ValueError(f"{key} {shown(value)} is no text; correct it or remove the key")
    plain = html.unescape(value)
    while plain != value:  # `&amp;quot;` was escaped twice
        plain, value = html.unescape(plain), plain
    return " ".join(_TAG.sub(" ", plain).split())


def _keyless(content: dict[str, Any], meta: _Meta) -> str:
    """What is wrong with a line without the item's id."""
    other = {"parent_asin": "2023", "asin": "2014 or 2018"}
    release = next((release for key, release in other.items() if key != meta.key and key in content), None)
    hint = f"this is metadata of {release}; read it as that" if release else "fetch the file again"
    return f"key {meta.key!r} is missing, which metadata of {meta.release} have on every line; {hint}"


def _literal(line: bytes) -> dict[str, Any]:
    """The dict in a line of Python, read as data and never run.

    Raises:
        ValueError: it is not one; the message says why.
    """
    if line.lstrip().startswith(b'{"'):
        raise ValueError("this is JSON, as metadata of 2018 and 2023 are; read it as that")
    text = decoded(line)
    try:
        content = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        reason = getattr(error, "msg", None) or "more than strings, numbers, lists and dicts"
        raise ValueError(
            f"no Python literal ({reason}: {shown(text)}); fetch the file again, or remove the line"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{shown(content)} is no dict; there should be one a line; fetch it again")
    return content


def _json(line: bytes) -> dict[str, Any]:
    if line.lstrip().startswith(b"{'"):
        raise ValueError("this is a Python literal, as metadata of 2014 are; read it as that")
    return loaded(line)


def _several(content: dict[str, Any]) -> list[list[str]]:
    """The category paths of 2014."""
    paths = content.get("categories") or []
    if isinstance(paths, list) and all(isinstance(path, list) for path in paths):
        return paths
    raise ValueError(f"categories {shown(paths)} is no list of paths; correct it or remove the key")


def _one(key: str) -> Callable[[dict[str, Any]], list[list[str]]]:
    """The only category path of 2018 and 2023."""

    def paths(content: dict[str, Any]) -> list[list[str]]:
        path = content.get(key) or []
        if isinstance(path, list):
            return [path]
        raise ValueError(f"{key} {shown(path)} is no list of names; correct it or remove the key")

    return paths


_META_2014 = _Meta("2014", "asin", "brand", _several, _literal, "'")
_META_2018 = _Meta("2018", "asin", "brand", _one("category"), _json, '"')
_META_2023 = _Meta("2023", "parent_asin", "store", _one("categories"), _json, '"')
