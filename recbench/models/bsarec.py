"""BSARec: self-attention beside a Fourier filter of the history (Shin et al., AAAI 2024).

Self-attention averages, and layer after layer loses what changes quickly along a history. A layer of BSARec
is a fixed mixture of attention and of a frequency rescaler: the history's slow components pass as they are,
the fast ones are scaled by a learned, non-negative number per channel. B users, L history, D width, W places
of the filter's window.

The filter mixes places both ways: every state, also one in the middle, depends on what comes after it. So
only the newest state may learn, one sample per prefix, and other recipes are refused.

What differs from the authors' code: histories are not padded to W places with position embeddings, which
their filter (and, through it, their states) sees as if they were items. Here the window still has W places,
so that a frequency means the same for every user, and those without an item hold zeros: the filter is then
one W x W matrix of which a history of L items needs a corner, no padding is ever computed, and scores do not
depend on it. Places count back from the newest item, as theirs do in effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.causal import BlockScorer, check_prefixes, initialise
from recbench.nn.attention import SelfAttention, causal_mask, check_heads
from recbench.nn.dropout import Dropout, check_rate

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog
    from recbench.nn.lm_options import LanguageModelOptions
    from recbench.nn.losses import Loss


def low_pass(num_places: int, *, cutoff: int) -> Tensor:
    """(W, W) matrix that keeps the slowest components of W places: Fourier transform, cut, inverse.

    Args:
        num_places: places W of the window.
        cutoff: c of the paper, where a frequency counts twice, as sine and cosine: the mean and the c // 2
            slowest frequencies stay.
    """
    spectrum = torch.fft.rfft(torch.eye(num_places), dim=0)
    spectrum[cutoff // 2 + 1 :] = 0
    kept: Tensor = torch.fft.irfft(spectrum, n=num_places, dim=0)
    return kept


class FrequencyRescaler(nn.Module):
    """Slow components as they are plus beta times the fast ones: a learned number per channel, squared.

    Args:
        dim: width D.
        num_places: places W of the window.
        cutoff: c of the paper.
    """

    low: Tensor

    def __init__(self, dim: int, *, num_places: int, cutoff: int) -> None:
        super().__init__()
        self.register_buffer("low", low_pass(num_places, cutoff=cutoff), persistent=False)
        self.sqrt_beta = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor, *, newest_only: bool = False) -> Tensor:
        """(B, L, D), zero where there is no item -> (B, L, D); with `newest_only` (B, 1, D), its last."""
        length = x.shape[1]
        filters = self.low[length - 1 : length, :length] if newest_only else self.low[:length, :length]
        slow = filters @ x
        return slow + self.sqrt_beta.square() * ((x[:, -1:] if newest_only else x) - slow)


class BSARecBlock(nn.Module):
    """Filter and attention side by side, then a feed-forward; each added and normalised (post-norm).

    Args:
        dim: width D.
        num_heads: attention heads.
        hidden: width inside the feed-forward.
        dropout: on attention weights and after every sublayer.
        num_places: places of the filter's window.
        alpha: share of the filter; the rest is attention's.
        cutoff: c of the filter.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        hidden: int,
        dropout: float,
        num_places: int,
        alpha: float,
        cutoff: int,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.filter = FrequencyRescaler(dim, num_places=num_places, cutoff=cutoff)
        self.norm_filter = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads=num_heads, dropout=dropout)
        self.norm_attention = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm_forward = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, real: Tensor | None, mask: Tensor | None, *, newest_only: bool = False
    ) -> Tensor:
        """(B, L, D) -> (B, L, D); with `newest_only` (B, 1, D), its last.

        Args:
            x: states, any where there is no item.
            real: (B, L, 1) True at items; None where all are.
            mask: as made by `causal_mask`.
            newest_only: whether only the last position is wanted.
        """
        if real is not None:
            x = x * real
        filtered = self.dropout(self.filter(x, newest_only=newest_only))
        attended = self.dropout(self.attention(x, mask, newest_only=newest_only))
        if newest_only:
            x = x[:, -1:]
        # each of the two has its own residual and norm, as in the authors' code
        x = self.alpha * self.norm_filter(x + filtered) + (1 - self.alpha) * self.norm_attention(x + attended)
        out: Tensor = self.norm_forward(x + self.dropout(self.feed_forward(x)))
        return out


class BSARec(BlockScorer):
    """Self-attention beside a Fourier filter of the history (Shin et al., AAAI 2024).

    Args:
        dim: width of item embeddings.
        num_layers: blocks.
        num_heads: attention heads per block.
        hidden: width inside the feed-forward; the authors take 4 `dim`.
        dropout: on attention weights and sublayers.
        embedding_dropout: on the normalised sum of item and place.
        max_len: most recent items that are looked at, and places of the filter's window.
        alpha: share of the filter in every block, 0 to 1; the rest is attention's.
        cutoff: c of the paper; the filter's slow part is the mean and the c // 2 slowest frequencies.
        table_from: the language model whose principal components of the item texts the item table begins
            as; random numbers when None.
        loss: how states are pulled towards their next items.
        recipe: how it is trained; its samples must be prefixes.
    """

    paper: ClassVar[Paper] = Paper(
        "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention",
        "AAAI",
        2024,
        "https://arxiv.org/abs/2312.10325",
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
        alpha: float = 0.7,
        cutoff: int = 5,
        table_from: LanguageModelOptions | None = None,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe, table_from=table_from)
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        at_least(1, cutoff=cutoff)
        check_heads(dim, num_heads)
        check_rate(dropout)
        check_rate(embedding_dropout)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in 0..1, got {alpha}")
        check_prefixes(recipe, what="the filter mixes places both ways")
        self.dim, self.num_layers, self.num_heads, self.hidden = dim, num_layers, num_heads, hidden
        self.dropout, self.embedding_dropout = dropout, embedding_dropout
        self.max_len, self.alpha, self.cutoff = max_len, alpha, cutoff

    def build(self, catalog: Catalog) -> None:
        """Item and place tables, blocks."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        self.places = nn.Embedding(self.max_len, self.dim)
        self.input_norm = nn.LayerNorm(self.dim)
        self.input_dropout = Dropout(self.embedding_dropout)
        self.blocks = nn.ModuleList(
            BSARecBlock(
                self.dim,
                num_heads=self.num_heads,
                hidden=self.hidden,
                dropout=self.dropout,
                num_places=self.max_len,
                alpha=self.alpha,
                cutoff=self.cutoff,
            )
            for _ in range(self.num_layers)
        )
        self.apply(initialise)

    def run_blocks(self, history: Tensor, *, newest_only: bool) -> Tensor:
        """(B, L) items -> (B, L, D) states; all have seen all of them."""
        mask = causal_mask(history)
        real = None if mask is None else (history != 0)[..., None]
        from_newest = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        x: Tensor = self.input_dropout(self.input_norm(self.items(history) + self.places(from_newest)))
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, real, mask, newest_only=newest_only and number == self.num_layers)
        return x
