"""The few items around each position, as views: every position of a history has its window at once.

B users, L history, W window, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

if TYPE_CHECKING:
    from torch import Tensor


def trailing(x: Tensor, size: int) -> Tensor:
    """(B, L) or (B, L, D) -> (B, L, W) or (B, L, D, W): each position's newest `size` values, its own last.

    Zeros stand for what lies before the first, so a history's values do not depend on how it is padded.
    """
    ahead = (size - 1, 0) if x.ndim == 2 else (0, 0, size - 1, 0)
    return F.pad(x, ahead).unfold(1, size, 1)


def following(next_items: Tensor, num_targets: int) -> Tensor:
    """(B, L) each position's next item -> (B, L, T) its next T items, nearest first; 0 where unknown."""
    return F.pad(next_items, (0, num_targets - 1)).unfold(1, num_targets, 1)
