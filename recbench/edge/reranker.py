"""Reranker: a brain that puts a cloud's list into an order of its own, and says how far the two disagree.

B users, C candidates.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from recbench.edge import lists
from recbench.edge.brain import Brain
from recbench.edge.messages import Candidates
from recbench.nn.list_fusion import ListFusion, inconsistency, mix
from recbench.nn.own_history import listwise, own_moments, tuned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.edge.messages import Question, Reply
    from recbench.models.base import Scorer


class OwnSteps(NamedTuple):
    """How a device learns from its user's history before it scores a list.

    Args:
        num_steps: of gradient descent; 0 for none.
        num_targets: newest items of the history that are learnt.
        lr: step size.
    """

    num_steps: int = 0
    num_targets: int = 3
    lr: float = 0.01


NO_STEPS = OwnSteps()


class Reranker(Brain):
    """Mixes the cloud's scores of a list with a model's own.

    Args:
        model: the device's.
        num_items: of the catalogue.
        num_listed: how many candidates are asked for.
        version: of the catalogue's indices.
        fusion: how the two become one.
        alpha: share of the cloud, where the fusion knows one.
        own_steps: how the model is tuned to the user first.
    """

    expects: ClassVar[type[Reply]] = Candidates

    def __init__(
        self,
        model: Scorer,
        *,
        num_items: int,
        num_listed: int,
        version: str,
        fusion: ListFusion,
        alpha: float,
        own_steps: OwnSteps = NO_STEPS,
    ) -> None:
        self.model, self.num_items, self.num_listed, self.version = model, num_items, num_listed, version
        self.fusion, self.alpha, self.own_steps = fusion, alpha, own_steps

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:
        """With the history as it is."""
        return lists.histories(batch, names, num_items=self.num_listed)

    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        """Whether each is a list of known items."""
        return lists.are_usable(replies, num_items=self.num_items)

    def alone(self, batch: SequenceBatch) -> Scorer:  # noqa: ARG002
        """The model, which scores everything."""
        return self.model

    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> lists.ScoredList:
        """The list, by what cloud and device say of it."""
        items, theirs = lists.stacked(replies, batch.history.device)
        mixed = mix(self.fusion, items, theirs, self._own(batch, items), alpha=self.alpha)
        return lists.ScoredList(items, mixed, self.num_items)

    def need(self, batch: SequenceBatch, replies: Sequence[Any]) -> NDArray[np.float64]:
        """(B,) how many places an item of the list moves on average when the device sorts it."""
        items, _ = lists.stacked(replies, batch.history.device)
        return inconsistency(items, self._own(batch, items)).cpu().numpy()

    def _own(self, batch: SequenceBatch, items: Tensor) -> Tensor:
        """(B, C) the device's scores; where it learns from its user first, one device after the other."""
        if not self.own_steps.num_steps:
            return self.model.score(batch, items)
        rows = []
        for i in range(len(batch)):
            one, listed = batch.rows(slice(i, i + 1)), items[i : i + 1]
            steps, lr = self.own_steps.num_steps, self.own_steps.lr
            past = own_moments(one, self.own_steps.num_targets)
            loss = partial(self._own_loss, past, listed.clone())
            with tuned(self.model, loss, num_steps=steps if len(past) else 0, lr=lr):
                rows.append(self.model.score(one, listed))
        return torch.cat(rows)

    def _own_loss(self, past: SequenceBatch, listed: Tensor) -> Tensor:
        """How badly the user's own next items stand out from the list."""
        others = listed.expand(len(past), -1)
        is_candidate = (others != 0) & (others != past.target[:, None])
        items = torch.cat([past.target[:, None], others], dim=1)
        real = torch.cat([torch.ones_like(past.target[:, None], dtype=torch.bool), is_candidate], dim=1)
        return listwise(self.model.score(past, items), real)
