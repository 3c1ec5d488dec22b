"""LightGCN: vectors smoothed over the graph of who took what (He et al., SIGIR 2020).

Users and items have a vector each, the only weights. Every layer replaces a node's vector by the weighted sum
of its neighbours'; the mean of the layers meets in an inner product. The graph has the training interactions
of those who train and nothing else.

At a request the last hop is taken anew, for everybody alike: a user is attached to the items of the history
at hand, while item layers stay those of the training graph. Who trained and shows just that history gets the
vector that training has (as long as it is no longer than what a model is shown), newer items enter as any
neighbour does, and a stranger is a user whose own vector is zero. Vectors of users begin at zero, not in a
normal draw, so that this is what strangers keep. Whoever did train brings a vector that has seen all of
their training items, even where a lagged history no longer shows them.

What differs from the authors' code: a batch is of users with all their items, not of single pairs; the L2
penalty of negatives is its expectation. The `lightgcn_paper` preset has their BPR, which needs hundreds of
epochs; the strong one learns a user's items at once by a softmax over the catalogue. B users, L history, D
width, K layers, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import DotScorer, Paper, Recipe, Stage, at_least
from recbench.nn.bags import BagSoftmax, bag_loss, distinct, training_bag
from recbench.nn.graph import InteractionGraph
from recbench.nn.losses import Loss  # noqa: TC001 - the command line reads the annotation
from recbench.nn.users import UserTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData


class LightGCN(DotScorer):
    """Graph convolution without weights (He et al., SIGIR 2020).

    Args:
        dim: width of user and item vectors.
        num_layers: propagations K.
        l2: penalty on the unpropagated vectors of a batch's users, items and negatives (Eq. 15).
        loss: how users are pulled towards their items; softmax over the catalogue when None.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
        "SIGIR",
        2020,
        "https://arxiv.org/abs/2002.02126",
    )
    final: Tensor  # (N + 1, D) mean of an item's layers
    outgoing: Tensor  # (N + 1, D) what an item adds to the layers of a user of degree 1

    def __init__(
        self,
        *,
        dim: int = 64,
        num_layers: int = 3,
        l2: float = 0.0,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim, num_layers=num_layers)
        if not l2 >= 0:
            raise ValueError(f"l2 must be 0 or more, got {l2:g}")
        self.dim, self.num_layers, self.l2 = dim, num_layers, l2
        self.criterion = loss or BagSoftmax()
        self.graph: InteractionGraph | None = None

    def build(self, catalog: Catalog) -> None:
        """The vectors, an empty graph, and the items' layers as requests need them."""
        self.users = UserTable(catalog.num_users, self.dim)
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        nn.init.normal_(self.items.weight[1:], std=0.1)  # as the authors' code
        self.graph = InteractionGraph(catalog.num_users, catalog.num_items)
        self.register_buffer("final", torch.zeros(catalog.num_items + 1, self.dim))
        self.register_buffer("outgoing", torch.zeros(catalog.num_items + 1, self.dim))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """The graph is made of what may be trained on."""
        sequences = data.train_sequences()
        self._graph.fill(np.repeat(data.users("known"), sequences.lengths), sequences.items)
        yield Stage("train", self, data, self.recipe)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation, for which the items' layers are made once."""
        super().train(mode)
        if not mode and self.graph is not None and self.graph.num_edges:
            self._refresh()
        return self

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every item of a user is a positive, whatever its place."""
        bag = training_bag(batch)
        num_users = self._graph.num_users
        mean = self._graph.layers_mean(self._nodes(), self.num_layers)
        loss = bag_loss(self.criterion, mean[batch.users], bag, mean[num_users:])
        if self.l2:
            loss = loss + self.l2 * self._penalty(batch.users, bag)
        return loss

    def encode(self, batch: SequenceBatch) -> Tensor:
        """(B, D): the mean of the user's layers, attached to the items of the history."""
        bag = distinct(batch.history)
        degree = (bag != 0).sum(1, keepdim=True).clamp_min(1)
        heard = F.embedding_bag(bag, self.outgoing, mode="sum", padding_idx=0) / degree.sqrt()
        own: Tensor = self.users(batch.users)
        return (own + heard) / (self.num_layers + 1)

    def item_vectors(self) -> Tensor:
        """The mean of the items' layers; of length 1 where the loss compares by cosine."""
        return self.criterion.compared(self.final)

    @property
    def _graph(self) -> InteractionGraph:
        assert self.graph is not None
        return self.graph

    def _nodes(self) -> Tensor:
        """(U + N + 1, D)."""
        return torch.cat([self.users.table.weight, self.items.weight])

    def _refresh(self) -> None:
        """Layers 0..K of the items, and 0..K-1 over the root of their degree: a user's 1..K in one sum."""
        graph = self._graph
        with torch.no_grad():
            below = graph.layers_sum(self._nodes(), self.num_layers - 1)[graph.num_users :]
            degree = graph.degree[graph.num_users :, None]
            self.outgoing.copy_(torch.where(degree > 0, below * degree.rsqrt(), 0))
            mean = graph.layers_mean(self._nodes(), self.num_layers)[graph.num_users :]
            self.final.copy_(mean)

    def _penalty(self, users: Tensor, bag: Tensor) -> Tensor:
        """Half the squared length of user, item and, in expectation, a uniform negative, mean over pairs."""
        size = (bag != 0).sum(1)
        own = self.users.table(users).square().sum(1) @ size.float()
        taken = self.items(bag).square().sum()
        negative = self.items.weight.square().sum() / (len(self.items.weight) - 1)
        penalty: Tensor = ((own + taken) / size.sum() + negative) / 2
        return penalty
