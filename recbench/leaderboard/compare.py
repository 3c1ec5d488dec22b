"""Rows of one table against each other: intervals, ties with the best, and the counting models as a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from recbench.errors import DataError
from recbench.leaderboard.recompute import checked_ranks
from recbench.leaderboard.rows import RANKED, SHOWN
from recbench.metrics import Difference, bootstrap_means, interval, per_user

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from recbench.results import Run

COUNTING = ("popularity", "last_item", "itemknn")  # what any trained model has to beat


def compare(table: pl.DataFrame, runs: dict[str, Run], root: Path) -> pl.DataFrame:
    """Add to the rows of one table what can only be said by comparing them, users in pairs.

    For the metrics `RANKED`, is the row `<metric> best` or `<metric> tied` (not separable from the best)?
    Further `place`, `gate`, and the interval of several seeds' mean in `<metric> low` and `<metric> high`.

    Args:
        table: rows of one data set, protocol and fingerprint, best first.
        runs: the records by their path below `root`.
        root: the leaderboard's folder.

    Raises:
        DataError: ranks are missing, changed, or of other users than those of the rest of the table.
    """
    ranked, broken = table.filter(pl.col("num_seeds") > 0), table.filter(pl.col("num_seeds") == 0)
    values = _per_user(ranked, runs, root)
    flags = [flag for column, key in enumerate(RANKED) for flag in _best_and_tied(key, values[:, :, column])]
    is_first = pl.col("ndcg@10 best") | pl.col("ndcg@10 tied")
    compared = (
        _intervals(ranked, values)
        .with_columns(*flags, pl.Series("gate", _gate(ranked["model"].to_list(), values), dtype=pl.String))
        .with_columns(pl.when(is_first).then(1).otherwise(pl.int_range(1, pl.len() + 1)).alias("place"))
    )
    unset = [pl.lit(False).alias(flag.name) for flag in flags]
    listed = broken.with_columns(pl.lit("").alias("gate"), *unset)
    return pl.concat([compared, listed], how="diagonal")


def _per_user(table: pl.DataFrame, runs: dict[str, Run], root: Path) -> NDArray[np.float64]:
    """(rows, U, M) the metrics `SHOWN` of each row's users, averaged over seeds."""
    first: tuple[str, NDArray[np.int64]] | None = None
    rows = []
    for records in table["records"].to_list():
        seeds = []
        for record in records:
            users, ranks = checked_ranks(root / record, runs[record])
            first = first or (record, users)
            if not np.array_equal(users, first[1]):
                raise DataError(
                    f"{root / record}: its users are not those of {first[0]}, though data set, protocol and "
                    "fingerprint are the same, so the two cannot be compared; delete one of them"
                )
            seeds.append(per_user(ranks, SHOWN))
        rows.append(np.mean(seeds, axis=0))
    return np.stack(rows) if rows else np.empty((0, 0, len(SHOWN)))


def _intervals(table: pl.DataFrame, values: NDArray[np.float64]) -> pl.DataFrame:
    """Put the interval of several seeds' mean where the mean of their intervals was."""
    names = [f"{key} {bound}" for key in SHOWN for bound in ("low", "high")]
    bounds = table.select(names).to_numpy().copy()
    for row, num_seeds in enumerate(table["num_seeds"]):
        if num_seeds > 1:
            bounds[row] = np.stack(interval(bootstrap_means(values[row])), axis=1).ravel()
    columns = zip(names, bounds.T, strict=True)
    return table.with_columns(pl.Series(name, column, nan_to_null=True) for name, column in columns)


def _best_and_tied(key: str, values: NDArray[np.float64]) -> tuple[pl.Series, pl.Series]:
    """Flags over the (rows, U) `values` of one metric: the best row, and those not separable from it."""
    best = int(values.mean(axis=1).argmax()) if len(values) else 0
    is_best = [row == best for row in range(len(values))]
    is_tied = [row != best and not _beats(values[best], other) for row, other in enumerate(values)]
    return pl.Series(f"{key} best", is_best, pl.Boolean), pl.Series(f"{key} tied", is_tied, pl.Boolean)


def _beats(values: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Whether the 95 % interval of the mean (U,) difference, resampling users in pairs, lies above 0."""
    return Difference.of(values, others).low > 0


def _gate(models: list[str], values: NDArray[np.float64]) -> list[str]:
    """For each trained row what is to be said if it does not beat the best counting model on HR@10."""
    counting = [row for row, model in enumerate(models) if model in COUNTING]
    if not counting:
        return [""] * len(models)
    hits = values[:, :, SHOWN.index("hr@10")]
    means = hits.mean(axis=1)
    best = max(counting, key=lambda row: means[row])
    verdicts = []
    for row, model in enumerate(models):
        if model in COUNTING or _beats(hits[row], hits[best]):
            verdicts.append("")
        elif means[row] < means[best]:
            verdicts.append(f"below {models[best]}: under-trained or not useful")
        else:
            verdicts.append(f"not separable from {models[best]}")
    return verdicts
