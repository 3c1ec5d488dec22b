"""Overlapping communities of users around a few anchors (LOCA, Choi et al., WSDM 2021; L3Rec Sec. 3.2).

U users, A candidate anchors, q anchors, D width of a user's vector.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

if TYPE_CHECKING:
    from torch import Tensor


def kernel(anchors: Tensor, others: Tensor, *, bandwidth: float) -> Tensor:
    """(A, D), (U, D) -> (A, U) Epanechnikov weights .75 (1 - (d / h)^2), 0 where the distance d is h or more.

    The distance is the angle between two vectors over a right angle, from 0 to 2: the scaled form that LOCA's
    code has and L3Rec's text names, not the unscaled one of its Eq. 1, in which a bandwidth above 1 would
    change nothing.
    """
    cosine = F.normalize(anchors, dim=1) @ F.normalize(others, dim=1).T
    distance = cosine.clamp_(-1, 1).arccos_().mul_(2 / math.pi)
    return distance.div_(bandwidth).square_().neg_().add_(1).clamp_(min=0).mul_(0.75)


def choose_anchors(reaches: Tensor, num_anchors: int) -> Tensor:
    """(q,) rows of (A, U) `reaches`, each the one that reaches most users whom none before it does.

    Once everybody is reached a new round begins among the rows left. Without that the first row would be
    taken again and again, for no row reaches anybody new.

    Raises:
        ValueError: more anchors are wanted than there are candidates.
    """
    if num_anchors > len(reaches):
        raise ValueError(
            f"{num_anchors} anchors asked of {len(reaches)} candidates; lower num_locals or anchor_step"
        )
    table = reaches.float()
    uncovered = torch.ones(table.shape[1], device=table.device)
    is_free = torch.ones(len(table), dtype=torch.bool, device=table.device)
    chosen = []
    for _ in range(num_anchors):
        gain = table @ uncovered
        if gain[is_free].max() == 0:
            uncovered.fill_(1)
            gain = table @ uncovered
        best = int(gain.masked_fill(~is_free, -1).argmax())
        chosen.append(best)
        is_free[best] = False
        uncovered = uncovered * (1 - table[best])
    return torch.tensor(chosen, device=table.device)


def random_like(members: Tensor, generator: torch.Generator) -> Tensor:
    """(q, U) communities as large, of users drawn at random: the control of what locality is worth."""
    order = torch.rand(members.shape, generator=generator).argsort(1).argsort(1)
    return order < members.sum(1, keepdim=True)
