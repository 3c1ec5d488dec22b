"""A cloud's list and a device's scores of what is in it: what comes of both, and how far they disagree.

LSC4Rec (Lv et al., KDD 2025), Eq. 9 to 11, and the five ways of its code. B users, C candidates in the
cloud's order, 0-padded on the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from torch import Tensor

ListFusion = Literal[
    "minmax", "linear_rank_1", "linear_rank_2", "linear_rank_3", "linear_rank_4", "linear_rank_5"
]
GRID = tuple(step / 10 for step in range(11))  # shares of the cloud that are tried on validation


def minmax(scores: Tensor) -> Tensor:
    """(B, C) each row scaled to 0..1 (Eq. 9); 0 where all are equal, or where a score is not finite."""
    is_real = scores.isfinite()
    low = scores.masked_fill(~is_real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~is_real, -torch.inf).amax(1, keepdim=True)
    scaled = (scores - low) / (high - low).clamp(min=torch.finfo(scores.dtype).tiny)
    return scaled.masked_fill(~is_real, 0)


def mix(how: ListFusion, items: Tensor, theirs: Tensor, own: Tensor, *, alpha: float) -> Tensor:
    """(B, C) finite scores that the list is served by.

    `minmax` is the paper's: alpha of the cloud's scores and 1 - alpha of the device's, after scaling (Eq.
    10). The others are those of its code, which knows no alpha and takes the j-th place of the list, from 0,
    as -(j + 1) / C, and sigma, the logistic function of the device's score: 1 is the list as it came; 2 adds
    sigma - .5 where that is further than .4 from 0, the paper's "filtering"; 3 adds it everywhere; 4 adds it
    twice; 5 is the device's order.

    Args:
        how: one of these.
        items: (B, C) different items.
        theirs: (B, C) the cloud's scores.
        own: (B, C) the device's.
        alpha: share of the cloud; read by `minmax` alone.
    """
    if how == "minmax":
        device = minmax(own.masked_fill(items == 0, -torch.inf))
        return alpha * minmax(theirs) + (1 - alpha) * device
    length = items.shape[1]
    place = -torch.arange(1, length + 1, device=items.device) / length
    said = own.sigmoid() - 0.5
    match how:
        case "linear_rank_1":
            return place.expand_as(own)
        case "linear_rank_2":
            return place + 0.5 + said.where(said.abs() > 0.4, 0)
        case "linear_rank_3":
            return place + said
        case "linear_rank_4":
            return place + 2 * said
        case "linear_rank_5":
            return said


def shares(how: ListFusion) -> tuple[float, ...]:
    """The alphas that may be chosen from; a single one for what knows none."""
    return GRID if how == "minmax" else (0.0,)


def check_fusion(how: str) -> None:
    """Refuse unknown ways.

    Raises:
        ValueError: it is one.
    """
    if how not in get_args(ListFusion):
        raise ValueError(f"fusion must be one of {', '.join(get_args(ListFusion))}, got {how!r}")


def inconsistency(items: Tensor, own: Tensor) -> Tensor:
    """(B,) how many places an item moves on average when the device sorts the list (Eq. 11); 0 for no list.

    What scores the same keeps the cloud's order.

    Args:
        items: (B, C) the list.
        own: (B, C) the device's scores.
    """
    is_real = items != 0
    own = own.masked_fill(~is_real, -torch.inf)
    place = torch.arange(items.shape[1], device=items.device)
    # counted instead of sorted: (B, C, C) is little for a list, and no graph format has a stable sort
    is_above = own[:, None, :] > own[:, :, None]
    is_above |= (own[:, None, :] == own[:, :, None]) & (place < place[:, None])
    moved = (is_above.sum(2) - place).abs()
    return (moved * is_real).sum(1).double() / is_real.sum(1).clamp(min=1)
