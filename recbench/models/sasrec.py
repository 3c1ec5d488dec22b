"""SASRec: self-attention over the history (Kang & McAuley, ICDM 2018).

Every position attends to the ones before it and predicts the item that follows. B users, L history, D
width, N items.

The published recipe (one uniform negative, BCE, dropout .2) reaches .0605 HR@10 on Beauty in S3-Rec's
hands; what differs here, and is worth half as much again, is stated as arguments. The loss is a softmax
over the whole catalogue. Places count back from the newest item, or are distances, a learned bias in the
attention, which is ahead in the first epochs and level at the end. The input is normalised before the first
block; blocks are pre-norm. The `sasrec_paper` preset turns these back.

The item table may begin as what a language model makes of the item texts, and is trained from there
(Harte et al., RecSys 2023, do so with other models): preset `sasrec_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.causal import BlockScorer, initialise
from recbench.nn.attention import TransformerBlock, causal_mask, check_heads
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.lm_options import LanguageModelOptions  # noqa: TC001 - the command line reads the annotation
from recbench.nn.losses import Loss  # noqa: TC001 - the same

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog


class SASRec(BlockScorer):
    """Self-attention over the history (Kang & McAuley, ICDM 2018).

    Args:
        dim: width of item embeddings.
        num_layers: attention blocks.
        num_heads: heads per block.
        hidden: width inside the feed-forward; the paper takes `dim`.
        dropout: on attention weights and sublayers.
        embedding_dropout: on the normalised sum of item and position.
        max_len: most recent items that are looked at.
        positions: a learned bias for each distance in the attention (relative), or an embedding of the place,
            counted back from the newest item or forward from the oldest one shown.
        normalise_input: LayerNorm on the sum of item and position.
        table_from: the language model whose principal components of the item texts the item table begins
            as; random numbers when None.
        loss: how hidden states are pulled towards their next items.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Self-Attentive Sequential Recommendation", "ICDM", 2018, "https://arxiv.org/abs/1808.09781"
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 1,
        hidden: int = 256,
        dropout: float = 0.5,
        embedding_dropout: float = 0.5,
        max_len: int = 50,
        positions: Literal["relative", "from_newest", "from_oldest"] = "from_newest",
        normalise_input: bool = True,
        table_from: LanguageModelOptions | None = None,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe, table_from=table_from)
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        check_heads(dim, num_heads)
        check_rate(dropout)
        check_rate(embedding_dropout)
        self.dim, self.num_layers, self.num_heads, self.hidden = dim, num_layers, num_heads, hidden
        self.dropout, self.embedding_dropout = dropout, embedding_dropout
        self.max_len = max_len
        self.positions = positions
        self.normalise_input = normalise_input

    def build(self, catalog: Catalog) -> None:
        """Item and position tables, blocks, final norm."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        is_relative = self.positions == "relative"
        self.places = None if is_relative else nn.Embedding(self.max_len, self.dim)
        self.input_norm = nn.LayerNorm(self.dim) if self.normalise_input else nn.Identity()
        self.input_dropout = Dropout(self.embedding_dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                self.dim,
                num_heads=self.num_heads,
                hidden=self.hidden,
                dropout=self.dropout,
                max_distance=self.max_len if is_relative else 0,
            )
            for _ in range(self.num_layers)
        )
        self.output_norm = nn.LayerNorm(self.dim)
        self.apply(initialise)

    def run_blocks(self, history: Tensor, *, newest_only: bool) -> Tensor:
        """(B, L) items -> (B, L, D) states, each of which has seen the items up to its own."""
        x = self.items(history)
        if self.places is not None:
            x = x + self.places(self._places(history))
        x = self.input_dropout(self.input_norm(x))
        mask = causal_mask(history)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, newest_only=newest_only and number == self.num_layers)
        out: Tensor = self.output_norm(x)
        return out

    def _places(self, history: Tensor) -> Tensor:
        """(B, L) the place of each item; the oldest real one, or the newest, is at 0 whatever the padding."""
        if self.positions == "from_oldest":
            return ((history != 0).cumsum(1) - 1).clamp_min(0)
        length = history.shape[1]
        return (length - 1 - torch.arange(length, device=history.device)).expand_as(history)
