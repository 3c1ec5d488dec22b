"""T5's decoder for a beam search: what the beams of a user share is computed once and never copied.

transformers' `generate` gives every beam a row of its own: the encoder's output, and the keys and values of
the attention over it, exist once per beam and are reordered with the beams. Here the beams of a user are
queries of the user's own row, and the only thing that is reordered is the attention over the few codes that a
beam has written. The weights stay in transformers' modules. Only for inference: there is no dropout.

B users, S positions of the source, K beams, T codes so far, D width, H heads, V tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.nn.item_codes import PAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers.models.t5.modeling_t5 import T5Stack


class T5Decoder:
    """Writes codes after a source that is read; a `recbench.nn.beam.Decoder`.

    Args:
        stack: the `decoder` of a transformers T5.
        table: (V, D) vectors of the tokens; PAD begins a text.
        head: (..., D) outputs of the stack -> (..., V) logits.
        states: (B, S, D) outputs of the encoder.
        real: (B, S) which positions of the source are no padding, at least one per row; None for all.
    """

    def __init__(
        self,
        stack: T5Stack,
        table: Tensor,
        head: Callable[[Tensor], Tensor],
        *,
        states: Tensor,
        real: Tensor | None = None,
    ) -> None:
        self._stack, self._table, self._head = stack, table, head
        self._blocks = [_Block(block.layer, states) for block in stack.block]
        self._visible = None if real is None else real.bool()[:, None, None]
        self._num_users = len(states)

    def start(self) -> Tensor:
        """(B, V) logits of the first code."""
        for block in self._blocks:
            block.forget()
        begin = torch.full((self._num_users, 1), PAD, device=self._table.device)
        self._prefixes = torch.zeros_like(begin)  # (B, K) equal where beams have written the same codes
        return self.step(begin, self._prefixes)[:, 0]

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, K, V) logits of what follows `tokens`, each written after the `parents`' of the last call."""
        bias = self._place_bias(1 + self._blocks[0].num_codes)
        hidden = self._read(tokens, parents, bias)
        for number, block in enumerate(self._blocks):
            if number:
                hidden = block.over_codes(hidden, parents, bias)
            hidden = block.over_source(hidden, self._visible)
        return self._head(self._stack.final_layer_norm(hidden))

    def _read(self, tokens: Tensor, parents: Tensor, bias: Tensor) -> Tensor:
        """(B, K, D) the first block's attention over the codes, once for all beams that wrote the same.

        It is all that happens before a beam looks at its user's source; the first codes are far fewer than
        the beams of a batch.
        """
        prefixes = self._prefixes.gather(1, parents) * len(self._table) + tokens
        distinct, self._prefixes = torch.unique(prefixes, return_inverse=True)
        hidden = F.embedding(distinct % len(self._table), self._table)[None]
        hidden = self._blocks[0].over_codes(hidden, (distinct // len(self._table))[None], bias)
        return hidden[0, self._prefixes]

    def _place_bias(self, length: int) -> Tensor:
        """(1, 1, T, H, 1) what the last of `length` codes adds to its attention to each."""
        first: Any = self._stack.block[0]
        bias: Tensor = first.layer[0].SelfAttention.compute_bias(length, length)[0, :, -1]  # (H, T)
        return bias.T[None, None, :, :, None]


class _Block:
    """One layer with what it knows of the source and of the codes written so far.

    Args:
        layers: attention over the codes, attention over the source, and the feed-forward part.
        states: (B, S, D) outputs of the encoder.
    """

    def __init__(self, layers: Any, states: Tensor) -> None:
        self._own, self._cross, self._feed = layers
        source = self._cross.EncDecAttention
        self._num_heads = source.n_heads
        self._keys, self._values = (
            self._heads(project(states)).transpose(1, 2) for project in (source.k, source.v)
        )
        self.forget()

    def forget(self) -> None:
        """Begin anew with the same source."""
        self._written: Tensor | None = None  # (2, B, K, T, H, D / H) keys and values

    @property
    def num_codes(self) -> int:
        """How many codes the beams have read."""
        return 0 if self._written is None else self._written.shape[3]

    def over_codes(self, hidden: Tensor, parents: Tensor, bias: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, D), the first part."""
        return hidden + self._over_codes(self._own.layer_norm(hidden), parents, bias)

    def over_source(self, hidden: Tensor, visible: Tensor | None) -> Tensor:
        """(B, K, D) -> (B, K, D), the second part and the feed-forward one."""
        hidden = hidden + self._over_source(self._cross.layer_norm(hidden), visible)
        fed: Tensor = self._feed.DenseReluDense(self._feed.layer_norm(hidden))
        return hidden + fed

    def _over_codes(self, hidden: Tensor, parents: Tensor, bias: Tensor) -> Tensor:
        """Attention of each beam over its own codes: too short for a matrix product to pay."""
        attention = self._own.SelfAttention
        query, key, value = (self._heads(part(hidden)) for part in (attention.q, attention.k, attention.v))
        now = torch.stack([key, value])[:, :, :, None]
        if self._written is None:
            self._written = now
        else:
            user = torch.arange(len(parents), device=parents.device)[:, None]
            self._written = torch.cat([self._written[:, user, parents], now], dim=3)
        keys, values = self._written
        weights = (query[:, :, None] * keys).sum(-1, keepdim=True) + bias  # (B, K, T, H, 1)
        mixed = (weights.softmax(2) * values).sum(2)
        out: Tensor = attention.o(mixed.flatten(2))
        return out

    def _over_source(self, hidden: Tensor, visible: Tensor | None) -> Tensor:
        """Attention of all beams of a user over the same keys and values; T5 does not scale the products."""
        attention = self._cross.EncDecAttention
        query = self._heads(attention.q(hidden)).transpose(1, 2)  # (B, H, K, D / H)
        mixed = F.scaled_dot_product_attention(query, self._keys, self._values, attn_mask=visible, scale=1.0)
        out: Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., H, D / H)."""
        return vectors.view(*vectors.shape[:-1], self._num_heads, -1)
