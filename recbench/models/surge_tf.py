"""SURGE without a target: the interest graph asked with the newest item (after Chang et al., SIGIR 2021).

SURGE reads a history anew for every candidate (`surge`), and no index of item vectors can serve that. Here
the newest item asks in the candidate's place: its attention says which nodes of the graph fit and moves the
gates of the recurrence, and a linear map of the recurrence's last state and the graph's readout is the user
vector. Full ranking is an inner product; this is the form that CDA4Rec needs on a device.

The graph joins items both ways, so only the newest state may learn, one sample per prefix; other recipes are
refused. Pooling begins above `pool_len` items: for histories of about eight, as on Amazon, nothing is pooled
and the method is attention along a graph and a GRU. What differs from the authors' code is said in `surge`.
B users, L history, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.causal import CausalScorer, check_prefixes
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.interest_graph import InterestEncoder, check_share
from recbench.nn.losses import Loss  # noqa: TC001 - the command line reads the annotation

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog


class SurgeTF(CausalScorer):
    """The interest graph of a history, asked with its newest item (after Chang et al., SIGIR 2021).

    Args:
        dim: width of item embeddings.
        hidden: width of the recurrent state.
        attention_hidden: width of the attentions' first layer; the second has half of it.
        keep_rate: share of a history's pairs of items that the graph joins, 0 excluded to 1.
        pool_len: most nodes that pooling leaves.
        dropout: on state and readout.
        embedding_dropout: on the item embeddings that are fused.
        max_len: most recent items that are looked at.
        loss: how user vectors are pulled towards their next items.
        recipe: how it is trained; its samples must be prefixes.
    """

    paper: ClassVar[Paper] = Paper(
        "Sequential Recommendation with Graph Neural Networks",
        "SIGIR",
        2021,
        "https://arxiv.org/abs/2106.14226",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        hidden: int = 64,
        attention_hidden: int = 32,
        keep_rate: float = 0.5,
        pool_len: int = 30,
        dropout: float = 0.2,
        embedding_dropout: float = 0.5,
        max_len: int = 50,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe)
        at_least(1, dim=dim, hidden=hidden, pool_len=pool_len, max_len=max_len)
        at_least(2, attention_hidden=attention_hidden)
        check_share("keep_rate", keep_rate)
        check_rate(dropout)
        check_rate(embedding_dropout)
        check_prefixes(recipe, what="the graph joins items both ways")
        self.dim, self.hidden, self.attention_hidden = dim, hidden, attention_hidden
        self.keep_rate, self.pool_len, self.max_len = keep_rate, pool_len, max_len
        self.dropout, self.embedding_dropout = dropout, embedding_dropout

    def build(self, catalog: Catalog) -> None:
        """Item table, encoder, and the map to item space."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        # length 1: attention sees products of two, and from small ones stays flat for long
        nn.init.normal_(self.items.weight, std=self.dim**-0.5)
        with torch.no_grad():
            self.items.weight[0].zero_()
        self.encoder = InterestEncoder(
            self.dim,
            hidden=self.hidden,
            attention_hidden=self.attention_hidden,
            keep_rate=self.keep_rate,
            pool_len=self.pool_len,
            embedding_dropout=self.embedding_dropout,
        )
        self.output_dropout = Dropout(self.dropout)
        self.project = nn.Linear(self.hidden + self.dim, self.dim)

    def hidden_states(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, 1, D): the one state there is, of the newest `max_len` items."""
        history = history[:, -self.max_len :]
        real = history != 0
        x = self.items(history) * real[..., None]
        said = torch.cat(self.encoder.ask(self.encoder.fuse(x, real), x[:, -1:]), dim=-1)
        out: Tensor = self.project(self.output_dropout(said))
        return out
