"""What one training sample is: a window of a user's items, or a prefix of them.

U users, S samples. A user's training items lie at flat positions `starts` to `stops`, the latter excluded.
Every one of them but the first is the next item of some position, exactly once, in either cutting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


Samples = Literal["positions", "prefixes"]


class TrainSamples(NamedTuple):
    """(S,) each: `user`, flat position `stop` of the newest target, and `length`, the inputs before it."""

    user: NDArray[np.int64]
    stop: NDArray[np.int64]
    length: NDArray[np.int64]


def windows(
    users: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64], *, max_len: int
) -> TrainSamples:
    """Cut each user, from the newest item on, into windows of up to `max_len` inputs: all positions learn."""
    num_targets = np.maximum(stops - starts - 1, 0)
    counts = -(-num_targets // max_len)
    owner, nth = _spread(counts)
    stop = stops[owner] - 1 - nth * max_len
    return TrainSamples(users[owner], stop, np.minimum(stop - starts[owner], max_len))


def prefixes(
    users: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64], *, max_len: int
) -> TrainSamples:
    """One sample per target, with the up to `max_len` items before it: only the newest position learns."""
    owner, nth = _spread(np.maximum(stops - starts - 1, 0))
    return TrainSamples(users[owner], starts[owner] + 1 + nth, np.minimum(nth + 1, max_len))


def _spread(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S,) which user a sample is of, and the how-manieth of that user it is, from 0."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
