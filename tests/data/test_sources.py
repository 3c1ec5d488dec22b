"""Item text, tags and times from the tables beside a sequence file; tables that do not fit are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from recbench.data import sequence_file
from recbench.data.sources import s3rec
from recbench.errors import DataError

from .conftest import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.public import DataSet


@pytest.fixture
def folder(tiny: DataSet, tmp_path: Path) -> Path:
    """The folder of the tiny data set's raw file."""
    return tmp_path / "raw" / tiny.files[0].folder


def _items(**columns: list[object]) -> pl.DataFrame:
    names = [["Acme", "Tools", "Saws"], ["", "Tools"], ["Unknown", "Toys", "Toys"], [], ["Tools"]]
    return pl.DataFrame({"item": range(1, 6), "raw_id": list("abcde"), "attribute_names": names, **columns})


def test_titles_tags_and_text(tiny: DataSet, folder: Path) -> None:
    titles = ["Saw", " A\nhammer ", "Top  toy", "Thing", "Nail 🔨"]
    _items(title=titles, keywords=["k"] * 5).write_parquet(folder / "items.parquet")
    items = s3rec.read(tiny).items
    assert items.columns == ["item", "raw_id", "title", "tags", "text"]
    assert items["title"].to_list() == ["Saw", "A hammer", "Top toy", "Thing", "Nail 🔨"]
    assert items["tags"].to_list() == [["Acme", "Tools", "Saws"], ["Tools"], ["Toys"], [], ["Tools"]]
    assert items["text"].to_list() == [
        "Saw. Acme, Tools, Saws",
        "A hammer. Tools",
        "Top toy. Toys",
        "Thing",
        "Nail 🔨. Tools",
    ]


def test_without_titles_keywords_enter_the_text_and_no_title_is_claimed(tiny: DataSet, folder: Path) -> None:
    _items(keywords=["saw", "hammer", "top", "", "nail"]).write_parquet(folder / "items.parquet")
    items = s3rec.read(tiny).items
    assert items.columns == ["item", "raw_id", "tags", "text"]
    assert items["text"].to_list() == [
        "saw. Acme, Tools, Saws",
        "hammer. Tools",
        "top. Toys",
        "",
        "nail. Tools",
    ]


def test_without_tables_tags_are_attribute_numbers(tiny: DataSet, folder: Path) -> None:
    (folder / "Tiny.json").write_text(json.dumps({"2": [7, 9, 7], "1": [3]}))
    items = s3rec.read(tiny).items
    assert items.columns == ["item", "raw_id", "tags"]
    assert items["tags"].to_list() == [["attribute 3"], ["attribute 7", "attribute 9"], None, None, None]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"1": [3],\n "2": [4', "Tiny.json:2: "),
        ('["1", "2"]', "expected {item id: [attribute id, ...]}"),
        ('{"one": [3]}', "expected {item id: [attribute id, ...]}"),
        ('{"1": ["red"]}', "expected {item id: [attribute id, ...]}"),
        ('{"6": [3]}', "item 6 is not in the sequence file"),
    ],
)
def test_broken_attributes_are_refused(content: str, says: str, tiny: DataSet, folder: Path) -> None:
    (folder / "Tiny.json").write_text(content)
    with pytest.raises(DataError) as caught:
        s3rec.read(tiny)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def _times() -> pl.DataFrame:
    return sequence_file.parse(TINY, "tiny").with_columns(rel_time_s=pl.col("pos").cast(pl.Int64) * 86_400)


def test_times_are_joined_to_their_interactions(tiny: DataSet, folder: Path) -> None:
    _times().sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / "interactions.parquet")
    source = s3rec.read(tiny)
    assert source.clock == "relative"
    assert source.interactions["time"].to_list() == [
        86_400 * pos for pos in source.interactions["pos"].to_list()
    ]


def test_interaction_table_without_times_changes_nothing(tiny: DataSet, folder: Path) -> None:
    _times().drop("rel_time_s").write_parquet(folder / "interactions.parquet")
    source = s3rec.read(tiny)
    assert source.clock == "none"
    assert source.interactions.columns == ["user", "item", "pos"]


def test_times_of_other_interactions_are_refused(tiny: DataSet, folder: Path) -> None:
    _times().with_columns(item=pl.col("item").reverse()).write_parquet(folder / "interactions.parquet")
    with pytest.raises(DataError, match=r"interactions.parquet: its 11 rows are not the 11 interactions"):
        s3rec.read(tiny)


def test_table_of_other_items_is_refused(tiny: DataSet, folder: Path) -> None:
    _items(title=["t"] * 5).head(4).write_parquet(folder / "items.parquet")
    with pytest.raises(DataError, match=r"items.parquet: describes 4 items, and not the 5 items"):
        s3rec.read(tiny)


def test_table_without_its_columns_is_refused_in_one_line(tiny: DataSet, folder: Path) -> None:
    _items(title=["t"] * 5).drop("raw_id").write_parquet(folder / "items.parquet")
    with pytest.raises(DataError, match=r"items.parquet: cannot be used .*raw_id") as caught:
        s3rec.read(tiny)
    assert "\n" not in str(caught.value)


def test_table_that_is_no_parquet_is_refused(tiny: DataSet, folder: Path) -> None:
    (folder / "items.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"items.parquet: cannot be used .*; fetch it again or remove it"):
        s3rec.read(tiny)
