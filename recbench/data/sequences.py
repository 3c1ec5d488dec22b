"""Ragged histories in two flat arrays, and batches of one pass over them. Imports no torch.

U users, B users of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl
    from numpy.typing import NDArray

    from recbench.data.batch import SequenceBatch


@dataclass(frozen=True, slots=True)
class Sequences:
    """Ragged histories: user `u` has `items[offsets[u]:offsets[u + 1]]`, oldest first."""

    items: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, interactions: pl.DataFrame) -> Self:
        """The histories of prepared interactions, which are sorted by user."""
        counts = interactions.group_by("user", maintain_order=True).len()["len"].to_numpy()
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(interactions["item"].to_numpy().astype(np.int64), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) items per user."""
        return np.diff(self.offsets)

    def windows(
        self, stops: NDArray[np.int64], lengths: NDArray[np.int64], values: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """(B, max(lengths)) right-aligned rows ending before flat position `stops`, 0-padded on the left."""
        width = max(1, int(lengths.max(initial=0)))
        place = np.arange(-width, 0)
        inside = place >= -lengths[:, None]
        flat = np.where(inside, stops[:, None] + place, 0)
        return np.where(inside, (self.items if values is None else values)[flat], 0)


class BatchLoader:
    """Batches of one pass over some sequences: an iterable that needs no workers.

    Args:
        batches: makes the batches' row indices for a pass.
        collate: rows -> batch.
        num_batches: how many they are.
        finish: called when the last batch of a pass is taken; a pass that was only begun does not count.
    """

    def __init__(
        self,
        batches: Callable[[], list[NDArray[np.int64]]],
        collate: Callable[[NDArray[np.int64]], SequenceBatch],
        num_batches: int,
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._batches = batches
        self._collate = collate
        self._num_batches = num_batches
        self._finish = finish

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[SequenceBatch]:
        for number, rows in enumerate(self._batches(), start=1):
            if number == self._num_batches:
                self._finish()
            yield self._collate(rows)
