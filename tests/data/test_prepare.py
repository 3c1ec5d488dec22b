"""Preparing is a pure function of the raw file and a seed, and the cache is never trusted."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.data import prepare, public, raw, sequence_file, store
from recbench.data.fingerprint import fingerprint, shuffled_order
from recbench.data.ids import coded
from recbench.data.prepared import Prepared, assemble, item_indices
from recbench.data.public import DataSet, Golden
from recbench.data.selection import Selection
from recbench.data.source import Source, bare_items
from recbench.data.sources import s3rec
from recbench.data.tables.columns import Columns
from recbench.errors import DataError, UsageError

from .conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

histories = st.dictionaries(
    st.integers(1, 2**31 - 1),
    st.lists(st.integers(1, 2**31 - 1), min_size=3, max_size=8),
    min_size=1,
    max_size=8,
)


def _source(users: dict[int, list[int]]) -> Source:
    rows = [(user, item, pos) for user, items in users.items() for pos, item in enumerate(items)]
    schema = {"user": pl.Int32, "item": pl.Int32, "pos": pl.Int32}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return Source(frame, bare_items(frame), "none", {})


@settings(deadline=None, max_examples=50)
@given(histories, st.integers(0, 2**63))
def test_indices_are_a_bijection_that_keeps_every_history(users: dict[int, list[int]], seed: int) -> None:
    prepared = assemble("any", "any", _source(users), index_seed=seed)
    assert prepared.items["item"].to_list() == list(range(1, len(prepared.items) + 1))
    raw_of = dict(prepared.items.select("item", "raw_id").iter_rows())
    assert sorted(raw_of.values()) == sorted({str(item) for items in users.values() for item in items})
    back = prepared.interactions.group_by("user", maintain_order=True).agg("item")
    assert back["user"].to_list() == list(range(len(users)))
    restored = [[int(raw_of[item]) for item in items] for items in back["item"].to_list()]
    assert restored == [users[user] for user in sorted(users)]


@settings(deadline=None, max_examples=50)
@given(histories, st.randoms(use_true_random=False))
def test_order_of_lines_in_the_raw_file_does_not_matter(users: dict[int, list[int]], random) -> None:  # type: ignore[no-untyped-def]
    lines = list(users.items())
    random.shuffle(lines)
    first, second = (assemble("any", "any", _source(each), index_seed=3) for each in (users, dict(lines)))
    assert first.card == second.card


def test_indices_depend_on_the_seed_and_carry_no_order() -> None:
    ids = np.arange(1, 10_001)
    orders = [shuffled_order(ids, seed) for seed in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(10_000))
        assert (
            abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.03
        )  # 3 standard deviations of no correlation
    assert (orders[0] == orders[1]).sum() < 10


def test_splitmix64_gives_the_published_first_value() -> None:
    # first output of the reference implementation (Vigna, splitmix64.c) seeded with 1234567
    from recbench.data.fingerprint import _splitmix64

    assert int(_splitmix64(np.array([1234567], dtype=np.uint64))[0]) == 6457827717110365317


def test_users_are_numbered_in_order_of_their_ids() -> None:
    users = coded(pl.Series([30, 10, 20, 10]))
    assert users.ids.to_list() == [10, 20, 30]
    assert users.codes.tolist() == [2, 0, 1, 0]


def test_a_new_seed_changes_items_and_nothing_else(tiny: DataSet) -> None:
    first, second = (prepare.load(tiny.name, index_seed=seed) for seed in (0, 1))
    assert first.card.fingerprint != second.card.fingerprint
    names = [dict(each.items.select("item", "raw_id").iter_rows()) for each in (first, second)]
    histories = [
        [(user, name[item]) for user, item in each.interactions.select("user", "item").iter_rows()]
        for each, name in zip((first, second), names, strict=True)
    ]
    assert histories[0] == histories[1]


def test_card_of_a_file_counted_by_hand(tiny: DataSet) -> None:
    card = prepare.load(tiny.name).card
    assert (card.num_users, card.num_items, card.num_interactions) == (3, 5, 11)
    assert (card.min_length, card.median_length, card.max_length) == (3, 4, 4)
    assert card.mean_length == pytest.approx(11 / 3)
    assert card.sparsity == pytest.approx(1 - 11 / 15)
    assert card.repeat_rate == pytest.approx(1 / 11)
    assert card.clock == "none"
    assert card.features == ()
    assert card.sources == {"Tiny.txt": raw.sha256(TINY)}


def test_second_load_reads_the_cache(tiny: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare.load(tiny.name)
    monkeypatch.setattr(s3rec, "read", lambda _: pytest.fail("prepared again"))
    second = prepare.load(tiny.name)
    assert second.card == first.card
    assert second.interactions.equals(first.interactions)
    assert second.items.equals(first.items)


def test_cache_is_enough_without_the_raw_file(tiny: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare.load(tiny.name)
    monkeypatch.delenv("RECBENCH_RAW")
    assert prepare.load(tiny.name).card == first.card


def _folder(cache: Path) -> Path:
    return cache / "prepared" / "tiny-seed0"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _edit(field: str, value: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    return edit


def _swap_two_items(path: Path) -> None:
    frame = pl.read_parquet(path)
    frame.with_columns(item=pl.col("item").reverse()).write_parquet(path)


def _drop_a_column(path: Path) -> None:
    pl.read_parquet(path).drop("item").write_parquet(path)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "interactions cut short": ("interactions.parquet", _cut, "damaged"),
    "interactions replaced by text": (
        "interactions.parquet",
        lambda path: path.write_text("hello"),
        "damaged",
    ),
    "interactions changed": ("interactions.parquet", _swap_two_items, "fingerprint is"),
    "interactions without items": ("interactions.parquet", _drop_a_column, "not what was written"),
    "items emptied": ("items.parquet", lambda path: path.write_bytes(b""), "damaged"),
    "items gone": ("items.parquet", lambda path: path.unlink(), "damaged"),
    "items changed": ("items.parquet", _swap_two_items, "catalog_fingerprint is"),
    "card cut short": ("card.json", _cut, "Invalid JSON"),
    "card is a list": ("card.json", lambda path: path.write_text("[]"), "should be"),
    "card with another size": ("card.json", _edit("num_users", 4), "num_users is 3, but the card says 4"),
    "card of another format": ("card.json", _edit("format", 99), "format 99"),
    "card with an unknown key": ("card.json", _edit("colour", "red"), "colour"),
    "card of another raw file": (
        "card.json",
        _edit("sources", {"Tiny.txt": "0" * 64}),
        "Tiny.txt is new or has changed",
    ),
}


@pytest.mark.parametrize(("file", "damage", "says"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_cache_is_reported_and_rebuilt(
    file: str,
    damage: Callable[[Path], object],
    says: str,
    tiny: DataSet,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = prepare.load(tiny.name)
    damage(_folder(cache) / file)
    with caplog.at_level(logging.WARNING):
        again = prepare.load(tiny.name)
    assert again.card == first.card
    assert again.interactions.equals(first.interactions)
    (message,) = caplog.messages
    assert says in message
    assert "\n" not in message
    caplog.clear()
    assert prepare.load(tiny.name).card == first.card
    assert caplog.messages == []  # the rebuilt cache is good


def test_half_written_cache_is_rebuilt(tiny: DataSet, cache: Path) -> None:
    first = prepare.load(tiny.name)
    (_folder(cache) / "card.json").unlink()  # it is written last
    _cut(_folder(cache) / "items.parquet")
    assert prepare.load(tiny.name).card == first.card


def test_damaged_cache_without_raw_files_is_one_line(
    tiny: DataSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.load(tiny.name)
    _cut(_folder(cache) / "items.parquet")
    monkeypatch.delenv("RECBENCH_RAW")
    with pytest.raises(DataError, match=r"Tiny\.txt is not in .* and put it into") as caught:
        prepare.load(tiny.name)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_sizes_other_than_published_are_refused(
    tiny: DataSet, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    other = replace(tiny, golden=Golden(3, 6, 11))
    monkeypatch.setitem(public.DATA_SETS, "tiny", other)
    with pytest.raises(
        DataError, match="tiny: num_items is 5, but the published data has 6; replace the raw file"
    ):
        prepare.load("tiny")
    assert not _folder(cache).exists()


def test_unwritable_cache_only_warns(tiny: DataSet, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    assert prepare.load(tiny.name).card.num_users == 3
    assert "prepared data is not kept" in caplog.text


def test_tables_that_appear_beside_the_raw_file_are_taken_in(tiny: DataSet, tmp_path: Path) -> None:
    bare = prepare.load(tiny.name)
    pl.DataFrame(
        {"item": range(1, 6), "raw_id": list("abcde"), "title": list("ABCDE"), "attribute_names": [["x"]] * 5}
    ).write_parquet(tmp_path / "raw" / "tiny" / "items.parquet")
    described = prepare.load(tiny.name)
    assert described.items["title"].sort().to_list() == list("ABCDE")
    assert described.card.fingerprint == bare.card.fingerprint  # item text does not make it another data set
    assert described.card.catalog_fingerprint != bare.card.catalog_fingerprint


def _text_source(users: dict[str, list[str]]) -> Source:
    rows = [(user, item, pos) for user, items in users.items() for pos, item in enumerate(items)]
    schema = {"user": pl.String, "item": pl.String, "pos": pl.Int32}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return Source(frame, bare_items(frame), "none", {})


texts = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.lists(st.text(max_size=3), min_size=1, max_size=6),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=50)
@given(texts, st.booleans())
def test_text_ids_are_numbered_as_numbers_are(users: dict[str, list[str]], is_categorical: bool) -> None:
    source = _text_source(users)
    if is_categorical:
        source = source._replace(interactions=source.interactions.cast({pl.String: pl.Categorical}))
    prepared = assemble("any", "any", source, index_seed=3)
    raw_of = dict(prepared.items.select("item", "raw_id").iter_rows())
    assert sorted(raw_of) == list(range(1, len(raw_of) + 1))
    back = prepared.interactions.group_by("user", maintain_order=True).agg("item")
    restored = [[raw_of[item] for item in items] for items in back["item"].to_list()]
    assert restored == [users[user] for user in sorted(users, key=str.encode)]


def test_text_ids_carry_no_order_into_the_indices() -> None:
    ordered = pl.Series([f"{number:05}" for number in range(10_000)])
    raw_item, item = item_indices(ordered, 0).get_columns()
    correlation = np.corrcoef(raw_item.cast(pl.Int64).to_numpy(), item.to_numpy())[0, 1]
    assert abs(correlation) < 0.03  # 3 standard deviations of no correlation


def test_an_item_that_nothing_describes_is_refused() -> None:
    source = _text_source({"a": ["x", "y"]})
    with pytest.raises(DataError, match="item y of the interactions is not among the items"):
        assemble("any", "any", source._replace(items=source.items.filter(item="x")), index_seed=0)


def test_queries_find_their_users() -> None:
    queries = pl.DataFrame({"user": ["b", "a"], "query": ["to b", "to a"]})
    source = _text_source({"b": ["x"], "a": ["y"]})._replace(queries=queries)
    prepared = assemble("any", "any", source, index_seed=0)
    assert prepared.queries is not None
    assert prepared.queries.rows() == [(0, "to a"), (1, "to b")]


def test_card_says_what_is_partial_and_what_was_dropped() -> None:
    source = _text_source({"a": ["x"]})._replace(notes=("3 rows dropped",))
    card = assemble("any", "any", source, index_seed=0, partial="half of it").card
    assert card.partial == "half of it"
    assert card.notes == ("3 rows dropped",)


@pytest.mark.parametrize("part_rows", [1, 4, 5, 100])
def test_parts_hold_whole_users_and_read_as_one(part_rows: int, tmp_path: Path) -> None:
    users = {1: [1, 2, 3], 2: [4, 5, 6, 1], 3: [2, 3], 4: [6]}
    prepared = assemble("any", "any", _source(users), index_seed=0)
    store.write(assemble("other", "any", _source({1: [1, 2]}), index_seed=0), tmp_path, part_rows=1)
    store.write(prepared, tmp_path, part_rows=part_rows)
    parts = [pl.read_parquet(path) for path in sorted(tmp_path.glob("interactions*.parquet"))]
    assert len(parts) == {1: 4, 4: 2, 5: 2, 100: 1}[part_rows]
    assert sum(part["user"].n_unique() for part in parts) == len(users)
    back = store.read(tmp_path)
    assert back.card == prepared.card
    assert back.interactions.equals(prepared.interactions)
    assert store.scan(tmp_path).collect().equals(prepared.interactions)


def test_a_lost_part_is_noticed(tmp_path: Path) -> None:
    store.write(assemble("any", "any", _source({1: [1, 2], 2: [2, 1]}), index_seed=0), tmp_path, part_rows=2)
    (tmp_path / "interactions-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="fingerprint is"):
        store.read(tmp_path)


# day 17,000 of 1970 is 2016-07-18
TABLE = "who,what,when\n" + "".join(f"u{n % 3},i{n % 4},{86_400 * (17_000 + n)}\n" for n in range(15))


def test_own_table_is_read_by_its_declared_columns_and_selected(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(TABLE)
    columns = Columns(user="who", item="what", time="when")
    card = prepare.load(str(path), columns=columns).card
    assert (card.name, card.num_users, card.num_items, card.num_interactions) == ("shop", 3, 4, 15)
    assert card.clock == "unix"
    later = prepare.load(str(path), columns=columns, selection=Selection(since="2016-07-21")).card
    assert later.num_interactions == 12
    assert "3 of 15 (20.00 %) dropped: before 2016-07-21" in later.notes
    assert not cache.exists()  # the file is small


def test_large_own_file_is_cached_by_content_and_selection(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(TABLE)
    columns = Columns(user="who", item="what", time="when")
    monkeypatch.setattr(prepare, "LARGE", 1)
    first = prepare.load(str(path), columns=columns)
    assert len(list((cache / "prepared").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "prepare", lambda *_, **__: pytest.fail("prepared again"))
        assert prepare.load(str(path), columns=columns).interactions.equals(first.interactions)
    assert (
        prepare.load(str(path), columns=columns, selection=Selection(merge_repeats=True)).card.repeat_rate
        == 0
    )
    path.write_text(TABLE + "u0,i9,1500000000\n")
    assert prepare.load(str(path), columns=columns).card.num_interactions == 16
    assert len(list((cache / "prepared").iterdir())) == 3


def test_a_sequence_file_can_be_selected_from(tmp_path: Path) -> None:
    path = tmp_path / "shop.txt"
    path.write_bytes(TINY)
    card = prepare.load(str(path), selection=Selection(min_item=3)).card
    # item 2 is there four times, every other at most twice
    assert (card.num_items, card.num_interactions) == (1, 4)


@pytest.mark.parametrize("name", ["beauty", "demo"])
@pytest.mark.parametrize(
    "options",
    [{"columns": Columns(user="u")}, {"selection": Selection(min_user=3)}],
    ids=["columns", "selection"],
)
def test_a_public_data_set_is_what_it_is(name: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(
        UsageError, match=f"data.{option} is for your own file; with it {name} would be another"
    ):
        prepare.load(name, **options)


def test_own_file_is_prepared_and_not_cached(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "my shop.txt"
    path.write_bytes(TINY)
    prepared = prepare.load(str(path))
    assert prepared.name == "my-shop"
    assert prepared.card.num_interactions == 11
    assert not cache.exists()


@pytest.mark.parametrize(
    ("file", "name"),
    [("beauty.txt.gz", "beauty-file"), ("a.b.txt", "a-b"), ("---.txt", "file"), ("toys.csv.gz", "toys-file")],
)
def test_name_of_an_own_file_never_hides_a_public_one(file: str, name: str, tmp_path: Path) -> None:
    assert prepare.own_name(tmp_path / file) == name


def test_types_of_the_tables(tiny: DataSet) -> None:
    prepared = prepare.load(tiny.name)
    assert isinstance(prepared, Prepared)
    assert prepared.interactions.schema == {"user": pl.Int32, "item": pl.Int32}
    assert prepared.items.schema == {"item": pl.Int32, "raw_id": pl.String}
    assert prepared.queries is None


def test_fingerprint_sees_values_order_nulls_and_list_borders() -> None:
    frames = [
        pl.DataFrame({"a": values}, schema={"a": pl.List(pl.String)})
        for values in (
            [["x", "y"], []],
            [["x"], ["y"]],
            [["xy"], []],
            [["x", "y"], None],
            [[], ["x", "y"]],
            [["x", None], []],
        )
    ]
    assert len({fingerprint(frame) for frame in frames}) == len(frames)


def test_fingerprint_ignores_the_width_of_integers() -> None:
    narrow, wide = (pl.DataFrame({"a": [1, None, 3]}, schema={"a": kind}) for kind in (pl.Int16, pl.Int64))
    assert fingerprint(narrow) == fingerprint(wide)


def test_items_keep_their_index_when_the_source_lists_them_in_another_order() -> None:
    forward, backward = item_indices(pl.Series([5, 7, 9]), 1), item_indices(pl.Series([9, 5, 7]), 1)
    assert forward.equals(backward)


def test_sequence_file_is_parsed_in_order() -> None:
    frame = sequence_file.parse(b"7 3 1 2\n4 9 9 8 1\n", "any")
    assert frame["user"].to_list() == [7, 7, 7, 4, 4, 4, 4]
    assert frame["item"].to_list() == [3, 1, 2, 9, 9, 8, 1]
    assert frame["pos"].to_list() == [0, 1, 2, 0, 1, 2, 3]


def test_the_data_layer_imports_no_torch() -> None:
    code = "import recbench.data.audit, recbench.data.synthetic, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
