"""Raw ids, numbers or text, as small integers: what counting, sorting and joining millions of rows needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DENSE = 4  # ids that span up to so many times their number are looked up in a table, others searched for


class Coded(NamedTuple):
    """A column of raw ids.

    Args:
        codes: (R,) uint32, the place of each row's id in `ids`.
        ids: the different ids, ascending; text by its bytes.
    """

    codes: NDArray[np.uint32]
    ids: pl.Series


def coded(column: pl.Series) -> Coded:
    """Number the ids of a column from 0 in ascending order.

    Args:
        column: integers, String or Categorical, without nulls; from Categorical come ids of type String.

    Raises:
        TypeError: the column holds something else.
    """
    if column.dtype.is_integer():
        return _coded_numbers(column)
    if column.dtype not in (pl.String, pl.Categorical):
        raise TypeError(f"column {column.name!r} has type {column.dtype}; ids are integers or text")
    # a dictionary makes text a number in one pass, in an arbitrary order, so `ids` are sorted after
    categories = column if column.dtype == pl.Categorical else column.cast(pl.Categorical)
    entries = categories.to_physical().to_numpy()
    last_row = np.full(int(entries.max(initial=0)) + 1, -1, dtype=np.int64)
    last_row[entries] = np.arange(len(entries))
    present = np.flatnonzero(last_row >= 0)
    ids = categories.gather(last_row[present]).cast(pl.String)
    ascending = ids.arg_sort().to_numpy()
    code_of = np.zeros(len(last_row), dtype=np.uint32)
    code_of[present[ascending]] = np.arange(len(ids), dtype=np.uint32)
    return Coded(code_of[entries], ids.gather(ascending))


def _coded_numbers(column: pl.Series) -> Coded:
    """As `coded`, for integers."""
    values = column.cast(pl.Int64).to_numpy()
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if high - low < _DENSE * len(values):
        is_present = np.zeros(high - low + 1, dtype=bool)
        is_present[values - low] = True
        code_of = np.cumsum(is_present, dtype=np.uint32) - np.uint32(1)
        ids, codes = np.flatnonzero(is_present) + low, code_of[values - low]
    else:
        ids = column.unique().sort().cast(pl.Int64).to_numpy()
        codes = np.searchsorted(ids, values).astype(np.uint32)
    return Coded(codes, pl.Series(column.name, ids, dtype=pl.Int64).cast(column.dtype))
