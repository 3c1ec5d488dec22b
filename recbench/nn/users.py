"""A learned vector per user, and none for a stranger.

B users of a batch, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from recbench.nn.dropout import check_rate

if TYPE_CHECKING:
    from torch import Tensor


class UserTable(nn.Module):
    """Vectors that start at zero, so that whoever never trains (held out, or too short) stays there.

    Adam moves no row whose gradient has always been zero, and zero decays to zero, so no list of strangers is
    needed.

    Args:
        num_users: users, indexed from 0.
        dim: width D.
        forget_rate: chance that a user of a training batch is taken for a stranger, so that the rest of the
            model learns to do without the vector.
    """

    def __init__(self, num_users: int, dim: int, *, forget_rate: float = 0.0) -> None:
        super().__init__()
        check_rate(forget_rate)
        self.table = nn.Embedding(num_users, dim)
        nn.init.zeros_(self.table.weight)
        self.forget_rate = forget_rate

    def forward(self, users: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        vectors: Tensor = self.table(users)
        if not self.training or self.forget_rate == 0:
            return vectors
        return vectors * (torch.rand(len(users), 1, device=users.device) >= self.forget_rate)
