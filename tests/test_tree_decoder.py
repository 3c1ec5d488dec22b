from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbench.nn.attention import causal_rows
from recbench.nn.tree_decoder import TreeDecoder, additive, places

transformers = pytest.importorskip("transformers", reason="language models need the extra [llm]")
PROMPT = torch.tensor([[0, 0, 0, 5], [9, 2, 7, 3], [0, 4, 4, 8]])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "bos_token_id": None, "eos_token_id": None}
    if request.param == "gpt2":
        config = transformers.GPT2Config(n_positions=16, n_embd=16, n_layer=2, n_head=2, **sizes)
        return transformers.GPT2Model(config).eval()
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        **sizes,
    )
    return transformers.LlamaModel(config).eval()


@pytest.fixture(scope="module")
def table() -> Tensor:
    return torch.randn(12, 16, generator=torch.Generator().manual_seed(1))


def literal(model: torch.nn.Module, table: Tensor, text: list[int]) -> Tensor:
    """Logits after a text that is alone in its batch, with no padding and no cache."""
    tokens = torch.tensor([token for token in text if token])
    return model(inputs_embeds=table[tokens][None], use_cache=False).last_hidden_state[0, -1] @ table[:10].T


@torch.inference_mode()
def test_beams_of_a_tree_are_those_of_rows_of_their_own(model: torch.nn.Module, table: Tensor) -> None:
    decoder = TreeDecoder(model, table, num_tokens=10, prompt=PROMPT)
    found = decoder.start()
    texts = [[row] for row in PROMPT.tolist()]
    for row, logits in enumerate(found):
        torch.testing.assert_close(logits, literal(model, table, texts[row][0]), rtol=1e-4, atol=1e-5)
    rng = torch.Generator().manual_seed(2)
    for num_beams in (3, 4, 2):
        tokens = torch.randint(1, 10, (3, num_beams), generator=rng)
        parents = torch.randint(0, len(texts[0]), (3, num_beams), generator=rng)
        found = decoder.step(tokens, parents)
        texts = [
            [texts[row][parent] + [token] for token, parent in zip(*pair, strict=True)]
            for row, pair in enumerate(zip(tokens.tolist(), parents.tolist(), strict=True))
        ]
        for row in range(3):
            for beam in range(num_beams):
                wanted = literal(model, table, texts[row][beam])
                torch.testing.assert_close(found[row, beam], wanted, rtol=1e-4, atol=1e-5)


def test_padding_is_seen_by_nobody_but_itself() -> None:
    real = torch.tensor([[False, True, True]])
    assert causal_rows(real).int().tolist() == [[[1, 0, 0], [0, 1, 0], [0, 1, 1]]]
    assert places(real).tolist() == [[0, 0, 1]]


def test_a_mask_is_0_where_visible() -> None:
    mask = additive(torch.tensor([[[True, False]]]), torch.float32)
    assert mask.shape == (1, 1, 1, 2)
    assert mask[0, 0, 0, 0] == 0
    assert mask[0, 0, 0, 1] < -1e30
