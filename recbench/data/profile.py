"""What a data set is like: how long histories are, how popular items, and how much the order says.

U users, N items. Imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from recbench.metrics import Ranks, bootstrap_means, hr, interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.sequences import Sequences

LENGTH_GROUPS = {"short": "under 10", "medium": "10 to 50", "long": "over 50"}
LEAST_MEDIUM, MOST_MEDIUM = 10, 50
_TOP = 10
_MAX_USERS = 50_000  # that are predicted; all are counted
_BLOCK = 2_000  # users whose followers are looked up at a time


class Sequentiality(NamedTuple):
    """How much a first-order Markov chain loses when nobody's items stay in their order.

    Args:
        hr10: HR@10 of the last items, from what followed the item before.
        shuffled_hr10: the same when the items before the last are shuffled within every user; mean over
            shuffles.
        shuffled_sd: standard deviation over shuffles.
        drop: 1 - shuffled_hr10 / hr10: 0 where the order says nothing; None where nothing is hit.
        low: lower end of its 95 % bootstrap interval over users.
        high: upper end.
        num_users: users predicted.
        num_shuffles: how often everything was shuffled.
    """

    hr10: float
    shuffled_hr10: float
    shuffled_sd: float
    drop: float | None
    low: float | None
    high: float | None
    num_users: int
    num_shuffles: int


def length_group(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """(U,) place in `LENGTH_GROUPS`: 0 short, 1 medium, 2 long.

    Args:
        lengths: (U,) interactions per user, all splits together.
    """
    return np.digitize(lengths, [LEAST_MEDIUM, MOST_MEDIUM + 1]).astype(np.int64)


def at_least(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of `counts` reach each value that occurs: ascending values, and how many are no smaller."""
    values, occurrences = np.unique(counts, return_counts=True)
    return values, np.cumsum(occurrences[::-1])[::-1]


def by_rank(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The counts from largest to smallest, beside their ranks from 1."""
    return np.arange(1, len(counts) + 1), np.sort(counts)[::-1]


def sequentiality(sequences: Sequences, *, num_shuffles: int = 5, seed: int = 0) -> Sequentiality:
    """Compare the order of histories with no order at all, the idea of Klenitskiy et al. (RecSys 2024).

    They shuffle what a trained network is shown. Here the model is a table of counts, so that seconds
    suffice: every user's last item is predicted from what came directly after the item before it in all
    histories without their last items, most frequent first, ties averaged; an item that never did is a miss.
    With the items before the last shuffled, both the counts and the item before are of no particular order.

    Args:
        sequences: histories; users with fewer than two items are not predicted.
        num_shuffles: shuffles, with generators seeded by `seed` and their number.
        seed: decides the shuffles and, beyond 50,000 users, who is predicted.
    """
    users = np.flatnonzero(sequences.lengths >= 2)
    if len(users) > _MAX_USERS:
        users = np.sort(np.random.default_rng(seed).choice(users, _MAX_USERS, replace=False))
    hits = [hr(_follower_ranks(sequences.items, sequences, users), _TOP)]
    for number in range(num_shuffles):
        shuffled = _shuffled(sequences, np.random.default_rng([seed, number]))
        hits.append(hr(_follower_ranks(shuffled, sequences, users), _TOP))
    table = np.stack([hits[0], np.mean(hits[1:], axis=0)], axis=1)  # (U, 2)
    ordered, shuffled_mean = table.mean(axis=0).tolist()
    drop = low = high = None
    if ordered:
        resampled = bootstrap_means(table)
        kept = resampled[:, 1] / np.maximum(resampled[:, 0], np.finfo(float).tiny)
        drop = 1 - shuffled_mean / ordered
        low, high = (float(bound) for bound in interval(1 - kept))
    return Sequentiality(
        hr10=ordered,
        shuffled_hr10=shuffled_mean,
        shuffled_sd=float(np.std([hit.mean() for hit in hits[1:]], ddof=1)),
        drop=drop,
        low=low,
        high=high,
        num_users=len(users),
        num_shuffles=num_shuffles,
    )


def _shuffled(sequences: Sequences, rng: np.random.Generator) -> NDArray[np.int64]:
    """The flat items with those before each user's last in random order."""
    owner = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    key = rng.random(len(owner))
    key[sequences.offsets[1:][sequences.lengths > 0] - 1] = 1.0  # above all others: stays last
    return sequences.items[np.lexsort((key, owner))]


def _follower_ranks(items: NDArray[np.int64], sequences: Sequences, users: NDArray[np.int64]) -> Ranks:
    """Where the last item of each of `users` stands among the followers of the item before it.

    Args:
        items: the flat items, in the order to be judged.
        sequences: whose offsets say where users begin.
        users: (U,) with two items at least.
    """
    ends = sequences.offsets[1:]
    is_counted = np.ones(len(items), dtype=bool)
    is_counted[sequences.offsets[:-1][sequences.lengths > 0]] = False  # first items follow nothing
    is_counted[ends[sequences.lengths > 0] - 1] = False  # last items are what is to be found
    after = np.flatnonzero(is_counted)
    size = int(items.max()) + 1
    counts = csr_matrix((np.ones(len(after)), (items[after - 1], items[after])), shape=(size, size))
    before, target = items[ends[users] - 2], items[ends[users] - 1]
    starts = range(0, len(users), _BLOCK)
    blocks = [_count_followers(counts, before[i : i + _BLOCK], target[i : i + _BLOCK]) for i in starts]
    return Ranks(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _count_followers(counts: csr_matrix, before: NDArray[np.int64], target: NDArray[np.int64]) -> Ranks:
    """Rank of each `target` among what followed the item `before` it; inf where it never did."""
    own = np.asarray(counts[before, target]).ravel()
    rows = counts[before]
    owner = np.repeat(np.arange(len(own)), np.diff(rows.indptr))
    above = np.bincount(owner, rows.data > own[owner], minlength=len(own))
    ties = np.bincount(owner, rows.data == own[owner], minlength=len(own)).astype(np.int64)
    is_found = own > 0
    return Ranks(np.where(is_found, above + (ties + 1) / 2, np.inf), np.where(is_found, ties, 1))
