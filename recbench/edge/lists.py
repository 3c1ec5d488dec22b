"""What a device does with lists of candidates: ask with the history, check what came, rank what is in it.

B users, L history, C candidates, N items, S seen items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbench.edge.messages import Candidates, History
from recbench.nn.ranking import Ranking, TargetRanks, ranks_in_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.edge.messages import Question, Reply


def histories(batch: SequenceBatch, names: Sequence[str], *, num_items: int) -> list[Question]:
    """A question per user that shows the history as it is.

    Args:
        batch: who asks.
        names: (B,) what the users are called outside.
        num_items: how many candidates are wanted.
    """
    items = batch.history.cpu().numpy().astype(np.int32)
    starts = (items == 0).sum(1).tolist()
    repeats = batch.seen is None
    return [
        History(name, row[start:], num_items, repeats)
        for name, row, start in zip(names, items, starts, strict=True)
    ]


def are_usable(replies: Sequence[Reply], *, num_items: int) -> list[bool]:
    """Whether each is a list of at least one item, all of them known, different, and scored with numbers."""
    lists = [reply for reply in replies if isinstance(reply, Candidates)]
    if len(lists) == len(replies) and _are_sound(lists, num_items):  # as a rule, and quickly
        return [True] * len(lists)
    return [isinstance(reply, Candidates) and _are_sound([reply], num_items) for reply in replies]


def _are_sound(lists: list[Candidates], num_items: int) -> bool:
    scores = np.concatenate([found.scores for found in lists])
    return are_known([found.items for found in lists], num_items) and bool(np.isfinite(scores).all())


def are_known(lists: Sequence[NDArray[np.int32]], num_items: int) -> bool:
    """Whether every list has an item at least, all of 1 to `num_items` and none of them twice."""
    lengths = np.array([len(items) for items in lists])
    items = np.concatenate(lists)
    if not lengths.all() or items.min() < 1 or items.max() > num_items:
        return False
    pairs = np.sort(np.repeat(np.arange(len(lists)) * (num_items + 1), lengths) + items)
    return bool((pairs[1:] != pairs[:-1]).all())


def stacked(replies: Sequence[Reply], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(B, C) items, 0-padded on the right, and their scores, -inf there."""
    lists = [reply for reply in replies if isinstance(reply, Candidates)]
    items = padded_items([found.items for found in lists])
    scores = np.full(items.shape, -np.inf, dtype=np.float32)
    scores[items.numpy() != 0] = np.concatenate([found.scores for found in lists])
    return items.to(device), torch.from_numpy(scores).to(device)


def padded_items(lists: Sequence[NDArray[np.int32]]) -> Tensor:
    """(B, C) the items of each list, 0-padded on the right."""
    lengths = np.array([len(items) for items in lists])
    inside = np.arange(lengths.max()) < lengths[:, None]
    items = np.zeros(inside.shape, dtype=np.int64)
    items[inside] = np.concatenate(lists)
    return torch.from_numpy(items)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredList:
    """Candidates and what they score; items outside the list are not recommended.

    Args:
        items: (B, C) different items, 0-padded.
        scores: (B, C) finite where there is an item.
        num_items: N, of the catalogue.
    """

    items: Tensor
    scores: Tensor
    num_items: int

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` that may be shown; item 0 and -inf where there are fewer."""
        may_be = may_be_shown(self.items, batch, num_items=self.num_items)
        best = self.scores.masked_fill(~may_be, -torch.inf).topk(min(k, self.items.shape[1]), dim=1)
        items = torch.where(best.values.isneginf(), 0, self.items.gather(1, best.indices))
        missing = (0, min(k, self.num_items) - items.shape[1])
        pad = torch.nn.functional.pad
        return Ranking(pad(items, missing), pad(best.values, missing, value=-torch.inf))

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Places in the list, the mean over ties; a target that is not in it is not listed."""
        may_be = may_be_shown(self.items, batch, num_items=self.num_items, keep_target=True)
        return ranks_in_lists(self.items.masked_fill(~may_be, 0), self.scores, batch.target)


def may_be_shown(items: Tensor, batch: SequenceBatch, *, num_items: int, keep_target: bool = False) -> Tensor:
    """(B, C) whether each of (B, C) items is real, near enough, and not seen.

    Args:
        items: 0 where there is none.
        batch: who asks.
        num_items: N, of the catalogue.
        keep_target: whether the target may have been seen before.
    """
    shown = items != 0
    if batch.allowed is not None:
        shown &= batch.allowed.gather(1, items)
    if batch.seen is not None:
        seen = torch.zeros(len(batch), num_items + 1, dtype=torch.bool, device=items.device)
        seen.scatter_(1, batch.seen, value=True)
        if keep_target:
            seen.scatter_(1, batch.target[:, None], value=False)
        shown &= ~seen.gather(1, items)
    return shown
