"""Groups by hand, the promises for any catalogue, and the counts stated for the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.data import prepare
from recbench.data.catalog import Catalog
from recbench.data.tag_groups import TagGroups, tag_groups

if TYPE_CHECKING:
    from pathlib import Path

CATALOGS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1, max_size=30)


def catalog_of(tags: list[list[str]], brands: list[str | None] | None = None) -> Catalog:
    columns = {"item": range(1, len(tags) + 1), "tags": tags} | ({"brand": brands} if brands else {})
    items = pl.DataFrame(columns, schema_overrides={"tags": pl.List(pl.String), "brand": pl.String})
    return Catalog(
        num_users=1, num_items=len(tags), items=items, popularity=np.zeros(len(tags) + 1, np.int64)
    )


def groups_of(tags: list[list[str]], **options: int) -> dict[str, list[int]]:
    found = tag_groups(catalog_of(tags), **options)
    return {name: items.tolist() for name, items in found.members.items()}


# `all` is everywhere and `once` too rare; then a covers 4, b 3 new ones, c 2 of b's again
TEN = [
    ["all", "a"],
    ["all", "a"],
    ["all", "a"],
    ["all", "a", "b"],
    ["all", "b", "c"],
    ["all", "b", "c"],
    ["all", "b"],
    ["all", "once"],
    ["all"],
    [],
]


def test_broad_tags_come_first_and_what_they_leave_is_other() -> None:
    assert groups_of(TEN) == {"a": [1, 2, 3, 4], "b": [4, 5, 6, 7], "c": [5, 6], "other": [8, 9, 10]}
    assert tag_groups(catalog_of(TEN)).other_rate == 0.3


def test_the_number_of_groups_counts_other() -> None:
    assert groups_of(TEN, max_groups=3) == {"a": [1, 2, 3, 4], "b": [4, 5, 6, 7], "other": [8, 9, 10]}
    assert groups_of(TEN, max_groups=2) == {"a": [1, 2, 3, 4], "other": [5, 6, 7, 8, 9, 10]}


def test_uncovered_items_count_more_than_covered_ones() -> None:
    # after a, the three items of b count 1/4 each, the one item that c alone has counts whole
    tags = [["a", "b"], ["a", "b"], ["a", "b"], ["a", "c"], ["c"], ["d"], ["d"], ["e"]]
    assert list(groups_of(tags)) == ["a", "d", "c", "b", "other"]


def test_ties_are_decided_by_name() -> None:
    assert list(groups_of([["b"], ["b"], ["a"], ["a"], [], []])) == ["a", "b", "other"]


def test_a_brand_is_no_tag_of_its_own_items() -> None:
    tags = [["Dove", "Soap"], ["Dove", "Soap"], ["Dove", "Birds"], ["Birds"], ["Dove", "Birds"]] + [[]] * 5
    brands = ["Dove", "Dove", None, None, None] + [None] * 5
    found = tag_groups(catalog_of(tags, brands)).members
    assert found["Dove"].tolist() == [3, 5]
    assert set(tag_groups(catalog_of(tags[:2] + [[]] * 4, brands[:6])).members) == {"Soap", "other"}


def test_a_tag_called_other_is_not_taken_for_the_rest() -> None:
    assert groups_of([["other"], ["other"], ["a"], ["a"], []]) == {"a": [3, 4], "other": [1, 2, 5]}


def test_no_other_where_everything_is_covered() -> None:
    found = tag_groups(catalog_of([["a"], ["a"], ["b"], ["b"]]))
    assert (list(found.members), found.other_rate) == (["a", "b"], 0.0)


@settings(max_examples=100, deadline=None)
@given(CATALOGS, st.integers(2, 6))
def test_every_item_is_in_a_group_and_carries_its_tag(tags: list[list[str]], max_groups: int) -> None:
    found = groups_of(tags, max_groups=max_groups)
    assert len(found) <= max_groups
    assert {item for items in found.values() for item in items} == set(range(1, len(tags) + 1))
    for name, items in found.items():
        assert items == sorted(set(items))
        if name != "other":
            assert items == [item for item, own in enumerate(tags, start=1) if name in own]


@settings(max_examples=50, deadline=None)
@given(CATALOGS, st.randoms())
def test_the_order_of_items_decides_nothing(tags: list[list[str]], random: np.random.Generator) -> None:
    shuffled = list(tags)
    random.shuffle(shuffled)
    assert list(groups_of(tags)) == list(groups_of(shuffled))


def test_popularity_decides_nothing() -> None:
    plain = catalog_of(TEN)
    popular = Catalog(1, 10, plain.items, np.arange(11)[::-1])
    assert groups_equal(tag_groups(plain), tag_groups(popular))


def groups_equal(a: TagGroups, b: TagGroups) -> bool:
    return {k: v.tolist() for k, v in a.members.items()} == {k: v.tolist() for k, v in b.members.items()}


def test_without_tags_there_are_no_groups() -> None:
    bare = Catalog(1, 2, pl.DataFrame({"item": [1, 2], "raw_id": ["x", "y"]}), np.zeros(3, np.int64))
    with pytest.raises(LookupError, match="no item 'tags'"):
        tag_groups(bare)
    with pytest.raises(ValueError, match=r"max_groups must be at least 2, .* got 1"):
        tag_groups(catalog_of(TEN), max_groups=1)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "num_groups", "other"), [("beauty", 39, "0.0%"), ("sports", 40, "1.6%"), ("yelp", 40, "3.0%")]
)
def test_the_stated_counts(
    name: str, num_groups: int, other: str, raw_root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not cache.exists()
    monkeypatch.setenv("RECBENCH_RAW", str(raw_root))
    prepared = prepare.load(name)
    catalog = Catalog(prepared.card.num_users, prepared.card.num_items, prepared.items, np.zeros(1, np.int64))
    found = tag_groups(catalog)
    assert (len(found.members), f"{found.other_rate:.1%}") == (num_groups, other)
