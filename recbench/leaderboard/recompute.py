"""A record's metrics once more, from the ranks that lie beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbench.errors import DataError
from recbench.metrics import METRICS, Ranks, per_user
from recbench.results import Run, ranks_path, read_ranks, read_run

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

TOLERANCE = 1e-9  # sums in another order differ by about 1e-14


def replay(record: Path) -> str:
    """Recompute every metric of `record` from its stored ranks; returns the comparison as a text table.

    Raises:
        DataError: the record or its ranks are missing or changed, or a metric is not what the ranks give.
    """
    run = read_run(record)
    users, ranks = checked_ranks(record, run)
    lines = [f"{record}: {len(users):,} users", f"{'metric':<14}{'recorded':>12}{'recomputed':>12}"]
    recomputed = recompute(run, ranks)
    for key, estimate in run.metrics.items():
        again = f"{recomputed[key]:>12.6f}" if key in recomputed else f"{'not of ranks':>14}"
        lines.append(f"{key:<14}{estimate.value:>12.6f}{again}")
    return "\n".join([*lines, "every metric is what the stored ranks give"])


def recompute(run: Run, ranks: Ranks) -> dict[str, float]:
    """Means over users of those metrics of `run` that are functions of ranks."""
    keys = tuple(key for key in run.metrics if key.partition("@")[0] in METRICS)
    if not keys:
        return {}
    return dict(zip(keys, per_user(ranks, keys).mean(axis=0).tolist(), strict=True))


def checked_ranks(record: Path, run: Run) -> tuple[NDArray[np.int64], Ranks]:
    """Users and ranks of `run`, which lies at `record`.

    Raises:
        DataError: they are missing or changed, not one per user, or do not give the recorded metrics.
    """
    if not run.ranks_sha256:
        raise DataError(f"{record}: no ranks were stored with this record; rerun it to get them")
    users, ranks = read_ranks(record, run.ranks_sha256)
    if run.num_users not in (None, len(users)):
        stored = f"{ranks_path(record).name} has {len(users)}"
        raise DataError(f"{record}: num_users is {run.num_users}, but {stored}; restore it or rerun")
    for key, value in recompute(run, ranks).items():
        if abs(value - run.metrics[key].value) > TOLERANCE:
            raise DataError(
                f"{record}: {key} is recorded as {run.metrics[key].value:.10g}, its ranks give {value:.10g}; "
                "restore the record or rerun it"
            )
    return users, ranks
