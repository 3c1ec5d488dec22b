"""Where a target stands in a row of scores, by counting; and the running metrics of validation.

B users, N items, S seen items. Score tables have N + 1 columns; column 0 is padding and never counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torchmetrics import Metric

from recbench.errors import DivergedError
from recbench.metrics import KEYS, Ranks, per_user

if TYPE_CHECKING:
    from torch import Tensor


class Ranking(NamedTuple):
    """The answer to a request: (B, k) items, best first, and scores; item 0 where fewer than k exist."""

    items: Tensor
    scores: Tensor


class TargetRanks(NamedTuple):
    """(B,) 1-based `rank` of each target, mean over ties, inf if not listed; (B,) `ties`, itself included."""

    rank: Tensor
    ties: Tensor

    def numpy(self) -> Ranks:
        """The same ranks as the metrics read them."""
        return Ranks(self.rank.double().cpu().numpy(), self.ties.long().cpu().numpy())


def best_of(scores: Tensor, k: int, *, seen: Tensor | None = None, allowed: Tensor | None = None) -> Ranking:
    """The best `k` items; item 0 and a score of -inf where fewer may be shown.

    Args:
        scores: (B, N + 1), finite; column 0 is overwritten.
        k: how many.
        seen: (B, S) items that must not be recommended, 0-padded.
        allowed: (B, N + 1) the only items that may be; None for all.
    """
    scores[:, 0] = -torch.inf
    if seen is not None:
        scores = scores.scatter(1, seen, -torch.inf)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    best = scores.topk(min(k, scores.shape[1] - 1), dim=1)
    return Ranking(torch.where(best.values.isneginf(), 0, best.indices), best.values)


def rank_by_counting(
    scores: Tensor, target: Tensor, seen: Tensor | None = None, allowed: Tensor | None = None
) -> TargetRanks:
    """Rank of each target among all items that may be recommended: the items above it plus half its ties.

    Nothing is written into `scores`: what must not count is counted apart and taken off, a gather over S
    columns instead of a pass over N. The comparison is written as floats because that is the form in which
    the sum over a row is vectorised on CPUs.

    Args:
        scores: (B, N + 1), finite.
        target: (B,) items 1..N.
        seen: (B, S) items that must not be recommended, 0-padded; the target itself always may be.
        allowed: (B, N + 1) the only items that may be recommended; a target that is none of them is not
            listed. None for all items.

    Raises:
        DivergedError: a score is NaN or infinite.
    """
    _refuse_non_finite(scores)
    own = scores.gather(1, target[:, None])  # (B, 1)
    flags = torch.empty_like(scores, dtype=torch.float32)  # counts exactly to 2^24, bfloat16 only to 256
    above = _num_candidates(torch.gt(scores, own, out=flags), allowed)
    at_least = _num_candidates(torch.ge(scores, own, out=flags), allowed)
    barred, counts = _barred(target, seen)
    if allowed is not None:
        counts = counts & allowed.gather(1, barred)  # what is no candidate was not counted
    barred_scores = scores.gather(1, barred)
    above = above - ((barred_scores > own) & counts).sum(1)
    ties = at_least - ((barred_scores >= own) & counts).sum(1) - above
    rank = above + (ties + 1) / 2
    if allowed is not None:
        is_listed = allowed.gather(1, target[:, None])[:, 0]
        rank, ties = torch.where(is_listed, rank, torch.inf), torch.where(is_listed, ties, 1)
    return TargetRanks(rank, ties.long())


def ranks_in_lists(items: Tensor, scores: Tensor, target: Tensor) -> TargetRanks:
    """Rank of each target in the list that its user was given, mean over ties; inf where it is not listed.

    Args:
        items: (B, n) listed items, 0 where a list is shorter.
        scores: (B, n) what they were listed with, finite where there is an item.
        target: (B,) items 1..N.

    Raises:
        DivergedError: a score of an item is NaN or infinite.
    """
    real = items != 0
    _refuse_non_finite(scores.masked_fill(~real, 0))
    is_target = (items == target[:, None]) & real
    own = scores.masked_fill(~is_target, -torch.inf).amax(1, keepdim=True)
    above, ties = ((scores > own) & real).sum(1), ((scores == own) & real).sum(1)
    is_listed = is_target.any(1)
    rank = torch.where(is_listed, above + (ties + 1) / 2, torch.inf)
    return TargetRanks(rank, torch.where(is_listed, ties, 1))


def _num_candidates(flags: Tensor, allowed: Tensor | None) -> Tensor:
    """(B,) flags set among the `allowed` items; overwrites the flags."""
    return (flags if allowed is None else flags.mul_(allowed)).sum(1)


def _barred(target: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, S + 1) items that are no candidates, padding among them, and which of these entries count once."""
    barred = torch.zeros_like(target)[:, None]
    if seen is not None:
        barred = torch.cat([barred, seen], dim=1).sort(dim=1).values
    first = torch.ones_like(barred, dtype=torch.bool)
    first[:, 1:] = barred[:, 1:] != barred[:, :-1]
    return barred, first & (barred != target[:, None])


def _refuse_non_finite(scores: Tensor) -> None:
    """A row's sum is finite only if its scores are, and costs one vectorised pass."""
    if not scores.sum(1).isfinite().all() and not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise DivergedError(
            f"{bad} of {scores.numel()} scores are NaN or infinite; a ranking of them means nothing: "
            "lower the learning rate or clip the gradient"
        )


class RankMetrics(Metric):
    """HR, NDCG, Precision and MRR over all users seen since the last reset; sums, so any number of processes.

    Args:
        keys: which metrics, such as `hr@10`.
    """

    full_state_update = False
    higher_is_better = True
    totals: Tensor
    num_users: Tensor

    def __init__(self, keys: tuple[str, ...] = KEYS) -> None:
        super().__init__()
        self.keys = keys
        self.add_state("totals", torch.zeros(len(keys), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ranks: TargetRanks) -> None:
        """Count the users of one batch."""
        values = per_user(ranks.numpy(), self.keys)
        self.totals += torch.from_numpy(np.asarray(values.sum(axis=0))).to(self.totals.device)
        self.num_users += len(values)

    def compute(self) -> dict[str, Tensor]:
        """Means over the users counted."""
        return dict(zip(self.keys, self.totals / self.num_users, strict=True))
