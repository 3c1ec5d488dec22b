"""When a device asks its cloud: policies behind one `decide`. Imports no torch.

B users. Whatever a policy draws depends on user and moment, not on who else is in the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recbench.edge.dice import throw

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class State:
    """What devices know before they ask, a row per user.

    Args:
        users: (B,) who, in the device's own count.
        counts: (B,) interactions so far.
        lag_items: (B,) interactions since the cached answer was asked for; -1 where there is none.
        lag_s: (B,) seconds since then; -1 where there is none.
        score: gives (B,) how much a fresh answer is needed, by the method's own measure; NaN where it has
            none. Called by policies that want it, since it may cost as much as ranking.
    """

    users: NDArray[np.int64]
    counts: NDArray[np.int64]
    lag_items: NDArray[np.int64]
    lag_s: NDArray[np.float64]
    score: Callable[[], NDArray[np.float64]]

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """(B,) whether the cache has nothing."""
        return self.lag_items < 0


class Policy(ABC):
    """Decides who asks."""

    @abstractmethod
    def decide(self, state: State) -> NDArray[np.bool_]:
        """(B,) whether each user's device asks the cloud now."""

    def described(self) -> dict[str, str | float]:
        """Its name and its settings that are numbers or words: what another device decides alike by."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, int | float | str)}
        return {"name": type(self).__name__} | plain


class Always(Policy):
    """Every request goes to the cloud."""

    def decide(self, state: State) -> NDArray[np.bool_]:
        """Yes."""
        return np.ones(len(state.users), dtype=bool)


class Never(Policy):
    """What the cache has is used for good."""

    def decide(self, state: State) -> NDArray[np.bool_]:
        """No."""
        return np.zeros(len(state.users), dtype=bool)


class RandomBudget(Policy):
    """A share of the requests, whichever.

    Args:
        budget: the share, 0 to 1.
        seed: decides which.
    """

    def __init__(self, *, budget: float, seed: int = 0) -> None:
        check_budget(budget)
        self.budget, self.seed = budget, seed

    def decide(self, state: State) -> NDArray[np.bool_]:
        """By a draw for user and moment."""
        moments = np.stack([state.users, state.counts], axis=1).astype("<i8")
        draws = [throw(self.seed, b"policy", moment.tobytes()).a for moment in moments]
        return np.array(draws, dtype=np.float64) < self.budget


class Every(Policy):
    """As soon as the cached answer is `num_items` interactions old, or there is none.

    Args:
        num_items: interactions.
    """

    def __init__(self, *, num_items: int) -> None:
        if num_items < 1:
            raise ValueError(f"num_items must be at least 1 interaction, got {num_items}")
        self.num_items = num_items

    def decide(self, state: State) -> NDArray[np.bool_]:
        """By age alone."""
        return state.is_empty | (state.lag_items >= self.num_items)


class Threshold(Policy):
    """Where the method's own measure says that a fresh answer is needed, or there is none.

    Args:
        threshold: least score that asks; `threshold_at` finds the one for a budget.
    """

    def __init__(self, *, threshold: float) -> None:
        if math.isnan(threshold):
            raise ValueError("threshold must be a number, got nan")
        self.threshold = threshold

    def decide(self, state: State) -> NDArray[np.bool_]:
        """By the score."""
        return state.is_empty | (state.score() >= self.threshold)


class AtLimit(Policy):
    """Where the measure is as high as a limit that is known once training is over, or nothing is cached.

    Args:
        limit: says how high.
    """

    def __init__(self, limit: Callable[[], float]) -> None:
        self.limit = limit

    def decide(self, state: State) -> NDArray[np.bool_]:
        """By the score."""
        return state.is_empty | (state.score() >= self.limit())

    def described(self) -> dict[str, str | float]:
        """As the threshold that was found."""
        return Threshold(threshold=self.limit()).described()


def threshold_at(scores: NDArray[np.float64], budget: float) -> float:
    """The threshold by which at most `budget` of `scores` ask, and with the least left of it.

    Args:
        scores: (B,) of the validation requests, never of those that are judged.
        budget: share that may ask, 0 to 1.

    Returns:
        One of the scores, so that of equal ones all ask or none; infinity where even the highest is too many.

    Raises:
        ValueError: there are no scores, or some are NaN.
    """
    check_budget(budget)
    if not len(scores) or np.isnan(scores).any():
        raise ValueError(f"a threshold needs scores that are numbers, got {len(scores)} with NaN among them")
    values, counts = np.unique(scores, return_counts=True)
    asking = counts[::-1].cumsum()[::-1]  # scores at or above each value
    fits = np.flatnonzero(asking <= budget * len(scores) + 1e-9)
    return float(values[fits[0]]) if len(fits) else math.inf


def check_budget(budget: float) -> None:
    """Refuse shares outside 0..1.

    Raises:
        ValueError: it is one.
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget must lie in 0..1, a share of the requests, got {budget:g}")
