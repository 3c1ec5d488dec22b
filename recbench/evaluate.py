"""One evaluation loop for every method: batches -> target ranks -> metrics with intervals.

U users.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from recbench import latency
from recbench.metrics import KEYS, Ranks, bootstrap_means, interval, means, per_user
from recbench.results import Estimate, Latency

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.module import InteractionData, Split, Users
    from recbench.models.base import Recommender


class Evaluation(NamedTuple):
    """Who was ranked where, and how long it took.

    Args:
        users: (U,) user indices.
        ranks: of their targets.
        seconds: wall time of the loop.
    """

    users: NDArray[np.int64]
    ranks: Ranks
    seconds: float


def evaluate(
    model: Recommender, data: InteractionData, *, split: Split = "test", users: Users = "known"
) -> Evaluation:
    """Rank the target of every user among all items; memory is flat in the number of users."""
    device = next(iter(model.state_dict().values())).device
    model.eval()
    who, rank, ties = [], [], []
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in data.targets(split, users):
            found = model.target_ranks(batch.to(device)).numpy()
            who.append(batch.users.numpy())
            rank.append(found.rank)
            ties.append(found.ties)
    seconds = time.perf_counter() - start
    everyone = np.concatenate(who) if who else np.empty(0, np.int64)
    assert len(np.unique(everyone)) == len(everyone) == len(data.users(users)), "every user counts once"
    if not who:
        return Evaluation(everyone, Ranks(np.empty(0), np.empty(0, np.int64)), seconds)
    return Evaluation(everyone, Ranks(np.concatenate(rank), np.concatenate(ties)), seconds)


def estimates(ranks: Ranks) -> dict[str, Estimate]:
    """Every metric with its 95 % bootstrap interval over users."""
    values = means(ranks)
    low, high = interval(bootstrap_means(per_user(ranks)))
    bounds = zip(np.asarray(low).tolist(), np.asarray(high).tolist(), strict=True)
    return {
        key: Estimate(value=values[key], low=lo, high=hi) for key, (lo, hi) in zip(KEYS, bounds, strict=True)
    }


def request_latency(
    model: Recommender, data: InteractionData, *, k: int = 10, num_calls: int = 300
) -> Latency:
    """Time of `recommend` for one user at a time, over different users."""
    device = next(iter(model.state_dict().values())).device
    everyone = data.users("known")
    chosen = np.random.default_rng(0).choice(everyone, size=num_calls)
    requests = [data.request(chosen[i : i + 1]).to(device) for i in range(num_calls)]
    model.eval()
    with torch.inference_mode():
        return latency.measure(lambda i: model.recommend(requests[i], k), num_calls=num_calls)
