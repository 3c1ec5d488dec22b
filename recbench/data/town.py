"""The places of the demo world: a small town with brands, tags, districts and a popularity skew. All made up.

Every place has a main tag, half of them a second one, a brand, and a street in one of eight districts whose
centres lie on a ring. Popularity within a tag falls with rank as 1 / rank^0.8. Every place has two followers
where people tend to go next, in the proportion `FOLLOWER_RATES`, the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAGS = {  # tag -> what such places are called
    "coffee": ("Espresso Bar", "Coffee House", "Roastery"),
    "tea": ("Tea Room", "Tea House", "Infusion Bar"),
    "pastries": ("Bakery", "Patisserie", "Cake Shop"),
    "noodles": ("Noodle Bar", "Ramen Kitchen", "Dumpling House"),
    "books": ("Bookshop", "Reading Room", "Paperback Cellar"),
    "records": ("Record Store", "Vinyl Shop", "Listening Bar"),
    "films": ("Film Theatre", "Picture House", "Cinema Club"),
    "jazz": ("Jazz Club", "Music Cellar", "Blue Hall"),
    "climbing": ("Climbing Hall", "Boulder Gym", "Rope Centre"),
    "yoga": ("Yoga Studio", "Stretching Loft", "Breathing Space"),
    "gardens": ("Garden", "Glasshouse", "Orchard"),
    "art": ("Gallery", "Art Space", "Print Room"),
}
BRANDS = (
    *(
        "Alder",
        "Aspen",
        "Beech",
        "Birch",
        "Cedar",
        "Cypress",
        "Elm",
        "Fir",
        "Hazel",
        "Holly",
        "Juniper",
        "Larch",
    ),
    *(
        "Linden",
        "Maple",
        "Oak",
        "Olive",
        "Pine",
        "Poplar",
        "Rowan",
        "Sorrel",
        "Spruce",
        "Walnut",
        "Willow",
        "Yew",
    ),
)
DISTRICTS = (
    "Harbour",
    "Old Town",
    "Mill Quarter",
    "Station",
    "Riverside",
    "University",
    "Hillside",
    "Market",
)
STREETS = ("Lane", "Street", "Square", "Alley", "Row")
CENTRE = (45.07, 7.69)  # latitude, longitude
KM_PER_DEGREE = 111.2
RING_KM = 3.0
FOLLOWER_RATES = (0.7, 0.3)


@dataclass(frozen=True, slots=True)
class Town:
    """N places; every array has one row per place, indexed from 0.

    Args:
        tag: (N,) main tag, an index into `TAGS`.
        second_tag: (N,) another tag, -1 for none.
        brand: (N,) index into `BRANDS`.
        district: (N,) index into `DISTRICTS`.
        weight: (N,) popularity among the places of the same tag.
        followers: (N, 2) where people go next.
        within: (D, N) probability of a place given its tag, for somebody who lives in a district.
        table: `item` (from 1), `raw_id`, `title`, `tags`, `text`, `latitude`, `longitude`.
    """

    tag: NDArray[np.int64]
    second_tag: NDArray[np.int64]
    brand: NDArray[np.int64]
    district: NDArray[np.int64]
    weight: NDArray[np.float64]
    followers: NDArray[np.int64]
    within: NDArray[np.float64]
    table: pl.DataFrame


def build(num_items: int, rng: np.random.Generator) -> Town:
    """A town of `num_items` places."""
    tag = np.argsort(rng.random(num_items)) % len(TAGS)
    other = (tag + pick(np.ones(len(TAGS) - 1), rng.random(num_items)) + 1) % len(TAGS)
    second_tag = np.where(rng.random(num_items) < 0.5, other, -1)
    brand = pick(np.ones(len(BRANDS)), rng.random(num_items))
    district = pick(np.ones(len(DISTRICTS)), rng.random(num_items))
    draws = pl.DataFrame({"tag": tag, "draw": rng.random(num_items)})
    weight = draws.select(pl.col("draw").rank("ordinal").over("tag")).to_series().to_numpy() ** -0.8
    followers = pick(weight, rng.random((num_items, 2)))
    followers = np.where(followers == np.arange(num_items)[:, None], (followers + 1) % num_items, followers)
    kilometres = _ring()
    position = kilometres[district] + 0.4 * rng.standard_normal((num_items, 2))
    nearness = np.exp(-np.linalg.norm(kilometres[:, None] - kilometres[None], axis=2) / 2.0)  # (D, D)
    raw = nearness[:, district] * weight  # (D, N)
    per_tag = np.stack([raw[:, tag == each].sum(axis=1) for each in range(len(TAGS))], axis=1)  # (D, T)
    table = _table(tag, second_tag, brand, district, position)
    return Town(tag, second_tag, brand, district, weight, followers, raw / per_tag[:, tag], table)


def pick(weights: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices drawn in proportion to `weights`, one for each number of `uniform` in [0, 1)."""
    cumulative = np.cumsum(weights)
    drawn: NDArray[np.int64] = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    return drawn


def _ring() -> NDArray[np.float64]:
    """(D, 2) centres of the districts, kilometres east and north of the town's."""
    angle = 2 * np.pi * np.arange(len(DISTRICTS)) / len(DISTRICTS)
    return RING_KM * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _table(
    tag: NDArray[np.int64],
    second_tag: NDArray[np.int64],
    brand: NDArray[np.int64],
    district: NDArray[np.int64],
    position: NDArray[np.float64],
) -> pl.DataFrame:
    """The places in words and degrees."""
    names = list(TAGS)
    rows = []
    for i, (main, second, by, where) in enumerate(
        zip(tag.tolist(), second_tag.tolist(), brand.tolist(), district.tolist(), strict=True)
    ):
        kind = TAGS[names[main]][i % 3]
        street = f"{DISTRICTS[where]} {STREETS[i % len(STREETS)]}"
        tags = [names[main], *([names[second]] if second >= 0 else [])]
        title = f"{BRANDS[by]} {kind}, {i + 1} {street}"
        rows.append(
            (
                i + 1,
                f"place-{i + 1:04d}",
                title,
                tags,
                f"{title}. {' and '.join(tags).capitalize()} by {BRANDS[by]}",
            )
        )
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "item": pl.Int32,
        "raw_id": pl.String,
        "title": pl.String,
        "tags": pl.List(pl.String),
        "text": pl.String,
    }
    latitude = CENTRE[0] + position[:, 1] / KM_PER_DEGREE
    longitude = CENTRE[1] + position[:, 0] / (KM_PER_DEGREE * np.cos(np.radians(CENTRE[0])))
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        latitude=latitude.round(6), longitude=longitude.round(6)
    )
