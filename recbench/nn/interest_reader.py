"""A history's interests and the user vector that asking them with the newest item gives: SURGE's first half.

B users, L history, D width, H state, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.interest_graph import InterestEncoder, Interests, check_share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How histories are read.

    Args:
        dim: width D of item vectors.
        hidden: width H of the recurrent state.
        attention_hidden: width of the attentions' first layer.
        keep_rate: share of a history's pairs of items that the graph joins.
        pool_len: most nodes that pooling leaves.
        dropout: on state and readout.
        embedding_dropout: on the item vectors that are fused.
        max_len: most recent items that are looked at.
    """

    dim: int
    hidden: int
    attention_hidden: int
    keep_rate: float
    pool_len: int
    dropout: float
    embedding_dropout: float
    max_len: int

    def __post_init__(self) -> None:
        for name in ("dim", "hidden", "pool_len", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.attention_hidden < 2:  # its second layer has half of it
            raise ValueError(f"attention_hidden must be at least 2, got {self.attention_hidden}")
        check_share("keep_rate", self.keep_rate)
        check_rate(self.dropout)
        check_rate(self.embedding_dropout)

    def item_table(self, num_items: int) -> nn.Embedding:
        """(N + 1, D) of length 1: attention sees products of two, and from small ones stays flat for long."""
        table = nn.Embedding(num_items + 1, self.dim, padding_idx=0)
        nn.init.normal_(table.weight, std=self.dim**-0.5)
        with torch.no_grad():
            table.weight[0].zero_()
        return table


class Past(NamedTuple):
    """What of a history does not depend on a candidate; `user` is (B, D)."""

    interests: Interests
    user: Tensor


class InterestReader(nn.Module):
    """The interest graph of a history, and what it says when the newest item asks.

    Args:
        reading: sizes and rates.
    """

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.max_len = reading.max_len
        self.encoder = InterestEncoder(
            reading.dim,
            hidden=reading.hidden,
            attention_hidden=reading.attention_hidden,
            keep_rate=reading.keep_rate,
            pool_len=reading.pool_len,
            embedding_dropout=reading.embedding_dropout,
        )
        self.dropout = Dropout(reading.dropout)
        self.project = nn.Linear(reading.hidden + reading.dim, reading.dim)

    def forward(self, history: Tensor, items: nn.Embedding) -> Past:
        """(B, L) items, of which the newest `max_len` are looked at, and the table of their vectors."""
        history = history[:, -self.max_len :]
        real = history != 0
        x = items(history) * real[..., None]
        interests = self.encoder.fuse(x, real)
        said = torch.cat(self.encoder.ask(interests, x[:, -1:]), dim=-1)  # (B, 1, H + D)
        return Past(interests, self.project(self.dropout(said))[:, 0])
