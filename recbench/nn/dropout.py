"""Dropout whose coin flips are bytes: a Bernoulli draw per element costs more than the layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = 256


def check_rate(rate: float) -> None:
    """Refuse what is no dropout rate.

    Raises:
        ValueError: `rate` is not in 0..1, or 1, which would leave nothing.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate must lie in 0..1, 1 excluded, got {rate}")


class Dropout(nn.Module):
    """Zero each element with probability `rate` (on a CPU a multiple of 1/256) and scale the rest up.

    One 64-bit draw of torch's generator decides eight elements, so the result follows torch's seed.

    Args:
        rate: share of zeros, 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_rate(rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity in evaluation."""
        if not self.training or self.rate == 0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.rate)
        threshold = min(max(round(self.rate * _LEVELS), 1), _LEVELS - 1)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
        return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - threshold))
