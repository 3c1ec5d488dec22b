"""The smallest collaborative method: a cloud lists, a device reranks, both are mixed after min-max scaling.

Kept where a process of its own can import it: the tests of two processes train it by the command line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from recbench.edge import lists
from recbench.edge.brain import Brain
from recbench.edge.cloud import Cloud, Lister
from recbench.edge.messages import Candidates, History
from recbench.models import GRU4Rec, LastItem, Popularity, SASRec
from recbench.models.base import Paper, Recipe, Stage
from recbench.models.collaborative import Boundary, Collaborative
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.messages import Question, Reply
    from recbench.models.base import Scorer

TINY = Recipe(lr=0.01, batch_size=64, max_epochs=2)


def minmax(scores: Tensor) -> Tensor:
    """(B, C) scaled to 0..1 in each row; what is not finite stays out and gets 0."""
    is_real = scores.isfinite()
    low = scores.masked_fill(~is_real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~is_real, -torch.inf).amax(1, keepdim=True)
    return ((scores - low) / (high - low).clamp(min=1e-9)).masked_fill(~is_real, 0)


class Fusion(Brain):
    """Reranks what the cloud lists."""

    expects: ClassVar[type[Reply]] = Candidates

    def __init__(self, model: Scorer, *, num_items: int, num_candidates: int, version: str) -> None:
        self.model, self.num_items, self.num_candidates = model, num_items, num_candidates
        self.version = version

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:
        return lists.histories(batch, names, num_items=self.num_candidates)

    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        return lists.are_usable(replies, num_items=self.num_items)

    def alone(self, batch: SequenceBatch) -> Scorer:  # noqa: ARG002
        return self.model

    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> lists.ScoredList:
        items, theirs = lists.stacked(replies)
        return fused(self.model, batch, items, theirs, num_items=self.num_items)

    def need(self, batch: SequenceBatch, replies: Sequence[Any]) -> NDArray[np.float64]:
        """Mean shift between the list's order and the device's own."""
        items, _ = lists.stacked(replies)
        own = self.model.score(batch, items).masked_fill(items == 0, -torch.inf)
        places = own.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (places - torch.arange(items.shape[1])).abs().double().mean(1).numpy()


def fused(
    model: Scorer, batch: SequenceBatch, items: Tensor, theirs: Tensor, *, num_items: int
) -> lists.ScoredList:
    own = model.score(batch, items).masked_fill(items == 0, -torch.inf)
    mixed = 0.5 * minmax(own) + 0.5 * minmax(theirs)
    return lists.ScoredList(items, mixed, num_items)


class Minimal(Collaborative):
    """Two methods of ours, one on each side.

    Args:
        cloud: lists candidates: LastItem or SASRec.
        device: reranks them: GRU4Rec or Popularity.
        num_candidates: how many.
        boundary: between the sides.
        recipe: of both.
    """

    paper: ClassVar[Paper] = Paper("none", "tests", 2026, "")

    def __init__(
        self,
        *,
        cloud: str = "LastItem",
        device: str = "GRU4Rec",
        num_candidates: int = 50,
        boundary: Boundary = Boundary(),
        recipe: Recipe = TINY,
    ) -> None:
        super().__init__(recipe, boundary=boundary)
        self.cloud = (
            LastItem()
            if cloud == "LastItem"
            else SASRec(dim=16, num_layers=1, num_heads=1, hidden=16, loss=FullSoftmax(), recipe=recipe)
        )
        self.device_model: Scorer = Popularity()
        if device == "GRU4Rec":
            self.device_model = GRU4Rec(dim=8, hidden=8, num_layers=1, recipe=recipe)
        self.num_candidates = num_candidates

    def build(self, catalog: Catalog) -> None:
        super().build(catalog)
        self.cloud.build(catalog)
        self.device_model.build(catalog)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        for name, model in (("cloud", self.cloud), ("device", self.device_model)):
            for stage in model.stages(data):
                yield replace(stage, name=name)

    def sides(self) -> dict[str, torch.nn.Module]:
        return {"cloud": self.cloud, "device": self.device_model}

    def cloud_side(self) -> Cloud:
        return Cloud({History: Lister(self.cloud, num_items=self.num_items, version=self.version)})

    def device_side(self) -> Fusion:
        return Fusion(
            self.device_model,
            num_items=self.num_items,
            num_candidates=min(self.num_candidates, self.num_items),
            version=self.version,
        )
