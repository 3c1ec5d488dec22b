"""HR, NDCG, Precision and MRR as pure functions of where the one target of each user was ranked.

A rank is kept as two numbers, so that ties are exact: `rank`, 1-based, the average over tied items (inf when the
target is not in the list), and `ties`, how many items share the target's score, itself included. Every metric is
its expectation under a random order of the tied items: a constant scorer over N items gets HR@K = K/N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

CUTOFFS = (1, 5, 10, 20)


class Ranks(NamedTuple):
    """Where each user's target came.

    Args:
        rank: (U,) 1-based rank, average over ties, inf when not listed.
        ties: (U,) number of items with the target's score, the target included; 1 when there is no tie.
    """

    rank: NDArray[np.float64]
    ties: NDArray[np.int64]


def _expected(gain: Callable[[NDArray[np.float64]], NDArray[np.float64]], ranks: Ranks, k: int) -> NDArray[np.float64]:
    """Mean of `gain(position)` over the positions a target may take among its ties, 0 past position `k`."""
    if k < 1:
        raise ValueError(f"a cutoff must be at least 1, got {k}")
    total = np.concatenate([[0.0], np.cumsum(gain(np.arange(1, k + 1, dtype=np.float64)))])  # total[n]: first n
    better = np.asarray(ranks.rank, dtype=np.float64) - (np.asarray(ranks.ties) + 1) / 2
    first = np.minimum(better, k).astype(np.int64)
    last = np.minimum(better + ranks.ties, k).astype(np.int64)
    return (total[last] - total[first]) / ranks.ties


def hr(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) hit rate: 1 when the target is among the first `k`."""
    return _expected(np.ones_like, ranks, k)


def precision(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) share of the first `k` that are the target: HR@k / k with one target per user."""
    return hr(ranks, k) / k


def ndcg(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) normalised discounted cumulative gain, 1 / log2(rank + 1) up to `k` (Järvelin & Kekäläinen, 2002)."""
    return _expected(lambda position: 1 / np.log2(position + 1), ranks, k)


def mrr(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) reciprocal rank of the target, 0 past `k`."""
    return _expected(lambda position: 1 / position, ranks, k)


METRICS = {"hr": hr, "ndcg": ndcg, "precision": precision, "mrr": mrr}
KEYS = tuple(f"{name}@{k}" for name in METRICS for k in CUTOFFS)


def per_user(ranks: Ranks, keys: tuple[str, ...] = KEYS) -> NDArray[np.float64]:
    """(U, M) the value of each metric in `keys` (`hr@10`, ...) for each user."""
    columns = []
    for key in keys:
        name, _, k = key.partition("@")
        columns.append(METRICS[name](ranks, int(k)))
    return np.stack(columns, axis=1)


def means(ranks: Ranks) -> dict[str, float]:
    """Every metric averaged over all users, with the arithmetic that must hold asserted."""
    values = dict(zip(KEYS, per_user(ranks).mean(axis=0).tolist(), strict=True))
    check_arithmetic(values)
    return values


def check_arithmetic(values: dict[str, float], *, tolerance: float = 1e-9) -> None:
    """Assert what any metrics of one target per user obey (see `impossibilities`)."""
    broken = impossibilities(values, tolerance=tolerance)
    assert not broken, "; ".join(broken)


def impossibilities(values: dict[str, float], *, tolerance: float) -> list[str]:
    """Why `values` cannot be averages over users with one target each; empty when they can.

    Precision@K = HR@K / K; NDCG@K <= HR@K; HR grows with K; and what NDCG gains from K to K' lies between the
    discounts of ranks K+1 and K' times what HR gains. `tolerance` absorbs rounding of printed figures.
    """
    broken = []
    cutoffs = sorted({int(key.partition("@")[2]) for key in values})
    for k in cutoffs:
        hit, gain, share = (values.get(f"{name}@{k}") for name in ("hr", "ndcg", "precision"))
        if hit is not None and share is not None and abs(share - hit / k) > tolerance:
            broken.append(f"precision@{k} {share:g} is not hr@{k} / {k} = {hit / k:g}")
        if hit is not None and gain is not None and gain > hit + tolerance:
            broken.append(f"ndcg@{k} {gain:g} exceeds hr@{k} {hit:g}")
    for k, wider in zip(cutoffs, cutoffs[1:], strict=False):
        broken += _impossible_growth(values, k, wider, tolerance)
    return broken


def _impossible_growth(values: dict[str, float], k: int, wider: int, tolerance: float) -> list[str]:
    """Why the step from cutoff `k` to `wider` cannot be."""
    needed = [f"{name}@{cut}" for name in ("hr", "ndcg") for cut in (k, wider)]
    hits = values.get(needed[1], np.inf) - values.get(needed[0], 0.0)
    if hits < -tolerance:
        return [f"hr@{wider} is below hr@{k}"]
    if any(key not in values for key in needed):
        return []
    gain = values[needed[3]] - values[needed[2]]
    least, most = hits / np.log2(wider + 1), hits / np.log2(k + 2)
    # two rounded figures enter each difference
    if not least - 3 * tolerance <= gain <= most + 3 * tolerance:
        return [
            f"ndcg@{wider} - ndcg@{k} is {gain:.4f}; hits at ranks {k + 1}..{wider} allow {least:.4f} to {most:.4f}"
        ]
    return []


def bootstrap_means(
    values: NDArray[np.float64], *, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """(R, M) means of (U, M) `values` over resamples of the users, the same resamples for every column."""
    num_users = len(values)
    rng = np.random.default_rng(seed)
    means_ = np.empty((num_resamples, values.shape[1]))
    for r in range(num_resamples):
        counts = np.bincount(rng.integers(0, num_users, num_users), minlength=num_users)
        means_[r] = counts @ values / num_users
    return means_


def interval(resampled: NDArray[np.float64], level: float = 0.95) -> tuple[ArrayLike, ArrayLike]:
    """Lower and upper percentile bounds of (R, ...) resampled means."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high
