"""Candidates by tag groups with a quota each (CDA4Rec, Eq. 3): exact inner products, for many users at once.

The work is a product with the whole table and a partial sort per group, whatever the users; what an index of
the kind of faiss' flat one does group by group. B users, N items, G groups, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_USERS_PER_BLOCK = 256  # a block's scores of 20,000 items take 20 MB


class Wanted(NamedTuple):
    """What one user is to be given.

    Args:
        groups: rows of the groups to take from.
        quotas: items from each, of which more may not exist.
        size: items in all; what quotas leave missing, as groups are small or overlap, comes from the rest of
            the same groups.
    """

    groups: tuple[int, ...]
    quotas: tuple[int, ...]
    size: int


class TagRetrieval(nn.Module):
    """The groups of a catalogue.

    Args:
        members: per group the ascending indices of its items.
        num_items: N.
    """

    is_member: Tensor  # (G, N + 1)

    def __init__(self, members: Sequence[NDArray[np.int64]], *, num_items: int) -> None:
        super().__init__()
        table = torch.zeros(len(members), num_items + 1, dtype=torch.bool)
        for row, items in zip(table, members, strict=True):
            row[torch.from_numpy(items)] = True
        self.register_buffer("is_member", table, persistent=False)

    def forward(self, users: Tensor, table: Tensor, wanted: Sequence[Wanted]) -> list[tuple[Tensor, Tensor]]:
        """Each user's items, best first, and their scores: `size` of them, or all that the groups have.

        Args:
            users: (B, D).
            table: (N + 1, D); row 0 is no item.
            wanted: (B,) from where and how many.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(users), _USERS_PER_BLOCK):
            block = slice(start, start + _USERS_PER_BLOCK)
            found += self._block(users[block] @ table.T, wanted[block])
        return found

    def _block(self, scores: Tensor, wanted: Sequence[Wanted]) -> list[tuple[Tensor, Tensor]]:
        quota = self._quotas(wanted)
        taken = torch.zeros_like(scores, dtype=torch.bool)
        for group in (quota > 0).any(0).nonzero()[:, 0].tolist():
            self._take(scores, quota[:, group], group, taken)
        size = torch.tensor([one.size for one in wanted], device=scores.device)
        reachable = ((quota >= 0).float() @ self.is_member.float()) > 0  # (B, N + 1)
        open_ = scores.masked_fill(~reachable | taken, -torch.inf)
        _mark_best(open_, size - taken.sum(1), taken)
        return [
            _best_first(own, which, number)
            for own, which, number in zip(scores, taken, size.tolist(), strict=True)
        ]

    def _quotas(self, wanted: Sequence[Wanted]) -> Tensor:
        """(B, G) items per group; -1 for groups that are not wanted, not even to fill up from."""
        quota = -torch.ones(len(wanted), len(self.is_member), device=self.is_member.device)
        for row, one in enumerate(wanted):
            quota[row, list(one.groups)] = torch.tensor(one.quotas, dtype=quota.dtype, device=quota.device)
        return quota

    def _take(self, scores: Tensor, quota: Tensor, group: int, taken: Tensor) -> None:
        """Mark the best of one group for the users that want some of it."""
        rows, items = (quota > 0).nonzero()[:, 0], self.is_member[group].nonzero()[:, 0]
        own = scores[rows[:, None], items]  # (b, M)
        chosen = torch.zeros_like(own, dtype=torch.bool)
        _mark_best(own, quota[rows].long(), chosen)
        taken[rows[:, None], items] |= chosen


def _mark_best(scores: Tensor, numbers: Tensor, into: Tensor) -> None:
    """Mark the best `numbers` of each row that are not -inf; of equals those of smaller indices."""
    wanted = torch.minimum(numbers, (~scores.isneginf()).sum(1)).clamp_min(0)
    ascending = _sorted(scores)
    places = (scores.shape[1] - wanted).clamp_max(scores.shape[1] - 1)
    least = ascending.gather(1, places[:, None])  # the worst that is wanted
    better = scores > least
    missing = (wanted - better.sum(1))[:, None]
    equal = (scores == least) & (missing > 0)
    if (equal.sum(1, keepdim=True) > missing).any():
        equal &= equal.cumsum(1) <= missing
    into |= (better | equal) & (wanted > 0)[:, None]


def _sorted(scores: Tensor) -> Tensor:
    """Rows in ascending order; on a processor by numpy, whose sort takes a quarter of torch's time."""
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    return torch.from_numpy(np.sort(scores.numpy(), axis=1))


def _best_first(scores: Tensor, taken: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """At most `number` of the taken items of one user, and their scores."""
    items = taken.nonzero()[:, 0]
    own = scores[items]
    order = own.argsort(descending=True, stable=True)[:number]
    return items[order], own[order]
