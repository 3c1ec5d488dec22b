"""Rows of vectors moved along their length. B users, L positions, D width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rolled(x: Tensor, by: Tensor) -> Tensor:
    """(B, L, D) -> each row (B,) places further right; what leaves at one end enters at the other.

    With it a recurrence, which must start at item 1, starts at the left of rows that are padded there.
    """
    length = x.shape[1]
    comes_from = (torch.arange(length, device=x.device) - by[:, None]) % length
    return x.gather(1, comes_from[..., None].expand_as(x))
