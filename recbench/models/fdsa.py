"""FDSA: self-attention over items and over their features (Zhang et al., IJCAI 2019).

One stream reads which items were taken, the other what kind of things they were; both end in one state that
meets the item table. B users, L history, D width, N items.

What differs from the paper: the loss is a softmax over the whole catalogue instead of one negative and BCE;
places count back from the newest item; blocks are pre-norm; features are tags and brands, without the topic
words of item texts. The size of the attention over features (Eq. 3) is read literally: one weight per
dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.causal import BlockScorer, initialise
from recbench.nn.attention import causal_mask, check_heads
from recbench.nn.dropout import check_rate
from recbench.nn.encoder import SequenceEncoder
from recbench.nn.features import TagPooling, item_tags

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog
    from recbench.nn.losses import Loss


class FDSA(BlockScorer):
    """Self-attention over items and over their features (Zhang et al., IJCAI 2019).

    Args:
        dim: width of item and tag embeddings.
        num_layers: attention blocks of each stream.
        num_heads: heads per block.
        hidden: width inside the feed-forward; the paper takes `dim`.
        dropout: on attention weights and sublayers.
        embedding_dropout: on the normalised sum of item, or features, and position.
        max_len: most recent items that are looked at.
        loss: how hidden states are pulled towards their next items.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Feature-level Deeper Self-Attention Network for Sequential Recommendation",
        "IJCAI",
        2019,
        "https://www.ijcai.org/proceedings/2019/600",
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
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe)
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        check_heads(dim, num_heads)
        check_rate(dropout)
        check_rate(embedding_dropout)
        self.dim, self.num_layers, self.num_heads, self.hidden = dim, num_layers, num_heads, hidden
        self.dropout, self.embedding_dropout = dropout, embedding_dropout
        self.max_len = max_len

    def build(self, catalog: Catalog) -> None:
        """Item table, pooled tags, a stream of attention for each, and what joins them.

        Raises:
            UsageError: the data set has no tags.
        """
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        self.features = TagPooling(item_tags(catalog, wanted_by="fdsa"), self.dim)
        self.item_stream, self.feature_stream = self._stream(), self._stream()
        self.join = nn.Linear(2 * self.dim, self.dim)
        self.apply(initialise)

    def run_blocks(self, history: Tensor, *, newest_only: bool) -> Tensor:
        """(B, L) items -> (B, L, D) states: both streams, joined."""
        mask = causal_mask(history)
        items = self.item_stream(self.items(history), mask, newest_only=newest_only)
        features = self.feature_stream(self.features(history), mask, newest_only=newest_only)
        out: Tensor = self.join(torch.cat([items, features], dim=-1))
        return out

    def _stream(self) -> SequenceEncoder:
        return SequenceEncoder(
            self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden=self.hidden,
            dropout=self.dropout,
            embedding_dropout=self.embedding_dropout,
            max_len=self.max_len,
        )
