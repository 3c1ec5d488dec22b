"""One evaluation loop for every method: batches -> target ranks -> metrics with intervals.

U users.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from recbench import latency
from recbench.data.profile import LENGTH_GROUPS, length_group
from recbench.metrics import KEYS, Ranks, bootstrap_means, interval, means, per_user
from recbench.results import Estimate, Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from recbench.data.module import InteractionData, Split, Users
    from recbench.models.base import Recommender

FEW_USERS = 30  # of a group: below, its figures say little


class Evaluation(NamedTuple):
    """Who was ranked where, and how long it took.

    Args:
        users: (U,) user indices.
        ranks: of their targets.
        seconds: wall time of the loop.
        num_unreachable: targets too far away to be candidates; each is a miss. None where distance does not
            matter.
        usage: what the requests took beyond computing, as `Recommender.usage` says it.
    """

    users: NDArray[np.int64]
    ranks: Ranks
    seconds: float
    num_unreachable: int | None = None
    usage: Mapping[str, int] = MappingProxyType({})

    def notes(self) -> tuple[str, ...]:
        """What the ranks do not say of themselves."""
        found = []
        if self.num_unreachable:
            share = self.num_unreachable / len(self.users)
            found.append(f"{share:.1%} of the targets are out of reach and count as misses")
        listed = int(np.isfinite(self.ranks.rank).sum())
        if 0 < listed < len(self.users) - (self.num_unreachable or 0):
            found.append(f"{listed / len(self.users):.1%} of the targets are in the list that is ranked")
        return tuple(found)


class Group(NamedTuple):
    """The metrics of some users, and whether they are too few to say much."""

    num_users: int
    metrics: dict[str, Estimate]
    is_small: bool


def evaluate(
    model: Recommender, data: InteractionData, *, split: Split = "test", users: Users = "known"
) -> Evaluation:
    """Rank the target of every user that has one among all candidates; memory is flat in the number of users.

    Args:
        model: a trained method.
        data: whose protocol says what the targets and the candidates are.
        split: which targets.
        users: those who trained, or those held out.
    """
    device = next(iter(model.state_dict().values())).device
    model.eval()
    model.watched(data)
    who, rank, ties, num_unreachable = [], [], [], None
    before = model.usage()
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in data.targets(split, users):
            found = model.target_ranks(batch.to(device)).numpy()
            who.append(batch.users.numpy())
            rank.append(found.rank)
            ties.append(found.ties)
            if batch.allowed is not None:
                is_near = batch.allowed.gather(1, batch.target[:, None])
                num_unreachable = (num_unreachable or 0) + int((~is_near).sum())
    seconds = time.perf_counter() - start
    usage = model.usage() - before
    everyone = np.concatenate(who) if who else np.empty(0, np.int64)
    assert len(np.unique(everyone)) == len(everyone) == len(data.evaluated(split, users)), (
        "every user counts once"
    )
    if not who:
        return Evaluation(everyone, Ranks(np.empty(0), np.empty(0, np.int64)), seconds)
    ranks = Ranks(np.concatenate(rank), np.concatenate(ties))
    return Evaluation(everyone, ranks, seconds, num_unreachable, usage)


def estimates(ranks: Ranks) -> dict[str, Estimate]:
    """Every metric with its 95 % bootstrap interval over users."""
    values = means(ranks)
    low, high = interval(bootstrap_means(per_user(ranks)))
    bounds = zip(np.asarray(low).tolist(), np.asarray(high).tolist(), strict=True)
    return {
        key: Estimate(value=values[key], low=lo, high=hi) for key, (lo, hi) in zip(KEYS, bounds, strict=True)
    }


def of_lengths(ranks: Ranks, lengths: NDArray[np.int64]) -> dict[str, Group]:
    """Metrics by length of the whole history: short, medium, long, as far as there are users.

    Only ranks and lengths are needed, so the groups of an old record need no rerun.

    Args:
        ranks: (U,) of the users' targets.
        lengths: (U,) interactions of the same users, all splits together.
    """
    member = length_group(lengths)
    found = {}
    for number, name in enumerate(LENGTH_GROUPS):
        rows = np.flatnonzero(member == number)
        if len(rows):
            metrics = estimates(Ranks(ranks.rank[rows], ranks.ties[rows]))
            found[name] = Group(len(rows), metrics, is_small=len(rows) < FEW_USERS)
    return found


def request_latency(
    model: Recommender,
    data: InteractionData,
    *,
    k: int = 10,
    num_calls: int = 300,
    split: Callable[[float], Mapping[str, float]] | None = None,
) -> dict[str, Latency]:
    """Time of `recommend` for one user at a time, over different users, by the side that spends it.

    Args:
        model: a trained method.
        data: whose users ask.
        k: items they ask for.
        num_calls: requests that are timed.
        split: how the milliseconds of the request before divide; as the method says unless given.
    """
    device = next(iter(model.state_dict().values())).device
    everyone = data.users("known")
    chosen = np.random.default_rng(0).choice(everyone, size=num_calls)
    requests = [data.request(chosen[i : i + 1]).to(device) for i in range(num_calls)]
    model.eval()
    with torch.inference_mode():
        return latency.measure_sides(
            lambda i: model.recommend(requests[i], k), split or model.split_ms, num_calls=num_calls
        )
