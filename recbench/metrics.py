"""HR, NDCG, Precision and MRR as pure functions of where the one target of each user was ranked.

A rank is kept as two numbers, so that ties are exact: `rank`, 1-based, the average over tied items (inf when
the target is not in the list), and `ties`, how many items share the target's score, itself included. Every
metric is its expectation under a random order of the ties: a constant scorer over N items gets HR@K = K/N.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CUTOFFS = (1, 5, 10, 20)


class Ranks(NamedTuple):
    """Where each user's target came.

    Args:
        rank: (U,) 1-based rank, average over ties, inf when not listed.
        ties: (U,) number of items with the target's score, the target included; 1 when there is no tie.
    """

    rank: NDArray[np.float64]
    ties: NDArray[np.int64]


def _expected(
    gain: Callable[[NDArray[np.float64]], NDArray[np.float64]], ranks: Ranks, k: int
) -> NDArray[np.float64]:
    """Mean of `gain(position)` over the positions a target may take among its ties, 0 past position `k`."""
    if k < 1:
        raise ValueError(f"a cutoff must be at least 1, got {k}")
    better = np.asarray(ranks.rank) - (np.asarray(ranks.ties) + 1) / 2  # items ranked above all the ties
    if not (better >= 0).all():  # also refuses NaN, which compares false
        user = int(np.flatnonzero(~(better >= 0))[0])
        rank, ties = ranks.rank[user], ranks.ties[user]
        raise ValueError(f"row {user} has rank {rank} among {ties} tied; a rank is at least (ties + 1) / 2")
    total = np.concatenate([[0.0], np.cumsum(gain(np.arange(1.0, k + 1)))])  # total[n]: of the first n
    first = np.minimum(better, k).astype(np.int64)
    last = np.minimum(better + ranks.ties, k).astype(np.int64)
    expected: NDArray[np.float64] = (total[last] - total[first]) / ranks.ties
    return expected


def hr(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) hit rate: 1 when the target is among the first `k`."""
    return _expected(np.ones_like, ranks, k)


def precision(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) share of the first `k` that are the target: HR@k / k with one target per user."""
    return hr(ranks, k) / k


def ndcg(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) normalised discounted gain, 1 / log2(rank + 1) up to `k` (Järvelin & Kekäläinen, 2002)."""
    return _expected(lambda position: 1 / np.log2(position + 1), ranks, k)


def mrr(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """(U,) reciprocal rank of the target, 0 past `k`."""
    return _expected(lambda position: 1 / position, ranks, k)


_GAINS: dict[str, Callable[[float], float]] = {
    "ndcg": lambda rank: 1 / math.log2(rank + 1),
    "mrr": lambda rank: 1 / rank,
}
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

    HR lies in [0, 1] and grows with K; Precision@K = HR@K / K; and what NDCG or MRR gains from one cutoff to
    the next lies between the gains of the last and the first rank in between, times what HR gains. Cutoff 0
    counts as all zeros, so HR@K / log2(K + 1) <= NDCG@K <= HR@K is the first of these steps.

    Args:
        values: means by key (`hr@10`, ...); whatever is absent is not checked.
        tolerance: how far each value may be off: half a unit of the last printed digit of a quoted figure.
    """
    tolerance += 1e-12  # figures that just touch a bound are possible, whatever floating point makes of them
    hits = {k: values[f"hr@{k}"] for k in _cutoffs(values, "hr")}
    broken = [
        f"hr@{k} {hit:g} is not in [0, 1]"
        for k, hit in hits.items()
        if not -tolerance <= hit <= 1 + tolerance
    ]
    for k, wider in pairwise(hits):
        if hits[wider] < hits[k] - 2 * tolerance:
            broken.append(f"hr@{wider} {hits[wider]:g} is below hr@{k} {hits[k]:g}")
    for k, hit in hits.items():
        share = values.get(f"precision@{k}", hit / k)
        if abs(share - hit / k) > tolerance * (1 + 1 / k):
            broken.append(f"precision@{k} {share:g} is not hr@{k} / {k} = {hit / k:g}")
    for name, gain in _GAINS.items():
        broken += _impossible_steps(values, name, gain, tolerance)
    return broken


def _cutoffs(values: dict[str, float], name: str) -> list[int]:
    """Cutoffs at which `values` has the metric `name`, ascending."""
    return sorted(int(key.partition("@")[2]) for key in values if key.startswith(f"{name}@"))


def _impossible_steps(
    values: dict[str, float], name: str, gain: Callable[[float], float], tolerance: float
) -> list[str]:
    """Why the steps of metric `name`, which pays `gain(rank)` per hit, contradict those of HR."""
    broken = []
    cutoffs = [k for k in _cutoffs(values, name) if f"hr@{k}" in values]
    for k, wider in pairwise([0, *cutoffs]):
        hits = values[f"hr@{wider}"] - values.get(f"hr@{k}", 0.0)
        gained = values[f"{name}@{wider}"] - values.get(f"{name}@{k}", 0.0)
        least, most = hits * gain(wider), hits * gain(k + 1)
        rounded = tolerance * (1 if k == 0 else 2)  # figures in each difference
        if not least - rounded * (1 + gain(wider)) <= gained <= most + rounded * (1 + gain(k + 1)):
            below = f" - {name}@{k}" if k else ""
            broken.append(
                f"{name}@{wider}{below} is {gained:.4f}, but the hits at ranks {k + 1} to {wider} "
                f"allow only {least:.4f} to {most:.4f}"
            )
    return broken


def bootstrap_means(
    values: NDArray[np.float64], *, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """(R, M) means of (U, M) `values` over resamples of the users, the same resamples for every column.

    Most users share their row with others (a miss is a miss), and a resample is decided by how often each
    distinct row is drawn; those counts are drawn instead of the users: the same distribution, much faster.
    """
    distinct, counts = _distinct_rows(np.asarray(values, dtype=np.float64))
    num_users = len(values)
    rng = np.random.default_rng(seed)
    block = max(1, 2**20 // len(counts))  # keeps the drawn counts below 8 MiB
    draws = (min(block, num_resamples - done) for done in range(0, num_resamples, block))
    shares = counts / num_users
    return np.concatenate([rng.multinomial(num_users, shares, size) @ distinct for size in draws]) / num_users


def _distinct_rows(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct rows of `values` and their counts, most frequent first so that multinomial draws end early."""
    rows = values[np.lexsort(values.T)]  # np.unique(axis=0) takes forty times as long
    starts = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)]))
    counts = np.diff(np.append(starts, len(rows)))
    order = np.argsort(-counts, kind="stable")
    return rows[starts[order]], counts[order]


def interval(
    resampled: NDArray[np.float64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper percentile bounds of (R, ...) resampled means."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high


class Difference(NamedTuple):
    """The mean of (U,) paired differences, and its 95 % bootstrap interval over users, resampled in pairs."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, better: NDArray[np.float64], worse: NDArray[np.float64]) -> Difference:
        """Of two columns of the same users."""
        pairs = better - worse
        low, high = interval(bootstrap_means(pairs[:, None]))
        return cls(float(pairs.mean()), float(low[0]), float(high[0]))

    @property
    def answer(self) -> str:
        """Whether the first is better."""
        return "yes" if self.low > 0 else "no" if self.high < 0 else "not separable"

    def __str__(self) -> str:
        return f"{self.answer} ({self.mean:+.4f}, {self.low:+.4f} to {self.high:+.4f})"
