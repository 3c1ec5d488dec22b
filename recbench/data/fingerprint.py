"""What makes two data sets the same: sha256 over values, whatever file or library they come from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fingerprint(frame: pl.DataFrame) -> str:
    """sha256 over column names, row order and values; integers of any width are equal, null is not empty."""
    digest = hashlib.sha256()
    for series in frame:
        digest.update(f"{series.name}:{len(series)}:".encode())
        _add(digest, series)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, series: pl.Series) -> None:
    """Feed the values of `series`: where the nulls are, how long each value is, the values joined."""
    digest.update(np.packbits(series.is_null().to_numpy()).tobytes())
    if isinstance(series.dtype, pl.List):
        lengths = series.list.len()
        digest.update(_int_bytes(lengths))
        _add(digest, series.filter(lengths > 0).explode())
    elif series.dtype == pl.String:
        digest.update(_int_bytes(series.str.len_bytes()))
        digest.update("".join(series.drop_nulls().to_list()).encode())
    elif series.dtype.is_integer():
        digest.update(_int_bytes(series))
    elif series.dtype.is_float():
        digest.update(series.fill_null(0.0).cast(pl.Float64).to_numpy().astype("<f8").tobytes())
    else:
        raise TypeError(
            f"column {series.name!r} has type {series.dtype}; data sets hold ints, floats, text and lists"
        )


def _int_bytes(series: pl.Series) -> bytes:
    return series.fill_null(0).cast(pl.Int64).to_numpy().astype("<i8").tobytes()


def as_numbers(ids: pl.Series) -> NDArray[np.int64]:
    """What stands for raw ids in `shuffled_order`: integers for themselves, text for 64 bits of its BLAKE2b.

    Two of a million texts share their bits with a probability of 3e-8, and then keep the order they came in.
    """
    if ids.dtype.is_integer():
        return ids.cast(pl.Int64).to_numpy()
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids.to_list())
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def shuffled_order(ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The positions that put distinct `ids` into an order that depends on `seed` and the ids alone.

    A hash of each id, not a random generator, decides: the order survives changes of libraries, and does not
    depend on how the ids were ordered. SplitMix64 (Steele et al., OOPSLA 2014) is a bijection, so distinct
    ids never tie.
    """
    start = _splitmix64(np.array([seed], dtype=np.uint64))
    return np.argsort(_splitmix64(ids.astype(np.uint64) ^ start), kind="stable")


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit integers; arithmetic wraps around."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
