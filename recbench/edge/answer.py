"""Answer: what devices recommend, and on whose word. B users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from recbench.nn.ranking import Ranking, TargetRanks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.batch import SequenceBatch
    from recbench.edge.brain import Ranker
    from recbench.edge.messages import Reply

Source = Literal["cloud", "cache", "device"]


class Part(NamedTuple):
    """Some users of a batch by their rows in it, and who ranks for them."""

    rows: NDArray[np.int64]
    batch: SequenceBatch
    ranker: Ranker


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the devices of B users have to say, and how they came to it.

    Args:
        parts: users by who ranks for them.
        source: (B,) whose word the ranking rests on.
        lag_items: (B,) interactions since that word was asked for; -1 for the device's own.
        wait_ms: (B,) how long the device waited, on its link's clock: modelled in process, real over HTTP;
            never more than the deadline, and no computing in it that was not modelled.
        asked: (B,) whether the cloud was asked.
        replies: (B,) that word, None for the device's own.
    """

    parts: tuple[Part, ...]
    source: tuple[Source, ...]
    lag_items: NDArray[np.int64]
    wait_ms: NDArray[np.float64]
    asked: NDArray[np.bool_]
    replies: tuple[Reply | None, ...]

    def recommend(self, k: int) -> Ranking:
        """The best `k` items for every user; item 0 and -inf where fewer may be shown."""
        found = [part.ranker.recommend(part.batch, k) for part in self.parts]
        if len(found) == 1:
            return found[0]
        width = max(ranking.items.shape[1] for ranking in found)
        items = found[0].items.new_zeros(len(self.source), width)
        scores = found[0].scores.new_full((len(self.source), width), -torch.inf)
        for part, ranking in zip(self.parts, found, strict=True):
            rows = torch.from_numpy(part.rows)
            items[rows, : ranking.items.shape[1]] = ranking.items
            scores[rows, : ranking.items.shape[1]] = ranking.scores.to(scores.dtype)
        return Ranking(items, scores)

    def target_ranks(self) -> TargetRanks:
        """Where each user's target comes."""
        found = [part.ranker.target_ranks(part.batch) for part in self.parts]
        if len(found) == 1:
            return found[0]
        order = np.argsort(np.concatenate([part.rows for part in self.parts]))
        rank, ties = (torch.cat(column)[torch.from_numpy(order)] for column in zip(*found, strict=True))
        return TargetRanks(rank, ties)


def take(batch: SequenceBatch, rows: NDArray[np.int64]) -> SequenceBatch:
    """Some users of a batch; the batch itself where these are all of them in order.

    Args:
        batch: B users.
        rows: which, ascending.
    """
    if len(rows) == len(batch):
        return batch
    return batch.rows(torch.from_numpy(rows).to(batch.users.device))
