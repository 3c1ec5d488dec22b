"""Hypernetwork: a net that reads a sequence and writes the weights of another net.

B users, L history, D width of what is read, H hidden width, W numbers written.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from recbench.nn.alignment import rolled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def newest_recurrent_state(gru: nn.GRU, x: Tensor, real: Tensor) -> Tensor:
    """(B, H) state after the newest item of right-aligned sequences; zero where there is none.

    Args:
        gru: one layer, batch first.
        x: (B, L, D) vectors, any at padding.
        real: (B, L) True at items, which come last.
    """
    count = real.sum(1)  # (B,)
    states = gru(rolled(x, count - x.shape[1]))[0]
    newest = (count - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[2])
    state: Tensor = states.gather(1, newest)[:, 0] * (count > 0)[:, None]
    return state


class Hypernetwork(nn.Module):
    """A recurrent net and two tanh layers make a code of a sequence, linear maps make weights of the code.

    The linear maps begin at zero, so what is written is zero until something is learnt: where it is added to
    a net's own weights, that net is at first what it was.

    Args:
        dim: width D of what is read.
        shapes: of the arrays to write, by name.
        hidden: width H of the code.
        is_frozen: leave the linear maps at a random draw instead, of standard deviation 1 / H.
    """

    def __init__(
        self, dim: int, shapes: Mapping[str, tuple[int, ...]], *, hidden: int, is_frozen: bool = False
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.gru = nn.GRU(dim, hidden, batch_first=True)
        self.code = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        # the maps of all arrays, one above the other
        self.write = nn.Linear(hidden, sum(map(math.prod, self.shapes.values())), bias=False)
        if is_frozen:
            nn.init.trunc_normal_(self.write.weight, std=1 / hidden, a=-2 / hidden, b=2 / hidden)
            self.write.requires_grad_(False)
        else:
            nn.init.zeros_(self.write.weight)

    def forward(self, x: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The arrays of every user, (B, *shape) each.

        Args:
            x: (B, L, D) vectors of the sequence, right-aligned.
            real: (B, L) True at items.
        """
        flat = self.write(self.code(newest_recurrent_state(self.gru, x, real)))  # (B, W)
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
