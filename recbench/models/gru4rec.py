"""GRU4Rec: a recurrent net over the history (Hidasi et al., ICLR 2016).

The state after each item predicts the next one. Follows the later paper of the first author (Hidasi &
Karatzoglou, CIKM 2018) in sharing the item table between input and output; the loss is an argument. Histories
are right-aligned, so padding comes first and the state is held at zero until the first real item. B users, L
history, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.causal import CausalScorer
from recbench.nn.alignment import rolled
from recbench.nn.attention import is_unpadded
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.losses import Loss  # noqa: TC001 - the command line reads the annotation

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog


class GRU4Rec(CausalScorer):
    """Gated recurrent units over the history (Hidasi et al., ICLR 2016).

    Args:
        dim: width of item embeddings.
        hidden: width of the recurrent state.
        num_layers: recurrent layers.
        dropout: between recurrent layers and on the output.
        embedding_dropout: on the item embeddings.
        max_len: most recent items that are looked at; 0 for all that the data shows.
        loss: how hidden states are pulled towards their next items.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Session-based Recommendations with Recurrent Neural Networks",
        "ICLR",
        2016,
        "https://arxiv.org/abs/1511.06939",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        hidden: int = 128,
        num_layers: int = 1,
        dropout: float = 0.5,
        embedding_dropout: float = 0.5,
        max_len: int = 0,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe)
        at_least(1, dim=dim, hidden=hidden, num_layers=num_layers)
        at_least(0, max_len=max_len)
        check_rate(dropout)
        check_rate(embedding_dropout)
        self.dim, self.hidden, self.num_layers = dim, hidden, num_layers
        self.dropout, self.embedding_dropout = dropout, embedding_dropout
        self.max_len = max_len

    def build(self, catalog: Catalog) -> None:
        """Item table, recurrent layers, and the map from state to item space."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0].zero_()
        self.input_dropout = Dropout(self.embedding_dropout)
        self.gru = nn.GRU(
            self.dim,
            self.hidden,
            self.num_layers,
            batch_first=True,
            dropout=self.dropout if self.num_layers > 1 else 0.0,
        )
        self.output_dropout = Dropout(self.dropout)
        self.project = nn.Linear(self.hidden, self.dim)

    def hidden_states(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, L', D) states of the newest, each of which has seen those up to its own."""
        history = history[:, -self.max_len :]  # -0 is everything
        x = self.input_dropout(self.items(history))
        if not is_unpadded(history):
            return self._padded_states(x, (history != 0).sum(1))
        out: Tensor = self.project(self.output_dropout(self.gru(x)[0]))
        return out

    def _padded_states(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Where some are shorter: shifted left for the recurrence, so it starts at item 1, and back."""
        length = x.shape[1]
        pad = length - lengths
        states = self.gru(rolled(x, -pad))[0]
        # zero before item 1: an empty history must not depend on how much padding stands for it
        is_item = torch.arange(length, device=x.device) >= pad[:, None]
        states = rolled(states, pad) * is_item[..., None]
        out: Tensor = self.project(self.output_dropout(states))
        return out
