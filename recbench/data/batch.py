"""SequenceBatch: the one shape in which models see users.

B users, L history length, N items, C candidates. Item 0 is padding; real items are 1..N.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

PAD = 0


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """What a model sees of B users: right-aligned histories and, when known, the next item.

    Args:
        users: (B,) user indices.
        history: (B, L) items, oldest first, padded with 0 on the left.
        target: (B,) the item that follows the history; 0 where unknown.
        times: (B, L) unix seconds of the history (0 at padding), None where the data set has no times.
        query: what each user asked for in words, None where the data set has no queries.
        seen: (B, S) items that must not be recommended, 0-padded; None where repeats are legal.
        allowed: (B, N + 1) whether each item may compete, being near or drawn; column 0 never. None where all
            may.
        candidates: (B, C) the items that are allowed, in random order, for methods that write them out; None
            where they were not drawn.
    """

    users: Tensor
    history: Tensor
    target: Tensor
    times: Tensor | None = None
    query: list[str] | None = None
    seen: Tensor | None = None
    allowed: Tensor | None = None
    candidates: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SequenceBatch:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)

    def rows(self, chosen: slice | Tensor) -> SequenceBatch:
        """The same for some of the users, by a slice of rows or by their numbers."""
        cut: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list) and isinstance(chosen, torch.Tensor):
                cut[field.name] = [value[row] for row in chosen.tolist()]
            else:
                cut[field.name] = value if value is None else value[chosen]
        return SequenceBatch(**cut)

    def next_items(self) -> Tensor:
        """(B, L): the item that follows each position of the history; the last one is the target."""
        return torch.cat([self.history[:, 1:], self.target[:, None]], dim=1)

    def without_newest(self, num_items: Tensor) -> SequenceBatch:
        """`lagged` by another number for every user: what is left is right-aligned, as wide as before.

        Args:
            num_items: (B,) 0 or more interactions.
        """
        length = self.history.shape[1]
        source = torch.arange(length, device=self.history.device) - num_items[:, None]

        def moved(values: Tensor) -> Tensor:
            return values.gather(1, source.clamp_min(0)).masked_fill(source < 0, PAD)

        times = None if self.times is None else moved(self.times)
        return dataclasses.replace(self, history=moved(self.history), times=times)

    def lagged(self, num_items: int) -> SequenceBatch:
        """What a cloud saw `num_items` interactions ago: the newest items are gone, the target stays.

        `seen`, `allowed` and `candidates` stay too: what must not be recommended is decided by the device,
        which knows everything.

        Raises:
            ValueError: `num_items` is negative.
        """
        if num_items < 0:
            raise ValueError(f"num_items must be 0 or more interactions, got {num_items}")
        keep = self.history.shape[1] - num_items
        if keep < 1:  # nothing left: one column of padding, so that shapes stay legal
            gone = torch.full_like(self.history[:, :1], PAD)
            return dataclasses.replace(self, history=gone, times=None if self.times is None else gone.long())
        times = None if self.times is None else self.times[:, :keep]
        return dataclasses.replace(self, history=self.history[:, :keep], times=times)
