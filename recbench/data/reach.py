"""Which places are near: the rule of CDA4Rec (Sec. IV-A) that only places within 5 km are candidates.

B users, N items.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from recbench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.catalog import Catalog

EARTH_KM = 6371.0088  # mean radius
_BLOCK = 2**21  # cosines at a time, 16 MiB


def unit_vectors(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N + 1, 3) places on the unit sphere, row 0 for padding, which is nowhere (NaN).

    Args:
        coordinates: (N, 2) latitude and longitude in degrees.
    """
    latitude, longitude = np.radians(coordinates).T
    flat = np.cos(latitude)
    places = np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)
    return np.concatenate([np.full((1, 3), np.nan), places])


def located(catalog: Catalog, name: str) -> NDArray[np.float64]:
    """(N + 1, 3) where the items of a catalogue are.

    Raises:
        DataError: an item of the data set `name` has no coordinates.
    """
    is_known = "latitude" in catalog.features
    coordinates = catalog.coordinates() if is_known else np.full((catalog.num_items, 2), np.nan)
    num_missing = int(np.isnan(coordinates).any(axis=1).sum())
    if num_missing:
        raise DataError(
            f"{name}: reach_km needs the place of every item, and {num_missing:,} of "
            f"{catalog.num_items:,} have no coordinates; set reach_km to 0"
        )
    return unit_vectors(coordinates)


def within(places: NDArray[np.float64], centres: NDArray[np.int64], *, km: float) -> NDArray[np.bool_]:
    """(B, N + 1) whether each place lies at most `km` from each centre, along the surface.

    The cosine of the angle between two unit vectors says the same as the haversine formula, as one matrix
    product, and is good to a millimetre at this distance in 64 bits. Who is nowhere yet (0) may go anywhere.

    Args:
        places: (N + 1, 3) of `unit_vectors`.
        centres: (B,) items; 0 where unknown.
        km: distance.
    """
    least = math.cos(min(km / EARTH_KM, math.pi))
    near = np.empty((len(centres), len(places)), dtype=np.bool_)
    rows = max(1, _BLOCK // len(places))
    for start in range(0, len(centres), rows):
        block = slice(start, start + rows)
        np.greater_equal(places[centres[block]] @ places.T, least, out=near[block])
    near[centres == 0, 1:] = True
    return near
