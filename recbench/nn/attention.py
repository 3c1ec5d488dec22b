"""Self-attention over right-aligned histories, causal or both ways.

B users, L history, D width, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.nn.dropout import Dropout

if TYPE_CHECKING:
    from torch import Tensor


def is_unpadded(history: Tensor) -> bool:
    """Whether every position is an item; where a graph is exported, which must serve all histories, False."""
    return not torch.compiler.is_exporting() and bool((history != 0).all())


def causal_mask(history: Tensor) -> Tensor | None:
    """(B, 1, L, L) True where a position may look: at itself and at real items before it.

    None when there is no padding, so that the fast causal kernel serves. A padded position sees itself, or
    its softmax would be 0 / 0.
    """
    if is_unpadded(history):
        return None
    return causal_rows(history != 0)[:, None]


def causal_rows(real: Tensor) -> Tensor:
    """(B, L) -> (B, L, L): each sees the real ones up to itself, and padding itself, lest it be NaN."""
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    return (causal & real[:, None, :]) | itself


def padding_mask(history: Tensor) -> Tensor:
    """(B, 1, 1, L) True where everybody may look, before and after: at every real item.

    The newest position is always seen, or the softmax of an empty history would be 0 / 0.
    """
    real = F.pad((history != 0)[:, :-1], (0, 1), value=True)
    return real[:, None, None]


def check_heads(dim: int, num_heads: int) -> None:
    """Refuse a width that cannot be split between the heads.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """
    if dim % num_heads:
        raise ValueError(f"num_heads must divide dim, got {num_heads} and {dim}")


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., NeurIPS 2017, Sec. 3.2).

    Args:
        dim: width D.
        num_heads: heads H; must divide D.
        dropout: on the attention weights.
        max_distance: where above 0, every head learns a bias for each distance below it between who looks and
            what is looked at (Raffel et al., JMLR 2020, Sec. 2.1), so that a position means the same in the
            middle of a training sequence as at the end of a request.
    """

    def __init__(self, dim: int, *, num_heads: int, dropout: float, max_distance: int = 0) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, max_distance)) if max_distance else None

    def forward(self, x: Tensor, mask: Tensor | None, *, newest_only: bool = False) -> Tensor:
        """(B, L, D) -> (B, L, D), who sees whom as `mask` says; with `newest_only` (B, 1, D), its last."""
        q, k, v = (
            part.reshape(*part.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, H, L, D / H)
            for part in self._project(x, newest_only=newest_only)
        )
        dropout = self.dropout if self.training else 0.0
        if self.distance_bias is not None:
            mask = self._biased(mask, x.shape[1], self.distance_bias).to(q.dtype)
        if newest_only and mask is not None:
            mask = mask[:, :, -1:]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and not newest_only
        )
        out: Tensor = self.project_out(mixed.transpose(1, 2).flatten(2))
        return out

    @torch.no_grad()
    def begin_as_mean(self) -> None:
        """Make values and output the identity, so that what comes out is a weighted mean of what came in."""
        dim = self.project_out.weight.shape[0]
        nn.init.eye_(self.project_in.weight[-dim:])
        nn.init.eye_(self.project_out.weight)
        self.project_in.bias[-dim:].zero_()
        self.project_out.bias.zero_()

    def _project(self, x: Tensor, *, newest_only: bool) -> tuple[Tensor, ...]:
        """Queries, keys and values; only the newest position asks where only its answer is wanted."""
        if not newest_only:
            return tuple(self.project_in(x).chunk(3, dim=-1))
        dim = x.shape[-1]
        weight, bias = self.project_in.weight, self.project_in.bias
        # one row a user: of three dimensions, which product is taken depends on whether the weights learn
        query = F.linear(x[:, -1], weight[:dim], bias[:dim])[:, None]
        return query, *F.linear(x, weight[dim:], bias[dim:]).chunk(2, dim=-1)

    @staticmethod
    def _biased(mask: Tensor | None, length: int, bias: Tensor) -> Tensor:
        """(1 or B, H, L, L) what the scores are raised by: the distance's bias, -inf where none may look."""
        if length > bias.shape[1]:
            raise ValueError(f"a history may have {bias.shape[1]} items, got {length}; cut it before")
        steps = torch.arange(length, device=bias.device)
        distance = steps[:, None] - steps
        visible = (distance >= 0)[None, None] if mask is None else mask
        return bias[:, distance.clamp_min(0)][None].masked_fill(~visible, -torch.inf)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each on a normalised input and added to it (pre-norm).

    Args:
        dim: width D.
        num_heads: attention heads.
        hidden: width inside the feed-forward.
        dropout: after attention weights and both sublayers.
        max_distance: of the attention's learned distance biases; 0 for none.
        activation: between the two linear maps.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        hidden: int,
        dropout: float,
        max_distance: int = 0,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads=num_heads, dropout=dropout, max_distance=max_distance)
        self.norm_forward = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, hidden), activation(), Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, *, newest_only: bool = False) -> Tensor:
        """(B, L, D) -> (B, L, D); with `newest_only` (B, 1, D), its last, at about half the cost."""
        mixed = self.attention(self.norm_attention(x), mask, newest_only=newest_only)
        x = (x[:, -1:] if newest_only else x) + self.dropout(mixed)
        out: Tensor = x + self.dropout(self.feed_forward(self.norm_forward(x)))
        return out
