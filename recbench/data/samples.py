"""What one training sample is: a window of a user's items, a prefix of them, or a random segment.

U users, S samples. A user's training items lie at flat positions `starts` to `stops`, the latter excluded.
Every one of them but the first is the next item of some position, exactly once, in windows and in prefixes.
Segments are one per user and drawn anew for every epoch, as the authors of P5 and POD do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


Samples = Literal["positions", "prefixes", "p5_segments", "pod_segments"]


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


def p5_segments(
    users: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    *,
    max_len: int,
    rng: np.random.Generator,
) -> TrainSamples:
    """From one of the user's first three items to one of the last three; the first two are no targets.

    A user of two training items learns the second after all: there would be nothing else.
    """
    users, starts, stops = _with_targets(users, starts, stops)
    target = rng.integers(np.minimum(np.maximum(stops - 3, starts + 2), stops - 1), stops)
    first = rng.integers(starts, np.minimum(starts + 3, target))
    return TrainSamples(users, target, np.minimum(target - first, max_len))


def pod_segments(
    users: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    *,
    max_len: int,
    rng: np.random.Generator,
) -> TrainSamples:
    """From any of the user's items but the newest to any after it."""
    users, starts, stops = _with_targets(users, starts, stops)
    first = rng.integers(starts, stops - 1)
    target = rng.integers(first + 1, stops)
    return TrainSamples(users, target, np.minimum(target - first, max_len))


def is_drawn(samples: Samples) -> bool:
    """Whether samples are drawn anew for every epoch."""
    return samples in _DRAWN


def cut(
    samples: Samples,
    users: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    *,
    max_len: int,
    rng: np.random.Generator,
) -> TrainSamples:
    """The samples of these users; `rng` is used by those that are drawn."""
    if samples in _DRAWN:
        return _DRAWN[samples](users, starts, stops, max_len=max_len, rng=rng)
    return _FIXED[samples](users, starts, stops, max_len=max_len)


def _with_targets(*columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Those of users, starts and stops that have two training items."""
    _, starts, stops = columns
    return tuple(column[stops - starts >= 2] for column in columns)


def _spread(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S,) which user a sample is of, and the how-manieth of that user it is, from 0."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


_FIXED = {"positions": windows, "prefixes": prefixes}
_DRAWN = {"p5_segments": p5_segments, "pod_segments": pod_segments}
