"""LastItem: a first-order Markov chain of counts, what followed the last item in order of how often.

On Amazon-style data a rule over the last one or two items beats many published models, so it stands in every
table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.sparse import coo_matrix

from recbench.models.base import Paper, Recipe, Scorer, Stage, at_least
from recbench.nn.neighbours import NeighbourTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData, Sequences


class LastItem(Scorer):
    """Transition counts from the last item, then popularity for everything that never followed it.

    Args:
        num_followers: followers kept per item.
    """

    paper: ClassVar[Paper] = Paper(
        "Evaluation of session-based recommendation algorithms",
        "UMUAI",
        2018,
        "https://arxiv.org/abs/1803.09587",
    )
    popularity: Tensor

    def __init__(self, *, num_followers: int = 500) -> None:
        super().__init__(Recipe())
        at_least(1, num_followers=num_followers)
        self.num_followers = num_followers

    def build(self, catalog: Catalog) -> None:
        """Follower table and the popularity that breaks ties."""
        self.followers = NeighbourTable(catalog.num_items, num_neighbours=self.num_followers)
        self.register_buffer("popularity", torch.zeros(catalog.num_items + 1))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Count once."""

        def count() -> None:
            popularity = torch.from_numpy(data.catalog.popularity).float()
            self.popularity.copy_(popularity / (popularity.max() + 1))  # below 1: less than any transition
            self.followers.fill(transitions(data.train_sequences(), len(popularity)))

        yield Stage("count", self, data, solve=count)

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """Transitions from the last item, plus popularity as the fraction."""
        last = batch.history[:, -1:]
        scores = self.followers.sum_over(last, (last != 0).float()) + self.popularity
        return scores if items is None else scores.gather(1, items)


def transitions(sequences: Sequences, size: int) -> coo_matrix:
    """(size, size) counts of item b directly after item a, within users."""
    starts_inside = np.ones(len(sequences.items), dtype=bool)
    starts_inside[sequences.offsets[:-1][sequences.lengths > 0]] = False
    after = np.flatnonzero(starts_inside)
    pairs = (sequences.items[after - 1], sequences.items[after])
    return coo_matrix((np.ones(len(after), dtype=np.float32), pairs), shape=(size, size)).tocsr()
