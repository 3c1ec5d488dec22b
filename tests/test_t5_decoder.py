from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from recbench.nn.beam import Trie, beam_search
from recbench.nn.free_search import free_search
from recbench.nn.item_codes import Numeric
from recbench.nn.t5_decoder import T5Decoder
from tests.test_beam import Catalogue

NUM_USERS, SOURCE, NUM_TOKENS = 3, 7, 12  # END and ten digits


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def model(request: pytest.FixtureRequest) -> T5ForConditionalGeneration:
    """T5's two kinds, with attention over places that matters."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=NUM_TOKENS,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj=request.param,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval().double()
    torch.nn.init.normal_(model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    return model


@pytest.fixture(scope="module")
def source(model: T5ForConditionalGeneration) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder outputs, and which are no padding."""
    real = torch.arange(SOURCE) < torch.tensor([[7], [4], [1]])
    vectors = torch.randn(NUM_USERS, SOURCE, 16, dtype=torch.float64)
    with torch.no_grad():
        return model.encoder(inputs_embeds=vectors, attention_mask=real).last_hidden_state, real


def decoder(model: T5ForConditionalGeneration, source: tuple[torch.Tensor, torch.Tensor]) -> T5Decoder:
    def head(hidden: torch.Tensor) -> torch.Tensor:
        return model.lm_head(hidden * model.model_dim**-0.5)

    return T5Decoder(model.decoder, model.shared.weight, head, states=source[0], real=source[1])


@torch.no_grad()
def test_every_step_equals_the_forward_pass_over_the_whole_text(
    model: T5ForConditionalGeneration, source: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ours = decoder(model, source)
    texts = torch.zeros(NUM_USERS, 1, 1, dtype=torch.int64)
    logits = ours.start()[:, None]
    generator = torch.Generator().manual_seed(1)
    for num_beams in (5, 5, 2, 6):
        whole = model(
            encoder_outputs=(source[0].repeat_interleave(texts.shape[1], 0),),
            attention_mask=source[1].repeat_interleave(texts.shape[1], 0),
            decoder_input_ids=texts.flatten(0, 1),
            use_cache=False,
        ).logits[:, -1]
        torch.testing.assert_close(logits.flatten(0, 1), whole, rtol=0, atol=1e-12)
        parents = torch.randint(texts.shape[1], (NUM_USERS, num_beams), generator=generator)
        tokens = torch.randint(NUM_TOKENS, (NUM_USERS, num_beams), generator=generator)
        kept = texts.gather(1, parents[..., None].expand(-1, -1, texts.shape[2]))
        texts = torch.cat([kept, tokens[..., None]], dim=2)
        logits = ours.step(tokens, parents)


@torch.no_grad()
def test_start_begins_anew(
    model: T5ForConditionalGeneration, source: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ours = decoder(model, source)
    first = ours.start()
    ours.step(torch.full((NUM_USERS, 2), 3), torch.zeros(NUM_USERS, 2, dtype=torch.int64))
    assert torch.equal(ours.start(), first)


@torch.no_grad()
def test_what_padding_holds_does_not_matter(
    model: T5ForConditionalGeneration, source: tuple[torch.Tensor, torch.Tensor]
) -> None:
    states, real = source
    other = states.masked_fill(~real[..., None], 7.0)
    assert torch.equal(decoder(model, (other, real)).start(), decoder(model, (states, real)).start())


@torch.no_grad()
def test_search_equals_generate_with_a_prefix_callback(
    model: T5ForConditionalGeneration, source: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The library renormalises nothing, so its scores are our log-probabilities over the length."""
    pairs = [(2 + a, 7 + b) for a in range(5) for b in range(5)]
    codes = torch.tensor([[0, 0], *pairs])
    children = {(): sorted({a for a, _ in pairs})} | {(a,): [b for c, b in pairs if c == a] for a, _ in pairs}
    out = model.generate(
        inputs_embeds=torch.zeros(NUM_USERS, SOURCE, 16, dtype=torch.float64),
        encoder_outputs=_outputs(source[0]),
        attention_mask=source[1],
        prefix_allowed_tokens_fn=lambda _, text: children[tuple(text[1:].tolist())],
        num_beams=6,
        num_return_sequences=6,
        max_new_tokens=2,
        output_scores=True,
        return_dict_in_generate=True,
    )
    found = beam_search(decoder(model, source), Trie.of(codes), num_beams=6)
    assert torch.equal(codes[found.items].flatten(0, 1), out.sequences[:, 1:])
    torch.testing.assert_close(found.log_probs.flatten().float() / 2, out.sequences_scores)


@torch.no_grad()
@pytest.mark.parametrize("num_beams", [2, 9])
def test_free_search_equals_generate(
    model: T5ForConditionalGeneration, source: tuple[torch.Tensor, torch.Tensor], num_beams: int
) -> None:
    way = Numeric(piece_digits=1)
    written = torch.from_numpy(way.write(Catalogue(200), None))
    out = model.generate(
        inputs_embeds=torch.zeros(NUM_USERS, SOURCE, 16, dtype=torch.float64),
        encoder_outputs=_outputs(source[0]),
        attention_mask=source[1],
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=4,
        early_stopping="never",
        output_scores=True,
        return_dict_in_generate=True,
    )
    found = free_search(decoder(model, source), way, written, num_beams=num_beams)
    torch.testing.assert_close(found.scores.flatten().float(), out.sequences_scores)
    read = way.read(out.sequences[:, 1:].numpy(), written.numpy())
    assert found.items.flatten().tolist() == read.tolist()


def _outputs(states: torch.Tensor) -> object:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=states)
