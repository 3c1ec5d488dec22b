"""Packed attention against every head with keys of its own, and where it stands aside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_lm import llama

from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_attention import NAME, packed
from recbench.nn.lm_options import LanguageModelOptions

if TYPE_CHECKING:
    from pathlib import Path

HEADS, GROUPS, WIDTH, KEPT = 6, 2, 8, 11


@pytest.mark.parametrize("new", [1, 2, 5, KEPT])
@pytest.mark.parametrize("is_masked", [True, False])
def test_each_head_attends_by_itself(new: int, is_masked: bool) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, HEADS, new, WIDTH)
    key, value = torch.randn(2, 3, GROUPS, KEPT, WIDTH)
    may_look = torch.ones(3, 1, new, KEPT, dtype=torch.bool).tril(KEPT - new)
    may_look[1, ..., :3] = False
    layer = SimpleNamespace(num_key_value_groups=HEADS // GROUPS, is_causal=False)
    mask = may_look if is_masked else None
    found, _ = packed(layer, query, key, value, mask, scaling=0.5)  # type: ignore[arg-type]
    assert found.shape == (3, new, HEADS, WIDTH)
    for row in range(3):
        for head in range(HEADS):
            own = head * GROUPS // HEADS
            logits = 0.5 * query[row, head] @ key[row, own].T
            if is_masked:
                logits = logits.masked_fill(~may_look[row, 0], -torch.inf)
            torch.testing.assert_close(found[row, :, head], logits.softmax(-1).nan_to_num() @ value[row, own])


def test_a_model_whose_heads_share_keys_uses_it_and_says_the_same(tmp_path: Path) -> None:
    lm = LanguageModel(LanguageModelOptions(name=llama(tmp_path), max_tokens=64))
    assert lm.model.config._attn_implementation == NAME
    ids, mask = torch.randint(2, 60, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    with torch.inference_mode():
        whole = lm.model(input_ids=ids, attention_mask=mask).logits
        first = lm.model(input_ids=ids[:, :8], attention_mask=mask[:, :8], use_cache=True)
        rest = lm.model(
            input_ids=ids[:, 8:], attention_mask=mask, past_key_values=first.past_key_values
        ).logits
        lm.model.set_attn_implementation("eager")
        literal = lm.model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(rest, whole[:, 8:])
    torch.testing.assert_close(whole[mask.bool()], literal[mask.bool()])


def test_answers_cost_the_same_where_what_prompts_share_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel(LanguageModelOptions(name=llama(tmp_path), max_tokens=64))
    prompts = ["w1 w2 w3 w4 w5", "w1 w2 w3 w9", "w1 w2 w3 w4 w5 w6 w7"]
    answers = ["w3 w4", "w5", "w6 w7 w8 w9"]
    read: list[tuple[int, ...]] = []
    forward = lm.model.forward

    def counted(*args: Any, **options: Any) -> Any:
        read.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(lm.model, "forward", counted)
    whole, is_answer = lm.token_losses(prompts, answers)
    with torch.no_grad():
        shared, is_same = lm.token_losses(prompts, answers)
    assert [rows for rows, _ in read] == [3, 1, 3]
    assert read[1][1] + read[2][1] == read[0][1]
    assert torch.equal(is_answer, is_same)
    torch.testing.assert_close(shared, whole.detach())


def test_the_output_layer_reads_rows_that_lie_together(tmp_path: Path) -> None:
    lm = LanguageModel(LanguageModelOptions(name=llama(tmp_path), max_tokens=64))
    seen = []
    head = lm.model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for rows in (1, 3):
        ids = torch.randint(2, 60, (rows, 5))
        lm.model(input_ids=ids, logits_to_keep=1)
        assert seen[-1].stride() == (seen[-1].shape[-1], seen[-1].shape[-1], 1)
