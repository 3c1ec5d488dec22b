"""Catalog: what is known of the items, apart from who bought them. Item text is read nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Catalog:
    """Sizes and item features; row `i - 1` of `items` describes item index `i`.

    What is not known is absent, never an empty string: a feature no item has is no column and raises, and one
    that some items lack is None for these.

    Args:
        num_users: users, indexed 0..num_users-1.
        num_items: items, indexed 1..num_items; 0 is padding.
        items: one row per item in index order: `item`, `raw_id` and, where known, `title`, `brand` (str),
            `tags` (list of str), `text` (str), `latitude`, `longitude` (float).
        popularity: (num_items + 1,) training interactions per item; 0 at padding.
    """

    num_users: int
    num_items: int
    items: pl.DataFrame
    popularity: NDArray[np.int64]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the item features this data set really has."""
        return tuple(name for name in self.items.columns if name not in ("item", "raw_id"))

    def titles(self) -> list[str | None]:
        """Item titles in index order, item 1 first; None where unknown.

        Raises:
            LookupError: the data set has no titles.
        """
        return self._texts("title")

    def brands(self) -> list[str | None]:
        """Who makes each item, in index order, item 1 first; None where unknown.

        Raises:
            LookupError: the data set has no brands.
        """
        return self._texts("brand")

    def texts(self) -> list[str | None]:
        """Item descriptions in index order, item 1 first; None where unknown.

        Raises:
            LookupError: the data set has no item text.
        """
        return self._texts("text")

    def tags(self) -> list[list[str]]:
        """Tags of every item in index order, item 1 first; an item may have none.

        Raises:
            LookupError: the data set has no tags.
        """
        self._require("tags")
        return [[tag for tag in tags or [] if tag] for tags in self.items["tags"].to_list()]

    def coordinates(self) -> NDArray[np.float64]:
        """(num_items, 2): latitude and longitude in degrees, NaN where unknown.

        Raises:
            LookupError: the data set has no coordinates.
        """
        self._require("latitude")
        return self.items.select("latitude", "longitude").cast(pl.Float64).to_numpy().astype(np.float64)

    def _texts(self, name: str) -> list[str | None]:
        self._require(name)
        return [text or None for text in self.items[name].to_list()]

    def _require(self, name: str) -> None:
        if name not in self.items.columns:
            have = ", ".join(self.features) or "none"
            raise LookupError(f"this data set has no item {name!r}; its item features are: {have}")
