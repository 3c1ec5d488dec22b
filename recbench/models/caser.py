"""Caser: convolutions over the last few items as over an image (Tang & Wang, WSDM 2018).

The vectors of the newest W items, one below the other, are an image of W rows. Horizontal filters as wide as
the image and of every height look for what several items have in common, and the best match of each counts;
vertical filters are weighted sums of the rows. A layer makes of both what the next item needs, and beside it
stands the user's vector.

A filter that slides over a window also slides over the history, so here it does so once for all positions of
a history, and each window takes its maximum: the numbers are those of the windows one by one. Items missing
from the first windows are rows of zeros. What differs from the authors' code: vertical filters have no bias
(nor has Eq. 6 of the paper); user vectors start at zero, so that a stranger has the zero vector; the loss is
an argument, and so is whether candidates have vectors of their own. Where they share the table of the input,
both halves of W' in Eq. 10 are that table, so the two parts of the state are added, and the bias is left out.
B users, L history, W window, D width, T targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
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

ACTIVATIONS = {"identity": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh}


class Caser(DotScorer):
    """Horizontal and vertical convolutions, and the user (Tang & Wang, WSDM 2018).

    Args:
        dim: width of user and item vectors.
        window: newest items that are looked at; L of the paper.
        num_targets: next items that each position learns; T of the paper.
        num_horizontal: horizontal filters of each height from 1 to `window`.
        num_vertical: vertical filters.
        dropout: on what the filters found.
        embedding_dropout: on the item vectors of the window.
        forget_rate: chance that a training sample does not know its user.
        activation: of the fully connected layer; horizontal filters have a ReLU.
        is_tied: whether candidates have the vectors of the window's items, or a table of their own.
        loss: how states are pulled towards their next items; softmax over the catalogue when None.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding",
        "WSDM",
        2018,
        "https://arxiv.org/abs/1809.07426",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        window: int = 5,
        num_targets: int = 1,
        num_horizontal: int = 16,
        num_vertical: int = 4,
        dropout: float = 0.5,
        embedding_dropout: float = 0.0,
        forget_rate: float = 0.0,
        activation: Literal["identity", "relu", "tanh"] = "relu",
        is_tied: bool = False,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim, window=window, num_targets=num_targets)
        at_least(1, num_horizontal=num_horizontal, num_vertical=num_vertical)
        if num_targets > 1 and recipe.samples == "prefixes":
            raise ValueError(f"a prefix has one next item: num_targets {num_targets} needs samples positions")
        for rate in (dropout, embedding_dropout, forget_rate):
            check_rate(rate)
        self.dim, self.window, self.num_targets = dim, window, num_targets
        self.num_horizontal, self.num_vertical = num_horizontal, num_vertical
        self.dropout, self.embedding_dropout, self.forget_rate = dropout, embedding_dropout, forget_rate
        self.activation, self.is_tied = activation, is_tied
        self.criterion = loss or FullSoftmax()

    def build(self, catalog: Catalog) -> None:
        """Item and user tables, filters, the layer above them, and the candidates' table."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        self.items.apply(initialise)
        self.candidates = self.items
        if not self.is_tied:  # W' and, in the last column, b' of Eq. 10
            self.candidates = nn.Embedding(catalog.num_items + 1, 2 * self.dim + 1, padding_idx=0)
            self.candidates.apply(initialise)
            nn.init.zeros_(self.candidates.weight[:, -1])
        self.users = UserTable(catalog.num_users, self.dim, forget_rate=self.forget_rate)
        self.input_dropout, self.output_dropout = Dropout(self.embedding_dropout), Dropout(self.dropout)
        heights = range(1, self.window + 1)
        self.horizontal = nn.ModuleList(nn.Conv1d(self.dim, self.num_horizontal, h) for h in heights)
        self.vertical = nn.Linear(self.window, self.num_vertical, bias=False)
        found = self.num_horizontal * self.window + self.num_vertical * self.dim
        self.project = nn.Sequential(nn.Linear(found, self.dim), ACTIVATIONS[self.activation]())

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every position, or of a prefix the newest, learns its next items."""
        states = self._states(batch.users, batch.history)  # (B, L, D) tied, (B, L, 2 D + 1) otherwise
        return window_loss(
            self.criterion,
            states,
            batch,
            self.candidates.weight,
            num_targets=self.num_targets,
            newest_only=self.recipe.samples == "prefixes",
        )

    def encode(self, batch: SequenceBatch) -> Tensor:
        """What meets a candidate's vector after the newest item."""
        return self._states(batch.users, batch.history[:, -self.window :])[:, -1]

    def item_vectors(self) -> Tensor:
        """The candidates' table."""
        return self.candidates.weight

    def _states(self, users: Tensor, history: Tensor) -> Tensor:
        x = self.input_dropout(self.items(history))
        found = torch.cat([self._horizontal(x), self._vertical(x)], dim=-1)
        state: Tensor = self.project(self.output_dropout(found))  # z of Eq. 9
        user: Tensor = self.users(users)[:, None]
        if self.is_tied:
            return state + user
        return torch.cat([state, user.expand_as(state), torch.ones_like(state[..., :1])], dim=-1)

    def _horizontal(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, W num_horizontal): each filter's best match in each window (Eq. 3 to 5)."""
        rows = F.pad(x.transpose(1, 2), (self.window - 1, 0))  # (B, D, W - 1 + L)
        best = [
            F.max_pool1d(F.relu(filters(rows)), self.window - height + 1, stride=1)
            for height, filters in enumerate(self.horizontal, start=1)
        ]
        return torch.cat(best, dim=1).transpose(1, 2)

    def _vertical(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D num_vertical): weighted sums of each window's rows (Eq. 6 and 7)."""
        out: Tensor = self.vertical(trailing(x, self.window)).flatten(2)
        return out
