"""The few items around each position, as views: every position of a history has its window at once.

B users, L history, W window, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.nn.losses import Loss


def trailing(x: Tensor, size: int) -> Tensor:
    """(B, L) or (B, L, D) -> (B, L, W) or (B, L, D, W): each position's newest `size` values, its own last.

    Zeros stand for what lies before the first, so a history's values do not depend on how it is padded.
    """
    ahead = (size - 1, 0) if x.ndim == 2 else (0, 0, size - 1, 0)
    return F.pad(x, ahead).unfold(1, size, 1)


def following(next_items: Tensor, num_targets: int) -> Tensor:
    """(B, L) each position's next item -> (B, L, T) its next T items, nearest first; 0 where unknown."""
    return F.pad(next_items, (0, num_targets - 1)).unfold(1, num_targets, 1)


def window_loss(
    criterion: Loss,
    states: Tensor,
    batch: SequenceBatch,
    table: Tensor,
    *,
    num_targets: int,
    newest_only: bool,
) -> Tensor:
    """Mean loss of what learns in (B, L, D) `states` of a batch, against the (N + 1, D) `table`."""
    learning, targets = learners(
        states, batch.history, batch.next_items(), num_targets=num_targets, newest_only=newest_only
    )
    return criterion(learning, targets, table)


def learners(
    states: Tensor, history: Tensor, next_items: Tensor, *, num_targets: int, newest_only: bool
) -> tuple[Tensor, Tensor]:
    """(P, D) states that learn and (P,) the item each one learns: its next T, or of the newest state only.

    Args:
        states: (B, L, D), one per position.
        history: (B, L) items; no state of padding learns.
        next_items: (B, L) the item after each position.
        num_targets: T.
        newest_only: whether the samples are prefixes.
    """
    targets = following(next_items, num_targets)  # (B, L, T)
    if newest_only:
        states, targets = states[:, -1:], targets[:, -1:]
    is_known = (targets != 0) & (history[:, -states.shape[1] :, None] != 0)
    row, place, _ = is_known.nonzero(as_tuple=True)
    return states[row, place], targets[is_known]
