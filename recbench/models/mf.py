"""MF: a vector per user and per item, their inner product the score (BPR; Rendle et al., UAI 2009).

The paper learns that what a user took comes above what they did not, from pairs; the `mf_paper` preset is
that. The strong preset learns all items of a user at once, by a softmax over the catalogue.

What differs from the paper: negatives are drawn from all items but the positive, not from those alone that
the user did not take; a user's vector says nothing of what came after training, so a stranger, and by
`fold_in` anybody, is read off the history: the mean of its items' vectors, which is all that the rows of a
factorisation know of a new user. B users, L history, D width, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import DotScorer, Paper, Recipe, Stage, at_least
from recbench.models.causal import initialise
from recbench.nn.bags import BagSoftmax, bag_loss, distinct, training_bag
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.losses import Loss  # noqa: TC001 - the command line reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData


class MF(DotScorer):
    """Matrix factorisation (BPR; Rendle et al., UAI 2009).

    Args:
        dim: width of user and item vectors.
        embedding_dropout: on the user vectors.
        fold_in: weight, 0 to 1, of the mean of the history's item vectors beside the vector of a user who
            trained; a stranger's is 1.
        loss: how users are pulled towards their items; softmax over the catalogue when None.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "BPR: Bayesian Personalized Ranking from Implicit Feedback",
        "UAI",
        2009,
        "https://arxiv.org/abs/1205.2618",
    )
    is_trained: Tensor

    def __init__(
        self,
        *,
        dim: int = 64,
        embedding_dropout: float = 0.0,
        fold_in: float = 0.0,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim)
        check_rate(embedding_dropout)
        if not 0 <= fold_in <= 1:
            raise ValueError(f"fold_in must lie in 0..1, got {fold_in}")
        self.dim, self.embedding_dropout, self.fold_in = dim, embedding_dropout, fold_in
        self.criterion = loss or BagSoftmax()

    def build(self, catalog: Catalog) -> None:
        """Both tables, and who has a vector that means something."""
        self.users = nn.Embedding(catalog.num_users, self.dim)
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        self.user_dropout = Dropout(self.embedding_dropout)
        self.register_buffer("is_trained", torch.zeros(catalog.num_users, dtype=torch.bool))
        self.apply(initialise)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Users with two items or more are in the training windows; all others are strangers."""
        trained = data.users("known")[data.train_sequences().lengths >= 2]
        self.is_trained[torch.from_numpy(trained).to(self.is_trained.device)] = True
        yield Stage("train", self, data, self.recipe)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every item of a user is a positive, whatever its place."""
        users = self.user_dropout(self.users(batch.users))
        return bag_loss(self.criterion, users, training_bag(batch), self.items.weight)

    def encode(self, batch: SequenceBatch) -> Tensor:
        """(B, D): the user's own vector, the mean of the history's items, or some of both."""
        own = self.criterion.compared(self.users(batch.users))
        bag = distinct(batch.history)
        folded = F.embedding_bag(bag, self.item_vectors(), mode="mean", padding_idx=0)
        share = torch.where(self.is_trained[batch.users], self.fold_in, 1.0)[:, None]
        return (1 - share) * own + share * folded

    def item_vectors(self) -> Tensor:
        """The item table; rows of length 1 where the loss compares by cosine."""
        return self.criterion.compared(self.items.weight)
