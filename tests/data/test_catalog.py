"""What is not known of items is told, never made up."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recbench.data.catalog import Catalog


@pytest.fixture
def catalog() -> Catalog:
    items = pl.DataFrame(
        {
            "item": [1, 2, 3],
            "raw_id": ["a", "b", "c"],
            "title": ["Balm", None, ""],
            "brand": [None, "Dove", "Olay"],
            "tags": [["Lips", "", None], None, []],
            "latitude": [40.5, None, 41.0],
            "longitude": [-74.0, -73.5, -73.0],
        }
    )
    return Catalog(num_users=5, num_items=3, items=items, popularity=np.array([0, 4, 0, 1]))


def test_unknown_text_is_none(catalog: Catalog) -> None:
    assert catalog.titles() == ["Balm", None, None]
    assert catalog.brands() == [None, "Dove", "Olay"]


def test_unknown_tags_are_no_tags(catalog: Catalog) -> None:
    assert catalog.tags() == [["Lips"], [], []]


def test_an_unknown_place_is_no_number(catalog: Catalog) -> None:
    np.testing.assert_array_equal(catalog.coordinates(), [[40.5, -74.0], [np.nan, -73.5], [41.0, -73.0]])


def test_what_no_item_has_is_refused_with_what_there_is(catalog: Catalog) -> None:
    with pytest.raises(LookupError, match="no item 'text'; its item features are: title, brand, tags, lat"):
        catalog.texts()
    bare = Catalog(5, 3, catalog.items.select("item", "raw_id"), catalog.popularity)
    for ask in (bare.titles, bare.brands, bare.tags, bare.coordinates):
        with pytest.raises(LookupError, match="its item features are: none"):
            ask()
