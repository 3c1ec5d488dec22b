"""SequenceEncoder: a stack of self-attention over vectors whose places count back from the newest.

B users, L history, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from recbench.nn.attention import TransformerBlock
from recbench.nn.dropout import Dropout

if TYPE_CHECKING:
    from torch import Tensor


class SequenceEncoder(nn.Module):
    """Places added, normalised, dropped out; then pre-norm blocks and a last norm.

    What it is given may be items, tags or masks, and the attention mask says who looks at whom: None is
    causal without padding, see `causal_mask` and `padding_mask`.

    Args:
        dim: width D.
        num_layers: attention blocks.
        num_heads: heads per block.
        hidden: width inside the feed-forward.
        dropout: on attention weights and sublayers.
        embedding_dropout: on the normalised sum of input and place.
        max_len: most positions that may come.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        embedding_dropout: float,
        max_len: int,
    ) -> None:
        super().__init__()
        self.places = nn.Embedding(max_len, dim)
        self.input_norm = nn.LayerNorm(dim)
        self.input_dropout = Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, num_heads=num_heads, hidden=hidden, dropout=dropout)
            for _ in range(num_layers)
        )
        self.output_norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, mask: Tensor | None, *, newest_only: bool = False, whole: Tensor | None = None
    ) -> Tensor:
        """(B, L, D) -> (B, L, D); with `newest_only` (B, 1, D), the last block asking for one position.

        Args:
            x: vectors, before their places are added.
            mask: who looks at whom.
            newest_only: whether one state is enough.
            whole: (B, L) True where nothing of the input is dropped out in training.
        """
        places = self.places.weight[: x.shape[1]].flip(0)  # the newest is at 0, whatever the padding
        x = self.input_norm(x + places)
        dropped = self.input_dropout(x)
        x = dropped if whole is None else torch.where(whole[..., None], x, dropped)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, newest_only=newest_only and number == len(self.blocks))
        out: Tensor = self.output_norm(x)
        return out
