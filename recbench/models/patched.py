"""PatchedModel: a model of histories with places for small nets of a user's own, which a device learns.

`Following` is how a cloud learns from all of them (MoMoDistill; Yao et al., KDD 2021, Sec. 4.2). B users, U
users in all, L history, D width, K numbers of a vector, M moments of a user, C candidates, N items.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.edge.parameters import Personal
from recbench.models.base import Paper, Recipe, Scorer
from recbench.nn.losses import other_items
from recbench.nn.meta_patch import MetaPatch, VectorEncoder, descend, inserted
from recbench.nn.own_history import newest_moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.models.causal import CausalScorer
    from recbench.nn.own_history import Moments

_USERS_PER_BLOCK = 128  # whose scores of the catalogue are held at once
PAPER = Paper(
    "Device-Cloud Collaborative Learning for Recommendation", "KDD", 2021, "https://arxiv.org/abs/2104.06624"
)


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
        """(M B, L) items -> (M B, D) newest states, with the patches of B users or with none."""
        if vector is None:
            return self.base.newest_state(history)
        with inserted(self.places(), self.patches(vector)):
            return self.base.newest_state(history)

    def logits(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        """(B, N + 1), or (B, C) of the (B, C) `items`: what the base's loss takes the softmax of."""
        table = self.base.item_vectors()
        state = self.base.criterion.compared(state) / self.base.criterion.temperature
        return state @ table.T if items is None else torch.einsum("bd,bcd->bc", state, table[items])

    def score(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Inner products with all items, or cosines."""
        state = self.state(batch.history, None if weights is None else weights["vector"])
        return self.base.criterion.compared(state) @ self.base.item_vectors().T

    def learn(self, history: Tensor, *, num_moments: int, num_steps: int, lr: float, l2: float) -> Tensor:
        """(B, L) items -> (B, K): the vectors that the devices come to from zero, each by its own items."""
        with torch.inference_mode(mode=False):  # what was made in that mode cannot be learnt from
            model = copy.deepcopy(self) if self.patches.origin.is_inference() else self
            found = []
            for some in torch.split(history.clone(), _USERS_PER_BLOCK):
                moments = newest_moments(some, num_moments)
                start = torch.zeros(len(some), self.patches.num_numbers, device=history.device)
                loss = functools.partial(model.local_loss, moments=moments)
                found.append(descend(start, loss, num_steps=num_steps, lr=lr, l2=l2))
            return torch.cat(found)

    def local_loss(self, vector: Tensor, *, moments: Moments) -> Tensor:
        """Cross entropy of the users' next items with their (B, K) vectors, summed."""
        if not len(moments.target):
            return vector.sum() * 0
        logits = self.logits(self.state(moments.history, vector))[:, 1:]
        target = (moments.target - 1).clamp_min(0)
        return F.cross_entropy(logits, target, reduction="none")[moments.is_real].sum()


class Following(Scorer):
    """One step in the cloud: learn the next item, and what the patched model of its user says of others.

    Args:
        local: the model, part of which is trained in place.
        encoder: of vectors, likewise.
        vectors: (U, K) of all devices.
        teacher: the model as it was when the devices learnt.
        weight: lambda, of the divergence.
        num_listed: drawn items over which it is measured.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = PAPER
    vectors: Tensor

    def __init__(
        self,
        local: PatchedModel,
        encoder: VectorEncoder,
        vectors: Tensor,
        *,
        teacher: PatchedModel,
        weight: float,
        num_listed: int,
        recipe: Recipe,
    ) -> None:
        super().__init__(recipe)
        self.local, self.encoder = local, encoder
        self.register_buffer("vectors", vectors, persistent=False)
        self.weight, self.num_listed = weight, num_listed
        self._teacher = (teacher,)  # not a part of what is trained and kept

    def build(self, catalog: Catalog) -> None:
        """Everything is there."""

    @abstractmethod
    def vector(self, users: Tensor) -> Tensor | None:
        """(B, K) of the student's patches; None for none."""

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Cross entropy plus lambda times the divergence of the student from the patched teacher."""
        local, base = self.local, self.local.base
        state = local.state(batch.history, self.vector(batch.users))
        loss = base.criterion(state, batch.target, base.items.weight)
        if not self.weight:
            return loss
        others = other_items(batch.target, self.num_listed, num_items=len(base.items.weight) - 1)
        items = torch.cat([batch.target[:, None], others], dim=1)
        teacher = self._teacher[0].to(state.device)
        with torch.no_grad():
            wanted = teacher.logits(teacher.state(batch.history, self.vectors[batch.users]), items)
        found = local.logits(state, items).log_softmax(1)
        return loss + self.weight * F.kl_div(
            found, wanted.log_softmax(1), reduction="batchmean", log_target=True
        )

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """What is validated: the student."""
        vector = self.vector(batch.users)
        scores = self.local.score(batch, None if vector is None else {"vector": vector})
        return scores if items is None else scores.gather(1, items)


class FollowPatched(Following):
    """First step: the model without patches learns."""

    def vector(self, users: Tensor) -> Tensor | None:  # noqa: ARG002
        """None."""
        return None


class FollowEncoded(Following):
    """Second step: basis and encoder learn, upon the model."""

    def vector(self, users: Tensor) -> Tensor | None:
        """What the encoder makes of the users' own."""
        found: Tensor = self.encoder(self.vectors[users])
        return found
