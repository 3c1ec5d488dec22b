"""One list out of several (rank fusion, Cormack et al., SIGIR 2009; L3Rec Sec. 3.4).

B users, q lists of n items each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Fusion = Literal["count", "rrf", "weighted"]
_RANK_STEP = 1e-6  # what a place in the best list counts among equals: less than any two sums differ by


def fuse(items: Tensor, weights: Tensor, *, how: Fusion, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    """(B, q n) different items, best first and 0 where fewer, and their scores, -inf for none.

    An item's score is the sum, over the lists that have it, of 1 (`count`), of 1 / (damping + rank) (`rrf`),
    or of that times the list's weight (`weighted`). Among equals the one that some list ranks higher leads.

    Args:
        items: (B, q, n), best first, 0 where a list is shorter; no item twice in a list.
        weights: (B, q) of the lists; a list of weight 0 has no say in any of the ways.
        how: which sum.
        damping: the k of 1 / (k + rank), ranks from 1.
    """
    num_users, num_lists, length = items.shape
    rank = torch.arange(1, length + 1, device=items.device, dtype=torch.float64)
    counts = ((items != 0) & (weights > 0)[..., None]).double()
    said = counts if how == "count" else counts / (damping + rank)
    if how == "weighted":
        said = said * weights[..., None]
    flat, order = items.masked_fill(counts == 0, 0).flatten(1).sort(dim=1, stable=True)
    said = said.flatten(1).gather(1, order)
    place = rank.expand(num_users, num_lists, length).flatten(1).gather(1, order)
    is_first = torch.ones_like(flat, dtype=torch.bool)
    is_first[:, 1:] = flat[:, 1:] != flat[:, :-1]
    group = is_first.cumsum(1) - 1
    total = torch.zeros_like(said).scatter_add(1, group, said)
    best = torch.full_like(said, length + 1).scatter_reduce(1, group, place, "amin")
    item = torch.zeros_like(flat).scatter(1, group, flat)
    score = (total - _RANK_STEP * best).masked_fill(item == 0, -torch.inf)
    score, order = score.sort(dim=1, descending=True, stable=True)
    return item.gather(1, order), score
