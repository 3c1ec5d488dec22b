"""PatchedModel: a model of histories with places for small nets of a user's own, which a device learns.

B users, L history, D width, K numbers of a vector, M moments of a user, C candidates, N items.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.edge.parameters import Personal
from recbench.nn.meta_patch import MetaPatch, descend, inserted, newest_moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.models.causal import CausalScorer


class PatchedModel(Personal):
    """A base model with a place for patches after each of its blocks.

    Args:
        base: built; a model of blocks, or one that ends in `project`.
        hidden: inner width of a patch.
        rank: numbers of a vector; 0 for all weights.
    """

    def __init__(self, base: CausalScorer, *, hidden: int, rank: int) -> None:
        super().__init__()
        self.base = base
        num_places = len(self.places())
        self.patches = MetaPatch(base.items.embedding_dim, num_places=num_places, hidden=hidden, rank=rank)

    def places(self) -> list[nn.Module]:
        """What is patched."""
        if isinstance(blocks := getattr(self.base, "blocks", None), nn.ModuleList):
            return list(blocks)
        if isinstance(project := getattr(self.base, "project", None), nn.Module):
            return [project]
        raise ValueError(
            f"base must be made of blocks or end in a projection, got {type(self.base).__name__}"
        )

    def slots(self) -> dict[str, tuple[int, ...]]:
        """The vector."""
        return {"vector": (self.patches.num_numbers,)}

    def state(self, history: Tensor, vector: Tensor | None) -> Tensor:
        """(B, L) items -> (B, D) newest state, with the users' patches or with none."""
        if vector is None:
            return self.base.newest_state(history)
        with inserted(self.places(), self.patches(vector)):
            return self.base.newest_state(history)

    def logits(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        """(B, N + 1), or (B, C) of the (B, C) `items`: what the base's loss takes the softmax of."""
        criterion, table = self.base.criterion, self.base.items.weight
        if criterion.cosine:
            state, table = F.normalize(state, dim=-1), F.normalize(table, dim=-1)
        state = state / criterion.temperature
        return state @ table.T if items is None else torch.einsum("bd,bcd->bc", state, table[items])

    def score(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Inner products with all items, or cosines."""
        state = self.state(batch.history, None if weights is None else weights["vector"])
        if self.base.criterion.cosine:
            state = F.normalize(state, dim=-1)
        return state @ self.base.item_vectors().T

    def learn(self, history: Tensor, *, num_moments: int, num_steps: int, lr: float, l2: float) -> Tensor:
        """(B, L) items -> (B, K): the vectors that the devices come to from zero, each by its own items."""
        with torch.inference_mode(mode=False):  # what was made in that mode cannot be learnt from
            moments = newest_moments(history.clone(), num_moments)
            model = copy.deepcopy(self) if self.patches.origin.is_inference() else self
            target = (moments.target - 1).clamp_min(0)

            def loss(vector: Tensor) -> Tensor:
                rows = vector.repeat(len(target) // len(vector), 1)
                logits = model.logits(model.state(moments.history, rows))[:, 1:]
                return F.cross_entropy(logits, target, reduction="none")[moments.is_real].sum()

            start = torch.zeros(len(history), self.patches.num_numbers, device=history.device)
            if not len(target):
                return start
            return descend(start, loss, num_steps=num_steps, lr=lr, l2=l2)
