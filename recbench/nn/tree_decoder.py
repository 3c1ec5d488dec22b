"""Beams over a decoder-only language model that share their prompt: one row per user, a tree of new tokens.

The usual way gives every beam a row of its own and copies the prompt's keys and values into each. Here all
beams of a user are new positions of the user's own row; a mask lets each see the prompt and its ancestors
alone, and all tokens of a step have the same place. The result is the same and the cache holds a prompt once.
B users, S prompt tokens, K beams, M tokens in the cache, D width, V tokens that may be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.nn.attention import causal_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def places(real: Tensor) -> Tensor:
    """(B, S) place of each real token in its row, from 0; padding has 0."""
    return (real.cumsum(1) - 1).clamp_min(0)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Q, M) bool -> (B, 1, Q, M): 0 where visible, else the lowest number."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


class TreeDecoder:
    """Writes codes after a prompt; a `recbench.nn.beam.Decoder`.

    Args:
        model: a transformers decoder without its head, such as `GPT2Model`.
        table: (V', D) embeddings of tokens, those that may be written first.
        num_tokens: V; the head is the first V rows of the table.
        prompt: (B, S) tokens, PAD on the left, at least one real per row.
    """

    def __init__(self, model: PreTrainedModel, table: Tensor, *, num_tokens: int, prompt: Tensor) -> None:
        self._model, self._table, self._num_tokens = model, table, num_tokens
        self._prompt, self._real = prompt, prompt != 0

    def start(self) -> Tensor:
        """(B, V) logits of the first code."""
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._place = self._real.sum(1, keepdim=True)  # (B, 1) of the tokens of the next step
        self._visible = self._real[:, None]  # (B, 1 or K, M) what each beam's next token may see
        return self._forward(self._prompt, causal_rows(self._real), places(self._real))[:, -1]

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, K, V) logits of what follows `tokens`, each written after the `parents`' of the last call."""
        width = tokens.shape[1]
        seen = self._visible.gather(1, parents[..., None].expand(-1, -1, self._visible.shape[2]))
        itself = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        self._visible = torch.cat([seen, itself], dim=2)
        logits = self._forward(tokens, self._visible, self._place.expand(-1, width))
        self._place = self._place + 1
        return logits

    def _forward(self, tokens: Tensor, visible: Tensor, place: Tensor) -> Tensor:
        states: Tensor = self._model(
            inputs_embeds=F.embedding(tokens, self._table),
            attention_mask=additive(visible, self._table.dtype),
            position_ids=place,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states @ self._table[: self._num_tokens].T
