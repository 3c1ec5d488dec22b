"""Which few items a target competes with: those that a user never took, drawn once for all methods.

The top-N protocol of P5 ("direct" recommendation) ranks the target among 99 random items instead of the whole
catalogue. What is drawn is a function of seed, user and the target's place in the user's history, and of
nothing else: neither the batch nor the process nor the method has a say, and no list is kept.

U users, B users of a batch, N items, C candidates of a user, target included. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from recbench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.sequences import Sequences

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: what SplitMix64 counts by
_ORDER = 1 << 32  # number of the first draw that decides an order; those that choose come before


@dataclass(frozen=True, slots=True)
class Candidates:
    """The target and `num_negatives` uniform items of those that the user never took.

    Args:
        num_items: N of the catalogue.
        num_negatives: items besides the target.
        seed: decides the draws.
        num_taken: (U,) different items of each user, all splits together.
        free_below: for each of them, in order of user and item, how many items with a lower index the user
            never took; `N + 1` is added per user, so that the whole ascends.
    """

    num_items: int
    num_negatives: int
    seed: int
    num_taken: NDArray[np.int64]
    free_below: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequences, *, num_items: int, num_negatives: int, seed: int, name: str) -> Self:
        """Candidates for everybody in `sequences`.

        Raises:
            DataError: a user of the data set `name` leaves fewer than `num_negatives` items.
        """
        num_users = len(sequences.lengths)
        owner = np.repeat(np.arange(num_users), sequences.lengths)
        taken = np.unique(owner * (num_items + 1) + sequences.items)  # in order of user and item
        user, item = np.divmod(taken, num_items + 1)
        num_taken = np.bincount(user, minlength=num_users)
        nth = np.arange(len(user)) - (np.cumsum(num_taken) - num_taken)[user]
        fewest = num_items - int(num_taken.max(initial=0))
        if fewest < num_negatives:
            raise DataError(
                f"{name}: num_negatives {num_negatives} is too many: user {num_taken.argmax()} took all but "
                f"{fewest} of {num_items:,} items; set it to {fewest} or less, or to 0 for all items"
            )
        below = user * (num_items + 1) + item - 1 - nth
        return cls(num_items, num_negatives, seed, num_taken, below)

    def draw(
        self, users: NDArray[np.int64], places: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """(B, C) different items in an order that says nothing of which one is the target.

        Args:
            users: (B,) user indices.
            places: (B,) of the target in the user's history, from 0.
            targets: (B,) items.
        """
        items = np.concatenate([targets[:, None], self._negatives(users, places)], axis=1)
        # by item, not by column: the target stands where it would stand as anybody's negative
        keys = self._hash(users[:, None], places[:, None], _ORDER + items)
        return np.take_along_axis(items, keys.argsort(axis=1), axis=1)

    def _negatives(self, users: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, C - 1) items by Floyd's algorithm (CACM 30(9), 1987): every subset is equally likely."""
        num_free = self.num_items - self.num_taken[users]
        chosen = np.empty((len(users), self.num_negatives), dtype=np.int64)  # of the free items, from 0
        for column in range(self.num_negatives):
            last = num_free - self.num_negatives + column
            share = (self._hash(users, places, column) >> np.uint64(11)) * 2.0**-53  # [0, 1)
            drawn = (share * (last + 1)).astype(np.int64)
            is_there = (chosen[:, :column] == drawn[:, None]).any(axis=1)
            chosen[:, column] = np.where(is_there, last, drawn)
        # the r-th free item comes after as many taken ones as have no more than r free items below
        starts = np.cumsum(self.num_taken)[users] - self.num_taken[users]
        key = users[:, None] * (self.num_items + 1) + chosen
        return 1 + chosen + np.searchsorted(self.free_below, key, side="right") - starts[:, None]

    def _hash(
        self, users: NDArray[np.int64], places: NDArray[np.int64], draw: int | NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """64 bits per user, place and number of the draw: SplitMix64 over one after the other."""
        state = _mixed(np.asarray([self.seed], dtype=np.uint64))
        for part in (users, places, np.asarray(draw)):
            state = _mixed(state + part.astype(np.uint64))
        return state


def is_candidate(items: NDArray[np.int64], *, num_items: int) -> NDArray[np.bool_]:
    """(B, C) items -> (B, N + 1) whether each item of the catalogue is one of them."""
    mask = np.zeros((len(items), num_items + 1), dtype=np.bool_)
    np.put_along_axis(mask, items, values=True, axis=1)
    return mask


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele et al., OOPSLA 2014), a bijection of 64 bits."""
    state = state + _STEP
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
