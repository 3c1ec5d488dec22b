"""Keys and values that are kept: reading once what prompts share, and attention of a few new tokens to many.

transformers copies keys and values to every head that reads them, or has the kernel do so; on a CPU in
bfloat16 that costs six times what the attention itself does. In `packed` the heads that share keys become
more rows of one query. B rows, G heads of keys, R heads that read each, Q new tokens, T kept ones, D width.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from recbench.nn.lm_tokens import Tokens

NAME = "packed_sdpa"


class Unread(NamedTuple):
    """What of several rows is left to read, named as transformers calls it."""

    input_ids: Tensor  # (B, n) padded on the left
    attention_mask: Tensor  # (B, T) 1 where there is a token, those that were read included
    position_ids: Tensor  # (B, n) which real token of its row each is, from 0
    past_key_values: Any = None  # of the tokens that were read


def read_shared(
    model: Any, tokens: Tokens, rows: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]]
) -> Unread:
    """Read what all prompts begin with once for all, where nothing learns from it.

    A token of each prompt is left to read.

    Args:
        model: of transformers, without an encoder.
        tokens: of the model.
        rows: B rows of tokens.
        prompts: what each begins with, none empty.
    """
    shared, kept = 0, None
    if len(rows) > 1 and not torch.is_grad_enabled():  # a prompt's adapters learn from its answer
        alike = takewhile(lambda these: len(set(these)) == 1, zip(*prompts, strict=False))
        shared = min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
    if shared:
        ids = torch.tensor([rows[0][:shared]], device=model.device)
        kept = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        kept.batch_repeat_interleave(len(rows))
    ids, mask = tokens.padded([row[shared:] for row in rows], device=model.device)
    mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
    return Unread(ids, mask, places(mask)[:, shared:], kept)


def places(mask: Tensor) -> Tensor:
    """(B, T) which real token each is, from 0, whatever the padding before it."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def use_packed(model: Any) -> None:
    """Let a model of transformers whose heads share keys attend this way; another stays as it is."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config
    heads = getattr(config, "num_attention_heads", 1)
    has_shared = getattr(config, "num_key_value_heads", None) not in (None, heads)
    if has_shared and config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, packed)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """(B, Q, G R, D) what the new tokens gather; by transformers' own function where nothing was kept.

    Args:
        module: the layer.
        query: (B, G R, Q, D).
        key: (B, G, T, D).
        value: (B, G, T, D).
        attention_mask: (B, 1, Q, T) true where a token may look, or None.
        dropout: on the weights.
        scaling: of the logits.
        others: as transformers calls it.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, new, width = query.shape
    groups = key.shape[1]
    is_one_for_all = new == 1 if attention_mask is None else attention_mask.shape[1] == 1
    if new == key.shape[2] or not is_one_for_all:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    found = F.scaled_dot_product_attention(
        query.reshape(rows, groups, -1, width),
        key,
        value,
        attn_mask=None if attention_mask is None else attention_mask.repeat(1, 1, heads // groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return found.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None
