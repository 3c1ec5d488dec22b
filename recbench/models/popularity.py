"""Popularity: recommend what most people took. The floor under every table."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from recbench.models.base import Paper, Recipe, Scorer, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData


class Popularity(Scorer):
    """Score of an item = its training interactions, the same for everyone."""

    paper: ClassVar[Paper] = Paper(
        "Performance of recommender algorithms on top-N recommendation tasks",
        "RecSys",
        2010,
        "https://doi.org/10.1145/1864708.1864721",
    )
    counts: Tensor

    def __init__(self) -> None:
        super().__init__(Recipe())

    def build(self, catalog: Catalog) -> None:
        """A count per item."""
        self.register_buffer("counts", torch.zeros(catalog.num_items + 1))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Count once."""

        def count() -> None:
            self.counts.copy_(torch.from_numpy(data.catalog.popularity))

        yield Stage("count", self, data, solve=count)

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """The same counts in every row."""
        if items is not None:
            return self.counts[items]
        return self.counts.repeat(len(batch), 1)
