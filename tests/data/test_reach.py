"""Near is what the haversine formula says, and the Foursquare facts hold that CDA4Rec's rule rests on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.data.reach import EARTH_KM, unit_vectors, within

if TYPE_CHECKING:
    from pathlib import Path

PLACES = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
NEW_YORK, NEWARK, SYDNEY = (40.7128, -74.0060), (40.7357, -74.1724), (-33.8688, 151.2093)


def haversine_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    (lat_a, lon_a), (lat_b, lon_b) = ([math.radians(degrees) for degrees in place] for place in (a, b))
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(min(1.0, half)))


@given(st.lists(PLACES, min_size=1, max_size=6), st.floats(0.01, 25_000))
def test_agrees_with_the_haversine_formula(coordinates: list[tuple[float, float]], km: float) -> None:
    centres = np.arange(1, len(coordinates) + 1)
    near = within(unit_vectors(np.array(coordinates)), centres, km=km)
    for i, a in enumerate(coordinates):
        for j, b in enumerate(coordinates, start=1):
            distance = haversine_km(a, b)
            if abs(distance - km) > 1e-3:  # a metre
                assert near[i, j] == (distance < km)


def test_distances_between_cities() -> None:
    vectors = unit_vectors(np.array([NEW_YORK, NEWARK, SYDNEY]))  # 14.3 km and 15,990 km apart
    assert within(vectors, np.array([1]), km=14.2).tolist() == [[False, True, False, False]]
    assert within(vectors, np.array([1]), km=14.4).tolist() == [[False, True, True, False]]
    assert within(vectors, np.array([2, 3]), km=16_100).tolist() == [[False, True, True, True]] * 2


def test_a_kilometre_of_one_street_is_resolved_to_the_metre() -> None:
    degrees = np.degrees(1 / EARTH_KM)  # one km of latitude
    vectors = unit_vectors(np.array([[40.7, -74.0], [40.7 + degrees, -74.0]]))
    assert not within(vectors, np.array([1]), km=0.999)[0, 2]
    assert within(vectors, np.array([1]), km=1.001)[0, 2]


def test_who_is_nowhere_yet_may_go_anywhere() -> None:
    vectors = unit_vectors(np.array([NEW_YORK, SYDNEY]))
    assert within(vectors, np.array([0, 1]), km=1).tolist() == [[False, True, True], [False, True, False]]


def test_many_centres_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng.uniform(-60, 60, (50, 2)))
    centres = rng.integers(0, 51, 40)
    whole = within(vectors, centres, km=3000)
    monkeypatch.setattr("recbench.data.reach._BLOCK", 51 * 7)
    assert np.array_equal(within(vectors, centres, km=3000), whole)
    assert 0 < whole.mean() < 1


@pytest.mark.realdata
def test_check_ins_of_foursquare_are_as_far_apart_as_measured(raw_root: Path) -> None:
    """Within 5 km are 72.3 % of consecutive check-ins, and the last two of 68.2 % of the users."""
    folder = raw_root / "foursquare_nyc"
    places = pl.read_parquet(folder / "pois.parquet").sort("poi")
    assert places["poi"].to_list() == list(range(1, len(places) + 1))
    vectors = unit_vectors(places.select("lat", "lon").to_numpy())
    pairs = pl.read_parquet(folder / "checkins.parquet").with_columns(
        before=pl.col("poi").shift().over("user"), left=pl.int_range(pl.len()).reverse().over("user")
    )
    pairs = pairs.drop_nulls("before")
    to, of = pairs["poi"].to_numpy(), pairs["before"].to_numpy()
    blocks = np.array_split(np.arange(len(pairs)), 64)
    is_near = np.concatenate([within(vectors, of[b], km=5)[np.arange(len(b)), to[b]] for b in blocks])
    assert round(100 * is_near.mean(), 1) == 72.3
    assert round(100 * is_near[pairs["left"].to_numpy() == 0].mean(), 1) == 68.2
