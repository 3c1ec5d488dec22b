"""HGN: hierarchical gating of the last few items (Ma et al., KDD 2019).

A gate made of the user's and an item's features lets pass what matters of each item; a second gate weighs
the items of the window against each other; what passes is pooled. The score adds three inner products with a
candidate: of the user, of the pooled window, and of each item of the window as it is, ungated.

What differs from the authors' code: every position of a history is trained at once from its own window; items
missing from the first windows are left out of every sum instead of being an item with a vector; user vectors
start at zero, so that a stranger has the zero vector; candidates have no bias (the paper has none either).
The loss is an argument, and so is whether input and output share the item table. In the paper they do not,
for the product of a window's item with a candidate says who follows whom, which is not symmetric; where they
do, which learns faster from few interactions, a square matrix that starts as the identity stands between
them, and makes it so. B users, L history, W window, D width, T targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from recbench.models.base import DotScorer, Paper, Recipe, at_least
from recbench.models.causal import initialise
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.losses import FullSoftmax, Loss
from recbench.nn.users import UserTable
from recbench.nn.windows import trailing, window_loss

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog


class HGN(DotScorer):
    """Feature gate, instance gate, item-item product (Ma et al., KDD 2019).

    Args:
        dim: width of user and item vectors.
        window: newest items that are looked at; L of the paper.
        num_targets: next items that each position learns; T of the paper.
        embedding_dropout: on the item vectors of the window.
        forget_rate: chance that a training sample does not know its user.
        is_tied: whether candidates have the vectors of the window's items, behind a matrix, or their own.
        loss: how states are pulled towards their next items; softmax over the catalogue when None.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Hierarchical Gating Networks for Sequential Recommendation",
        "KDD",
        2019,
        "https://arxiv.org/abs/1906.09217",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        window: int = 5,
        num_targets: int = 1,
        embedding_dropout: float = 0.5,
        forget_rate: float = 0.0,
        is_tied: bool = False,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim, window=window, num_targets=num_targets)
        if num_targets > 1 and recipe.samples == "prefixes":
            raise ValueError(f"a prefix has one next item: num_targets {num_targets} needs samples positions")
        check_rate(embedding_dropout)
        check_rate(forget_rate)
        self.dim, self.window, self.num_targets = dim, window, num_targets
        self.embedding_dropout, self.forget_rate = embedding_dropout, forget_rate
        self.is_tied = is_tied
        self.criterion = loss or FullSoftmax()

    def build(self, catalog: Catalog) -> None:
        """Item and user tables, the two gates, and the candidates' table where they have their own."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        self.items.apply(initialise)
        self.candidates = self.items
        self.project: nn.Module = nn.Identity()
        if self.is_tied:
            self.project = matrix = nn.Linear(self.dim, self.dim, bias=False)
            nn.init.eye_(matrix.weight)
        else:
            self.candidates = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
            self.candidates.apply(initialise)
        self.users = UserTable(catalog.num_users, self.dim, forget_rate=self.forget_rate)
        self.input_dropout = Dropout(self.embedding_dropout)
        self.feature_gate_item = nn.Linear(self.dim, self.dim)
        self.feature_gate_user = nn.Linear(self.dim, self.dim, bias=False)
        self.instance_gate_item = nn.Linear(self.dim, 1, bias=False)
        self.instance_gate_user = nn.Linear(self.dim, self.window, bias=False)  # a weight per place

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every position, or of a prefix the newest, learns its next items."""
        states = self._states(batch.users, batch.history)  # (B, L, D)
        return window_loss(
            self.criterion,
            states,
            batch,
            self.candidates.weight,
            num_targets=self.num_targets,
            newest_only=self.recipe.samples == "prefixes",
        )

    def encode(self, batch: SequenceBatch) -> Tensor:
        """(B, D): user, pooled window and sum of the window."""
        return self._states(batch.users, batch.history[:, -self.window :])[:, -1]

    def item_vectors(self) -> Tensor:
        """The candidates' table."""
        return self.candidates.weight

    def _states(self, users: Tensor, history: Tensor) -> Tensor:
        """(B, L, D) what meets a candidate's vector after each position."""
        x, user = self.input_dropout(self.items(history)), self.users(users)
        gate = torch.sigmoid(self.feature_gate_item(x) + self.feature_gate_user(user)[:, None])
        gated = x * gate  # the same in every window: its gate looks at user and item alone
        alike = trailing(self.instance_gate_item(gated)[..., 0], self.window)  # (B, L, W)
        strength = torch.sigmoid(alike + self.instance_gate_user(user)[:, None])
        strength = strength * (trailing(history, self.window) != 0)
        pooled = torch.einsum("blw,bldw->bld", strength, trailing(gated, self.window))
        pooled = pooled / strength.sum(-1, keepdim=True).clamp_min(1e-6)  # nothing real: nothing pooled
        out: Tensor = self.project(user[:, None] + pooled + trailing(x, self.window).sum(-1))
        return out
