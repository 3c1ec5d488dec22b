"""What a cached vector of the cloud is still worth, and what newer items make of it (SCaLRec).

The paper (Zheng et al., arXiv 2601.22543) names the two parts, an estimate of reliability and a calibration
on the device; how they are made here is ours. All vectors are of length 1, so that scales of cloud and device
do not matter. B users, D width of the item table, M items of the window, A width of the attention, P probes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

Use = Literal[
    "calibrated",
    "always_calibrated",
    "uncalibrated",
    "interpolated",
    "moving_average",
    "stale",
    "none",
]
ESTIMATED = ("calibrated", "uncalibrated")  # have a reliability
CHANGED = ("calibrated", "always_calibrated")  # have another vector than what came
AGED = (*ESTIMATED, "always_calibrated", "interpolated")  # weigh an old vector otherwise than a fresh one
NUM_FEATURES = 9
_EVIDENCE, _RELIABILITY, _GATE = 32, 16, 16  # widths inside
_S_PER_DAY, _MAX_DAYS = 86_400.0, 3650.0


class Situation(NamedTuple):
    """What a device has at a request.

    Args:
        semantic: (B, D) the cloud's vector, of length 1, or 0.
        state: (B, D) the encoder's, of length 1.
        window: (B, M, D) the newest items, of length 1, right-aligned; 0 at padding.
        real: (B, M) True at items.
        lag: (B,) interactions since the cloud's vector was asked for.
        age: (B, 2) log(1 + interactions) and log(1 + days) since then.
    """

    semantic: Tensor
    state: Tensor
    window: Tensor
    real: Tensor
    lag: Tensor
    age: Tensor

    @property
    def num_new(self) -> Tensor:
        """(B, M) whether each place of the window holds an item that the cloud's vector does not know."""
        width = self.real.shape[1]
        from_newest = width - 1 - torch.arange(width, device=self.lag.device)
        return (from_newest < self.lag[:, None]) & self.real


def situation(
    semantic: Tensor,
    state: Tensor,
    newest: Tensor,
    items: nn.Embedding,
    *,
    lag: Tensor,
    seconds: Tensor,
) -> Situation:
    """What a device has, from what it holds.

    Args:
        semantic: (B, D) the cloud's vector, of length 1, or 0.
        state: (B, D) the encoder's, of any length.
        newest: (B, M) items, right-aligned.
        items: the item table.
        lag: (B,) interactions since the cloud's vector was asked for.
        seconds: (B,) since then.
    """
    real = newest != 0
    window = F.normalize(items(newest), dim=-1) * real[..., None]
    return Situation(semantic, F.normalize(state, dim=-1), window, real, lag, ages(lag, seconds))


class Calibrated(NamedTuple):
    """What becomes of it.

    Args:
        vector: (B, D) of length 1, or 0.
        share: (B, 1) of that vector in the fused one.
        logit: (B,) of the reliability, as it is estimated.
        reliability: (B,) probability that the old vector ranks the next item no worse than a fresh one; 1 of
            a fresh one.
    """

    vector: Tensor
    share: Tensor
    logit: Tensor
    reliability: Tensor

    def fused(self, state: Tensor) -> Tensor:
        """(B, D) both vectors by their shares, as long as the encoder's (B, D) `state`."""
        mixed = self.share * self.vector + (1 - self.share) * F.normalize(state, dim=-1)
        long: Tensor = mixed * state.norm(dim=-1, keepdim=True)
        return long


def possible_lag(history: Tensor, lag: Tensor, *, num_left: int) -> Tensor:
    """(B,) `lag`, or as much of it as leaves `num_left` items of (B, L) `history`, if there are so many."""
    most: Tensor = (history != 0).sum(1) - num_left
    return torch.minimum(lag, most.clamp_min(0))


def ages(lag: Tensor, seconds: Tensor) -> Tensor:
    """(B, 2) log(1 + interactions), log(1 + days).

    Args:
        lag: (B,) interactions.
        seconds: (B,) at most ten years count: what was asked before the first item has no date.
    """
    days = (seconds.double() / _S_PER_DAY).clamp(0, _MAX_DAYS)
    return torch.stack([lag.double().log1p(), days.log1p()], dim=1).float()


def places(scores: Tensor) -> Tensor:
    """(B, P) scores -> the place of each in its row, 0 for the lowest; of equal ones the first is lower."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """(B,) rank correlation of two rows of (B, P) scores."""
    num = first.shape[1]
    if num < 2:
        return torch.zeros(len(first), device=first.device)
    shifts = (places(first) - places(second)).double()
    return (1 - 6 * shifts.square().sum(1) / (num * (num**2 - 1))).float()


def features(now: Situation, evidence: Tensor, probes: Tensor) -> Tensor:
    """(B, 9) what speaks for and against the old vector.

    Its cosines with the evidence, the state and, mean and least, the items of the window; its distance from
    the evidence; the variance over the window; the rank correlation of its scores of the probes with the
    state's; the two ages. Without items, 0.

    Args:
        now: the situation.
        evidence: (B, D) what the newest items say, of length 1.
        probes: (P, D) vectors of items.
    """
    semantic = now.semantic.detach()
    each = torch.einsum("bd,bmd->bm", semantic, now.window)
    count = now.real.sum(1).clamp_min(1)
    mean = each.sum(1) / count  # padding is 0
    least = each.masked_fill(~now.real, torch.inf).amin(1).nan_to_num(posinf=0.0)
    variance = ((each - mean[:, None]).square() * now.real).sum(1) / count
    agreement = spearman(semantic @ probes.T, now.state @ probes.T)
    found = [
        (semantic * evidence).sum(1),
        (semantic * now.state).sum(1),
        mean,
        least,
        (semantic - evidence).norm(dim=1),
        variance,
        agreement,
    ]
    return torch.cat([torch.stack(found, dim=1), now.age], dim=1)


class Evidence(nn.Module):
    """The newest items as one vector, weighted by what they are and how new.

    Args:
        dim: D.
        num_recent: M at most.
    """

    def __init__(self, dim: int, num_recent: int) -> None:
        super().__init__()
        self.inside = nn.Linear(dim, _EVIDENCE, bias=False)
        self.query = nn.Linear(_EVIDENCE, 1, bias=False)
        self.recency = nn.Parameter(torch.linspace(-1, 0, num_recent))

    def forward(self, window: Tensor, real: Tensor) -> Tensor:
        """(B, D) of length 1, or 0 where there are no items."""
        logits = self.query(torch.tanh(self.inside(window)))[..., 0] + self.recency[-window.shape[1] :]
        weights = logits.masked_fill(~real, -1e9).softmax(1)  # finite: a row may have no item
        return F.normalize(torch.einsum("bm,bmd->bd", weights, window), dim=-1)


class Attention(nn.Module):
    """The old vector asks the newest items and the state what to change; at first, nothing.

    Args:
        dim: D.
        num_recent: M at most.
        hidden: A.
    """

    def __init__(self, dim: int, num_recent: int, *, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, hidden, bias=False)
        self.key = nn.Linear(dim, hidden, bias=False)
        self.value = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)
        self.places = nn.Parameter(0.02 * torch.randn(num_recent + 1, dim))  # the state's is the last
        self.is_new = nn.Parameter(torch.zeros(dim))
        nn.init.zeros_(self.out.weight)

    def forward(self, now: Situation) -> Tensor:
        """(B, D) what to add."""
        window = F.layer_norm(now.window, now.window.shape[-1:]) + now.num_new[..., None] * self.is_new
        state = F.layer_norm(now.state, now.state.shape[-1:])[:, None]
        given = torch.cat([window, state], dim=1)
        given = given + self.places[-given.shape[1] :]
        seen = F.pad(now.real, (0, 1), value=True)[:, None]  # the state is always there
        query = self.query(F.layer_norm(now.semantic, now.semantic.shape[-1:]))[:, None]
        mixed = F.scaled_dot_product_attention(query, self.key(given), self.value(given), attn_mask=seen)
        change: Tensor = self.out(mixed[:, 0])
        return change


class Calibration(nn.Module):
    """All that a device does with a vector of its cloud before it ranks.

    A vector that was asked for at this very request is left as it is whatever is used: its reliability is 1,
    and its share is one number for all.

    Args:
        dim: D.
        num_recent: M, items that are looked at.
        hidden: A.
        use: `calibrated` weighs and changes an old vector by its reliability; `always_calibrated` changes it
            wholly whatever its reliability, `uncalibrated` weighs it alone; `interpolated` weighs it by its
            age alone; `moving_average` moves it towards every newer item by a learned step; `stale` takes it
            for a fresh one; `none` leaves it out.
        share: of the vector, before anything is learnt.
    """

    def __init__(self, dim: int, *, num_recent: int, hidden: int, use: Use, share: float) -> None:
        super().__init__()
        if use not in get_args(Use):
            raise ValueError(f"use must be one of {', '.join(get_args(Use))}, got {use!r}")
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {share:g}")
        self.num_recent, self.use = num_recent, use
        self.evidence = Evidence(dim, num_recent)
        self.estimate = nn.Sequential(
            nn.Linear(NUM_FEATURES, _RELIABILITY), nn.Tanh(), nn.Linear(_RELIABILITY, 1)
        )
        self.attention = Attention(dim, num_recent, hidden=hidden)
        self.gate = nn.Sequential(
            nn.Linear(3 * dim + 2, _GATE), nn.Tanh(), nn.Linear(_GATE, dim), nn.Sigmoid()
        )
        self.base_share = nn.Parameter(torch.logit(torch.tensor(share)))
        self.share_by = nn.Parameter(torch.zeros(3))  # of doubt and of the two ages
        self.keep = nn.Parameter(torch.tensor(2.0))  # logit of what a step of the moving average leaves

    def forward(self, now: Situation, probes: Tensor) -> Calibrated:
        """What the old vector becomes, what share it gets, and how reliable it was.

        Args:
            now: the situation.
            probes: (P, D) vectors of items that both vectors score.
        """
        evidence = self.evidence(now.window, now.real)
        logit = self.estimate(features(now, evidence, probes))[:, 0]
        reliability = torch.where(now.lag > 0, logit.sigmoid(), 1.0)
        doubt = self._doubt(reliability.detach(), now.lag)  # what it means is not for the ranking to change
        return Calibrated(self._vector(now, evidence, doubt), self._share(now, doubt), logit, reliability)

    def plain(self, semantic: Tensor) -> Calibrated:
        """(B, D) vectors taken for fresh ones."""
        vector = F.normalize(semantic, dim=-1)
        sure = torch.ones_like(vector[:, 0])
        return Calibrated(vector, self.base_share.sigmoid().expand(len(vector), 1), sure, sure)

    def _doubt(self, reliability: Tensor, lag: Tensor) -> Tensor:
        """(B, 1) by how much the vector is changed or loses weight."""
        if self.use in ESTIMATED:
            return (1 - reliability)[:, None]
        always = float(self.use == "always_calibrated")
        return always * (lag > 0)[:, None]

    def _vector(self, now: Situation, evidence: Tensor, doubt: Tensor) -> Tensor:
        """(B, D) of length 1: with nothing to add, and where nothing may be, the same as came."""
        vector = now.semantic
        if self.use == "moving_average":
            vector = self._averaged(now)
        elif self.use in CHANGED:
            gate = self.gate(torch.cat([now.semantic, evidence, now.state, now.age], dim=1))
            vector = vector + doubt * gate * self.attention(now)
        return F.normalize(vector, dim=-1)

    def _averaged(self, now: Situation) -> Tensor:
        """(B, D) s <- keep s + (1 - keep) x for every newer item x of the window, oldest first."""
        keep, is_new = self.keep.sigmoid(), now.num_new
        from_newest = is_new.flip(1).cumsum(1).flip(1) - 1  # of the new ones
        weights = (1 - keep) * keep ** from_newest.clamp_min(0) * is_new
        left = keep ** is_new.sum(1, keepdim=True)
        return left * now.semantic + torch.einsum("bm,bmd->bd", weights, now.window)

    def _share(self, now: Situation, doubt: Tensor) -> Tensor:
        """(B, 1), the base share of all where the vector is fresh."""
        logit = self.base_share.expand(len(doubt), 1)
        if self.use in AGED:
            logit = logit + torch.cat([doubt, now.age], dim=1) @ self.share_by[:, None]
        return logit.sigmoid()


def calibration_error(probabilities: Tensor, outcomes: Tensor, *, num_bins: int = 10) -> float:
    """Expected calibration error: mean over bins of |share that came true - mean probability|, by size.

    Args:
        probabilities: (n,) 0 to 1.
        outcomes: (n,) 0 or 1.
        num_bins: of equal width.
    """
    bins = (probabilities.double() * num_bins).long().clamp(0, num_bins - 1)
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=bins.device)
    gaps.index_add_(0, bins, outcomes.double() - probabilities.double())
    return float(gaps.abs().sum() / max(1, len(bins)))


def area_under_curve(scores: Tensor, outcomes: Tensor) -> float:
    """How often a true one scores above a false one, ties counting half; 0.5 where all are alike.

    Args:
        scores: (n,).
        outcomes: (n,) 0 or 1.
    """
    is_true = outcomes > 0.5
    good, bad = scores[is_true].double(), scores[~is_true].double().sort().values
    if not len(good) or not len(bad):
        return 0.5
    below, up_to = torch.searchsorted(bad, good), torch.searchsorted(bad, good, right=True)
    return float((below + up_to).double().mean() / (2 * len(bad)))
