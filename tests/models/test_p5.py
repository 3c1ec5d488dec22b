"""P5 and POD: what a prompt is, and that loss and search are those of a T5 asked user by user."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from recbench.data.batch import SequenceBatch
from recbench.models import P5, POD
from recbench.models.base import Recipe
from recbench.models.p5 import Tasks
from recbench.nn.item_codes import Random, Sequential
from tests.small import small_data

if TYPE_CHECKING:
    from recbench.data.module import InteractionData

SIZES = {"dim": 16, "hidden": 32, "num_layers": 1, "num_heads": 2, "max_len": 5, "codes": Random(num_codes=2)}


def made(kind: type[P5] = P5, **options: object) -> tuple[P5, InteractionData]:
    data = small_data()
    torch.manual_seed(0)
    model = kind(**SIZES | options)  # type: ignore[arg-type]
    model.build(data.catalog)
    model.write_items(data)
    return model.eval(), data


def literal_log_probs(model: P5, prompt: Tensor, word: Tensor, item: int) -> Tensor:
    """(T,) of an item's codes after one prompt without padding, each by a pass of its own."""
    source = (model.tokens(prompt) + model.words(word))[None]
    states = model.t5.encoder(inputs_embeds=source).last_hidden_state
    text, found = [0], []
    for code in model.item_tokens[item].tolist():
        out = model.t5.decoder(
            inputs_embeds=model.tokens(torch.tensor([text])), encoder_hidden_states=states, use_cache=False
        ).last_hidden_state[0, -1]
        logits = (out / 16**0.5) @ model.tokens.weight[: model.num_tokens].T
        found.append(logits.log_softmax(0)[code])
        text.append(code)
    return torch.stack(found)


def prompts_of(model: P5, batch: SequenceBatch) -> list[tuple[Tensor, Tensor]]:
    """Each user's prompt of the first template, without padding."""
    prompt = model._write("sequential", 0, batch, None)
    real = prompt.tokens != 0
    return [(tokens[keep], word[keep]) for tokens, word, keep in zip(*prompt, real, strict=True)]


def test_a_prompt_names_the_user_and_the_newest_items_word_by_word() -> None:
    model, _ = made()
    items = model.item_tokens
    batch = SequenceBatch(
        users=torch.tensor([107, 3]),
        history=torch.tensor([[1, 2, 3, 4, 5, 6, 7], [0] * 6 + [9]]),
        target=torch.ones(2),
    )
    digit = model.num_tokens
    (long, words), (short, _) = prompts_of(model, batch)  # "{user} chose {history} and chooses next"
    assert long[:2].tolist() == [digit + 1, digit + 7]
    assert long[3:13].tolist() == items[3:8].flatten().tolist()  # the newest five
    assert words.tolist() == [1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10]
    assert short.tolist() == [digit, digit + 3, long[2], *items[9].tolist(), *long[13:].tolist()]


def test_a_user_without_history_is_still_asked_for() -> None:
    model, data = made()
    batch = data.request(np.arange(4)).lagged(100)
    assert (model.recommend(batch, 5).items > 0).all()


@torch.no_grad()
def test_the_loss_is_that_of_each_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = made()
    batch = data.request(np.arange(6), back=2)
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(0))  # the first template
    wanted = [
        -literal_log_probs(model, *prompt, item).mean()
        for prompt, item in zip(prompts_of(model, batch), batch.target.tolist(), strict=True)
    ]
    torch.testing.assert_close(model.loss(batch), torch.stack(wanted).mean(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_search_as_wide_as_the_first_code_is_the_exact_ranking() -> None:
    model, data = made(num_beams=20)
    batch = replace(data.request(np.arange(3), back=2), seen=None)
    found = model.recommend(batch, data.catalog.num_items)
    for row, prompt in enumerate(prompts_of(model, batch)):
        scores = torch.stack(
            [literal_log_probs(model, *prompt, item).sum() for item in range(1, data.catalog.num_items + 1)]
        )
        wanted, order = scores.sort(descending=True)
        torch.testing.assert_close(found.scores[row], wanted, rtol=1e-4, atol=1e-4)
        assert found.items[row, :10].tolist() == (order[:10] + 1).tolist()


def test_candidates_are_written_out_where_choosing_among_them_was_trained() -> None:
    model, _ = made(tasks=Tasks(sequential=0, top_n=1))
    data = small_data(num_negatives=9)
    batch = next(iter(data.val_dataloader()))
    assert batch.candidates is not None
    prompt = model._write(
        model._task_of(batch), 0, batch, batch.candidates
    )  # "choose for {user} one of {candidates}"
    assert prompt.tokens[0, -20:].tolist() == model.item_tokens[batch.candidates[0]].flatten().tolist()
    listed = model.recommend(batch, 20).items
    for items, allowed in zip(listed.tolist(), batch.candidates.tolist(), strict=True):
        assert set(items) - {0} == set(allowed)


def test_tasks_share_batches_by_their_weights() -> None:
    model, _ = made(tasks=Tasks(sequential=1, select=3))
    torch.manual_seed(0)
    drawn = [model._draw_task() for _ in range(400)]
    assert set(drawn) == {"sequential", "select"}
    assert 70 < drawn.count("sequential") < 130


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": Recipe(samples="positions")}, "samples positions would waste"),
        ({"num_negatives": 0}, "num_negatives must be at least 1"),
        ({"num_heads": 3}, "num_heads"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        P5(**SIZES | options)  # type: ignore[arg-type]


def test_shares_of_tasks_are_checked() -> None:
    with pytest.raises(ValueError, match="not all 0"):
        Tasks(sequential=0)


def test_leaky_ids_keep_figures_apart() -> None:
    assert made(codes=Sequential(leaky=True))[0].track == "leaky"
    assert made(codes=Sequential(leaky=False))[0].track == ""


def test_training_takes_pretrained_weights_and_their_words(tmp_path: object) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "and", "chooses", "next", "chose"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path)
    config = transformers.T5Config(vocab_size=7, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    saved = transformers.T5Model(config)
    saved.save_pretrained(tmp_path)
    model, data = made(pretrained=str(tmp_path))
    own = model.t5.encoder.block[0].layer[0].SelfAttention.q.weight
    assert torch.equal(own, saved.encoder.block[0].layer[0].SelfAttention.q.weight)
    (prompt, _), *_ = prompts_of(model, data.request(np.arange(1), back=2))
    first = model.num_tokens + 100  # codes, then digits, then the tokenizer's own
    assert prompt[-3:].tolist() == [first + 3, first + 4, first + 5]
    assert torch.equal(model.tokens.weight[first:], saved.shared.weight)


class TestPOD:
    def test_vectors_stand_right_before_the_text(self) -> None:
        model, data = made(POD, num_prompts=2)
        assert isinstance(model, POD)
        batch = data.request(np.arange(5), back=2)
        prompt = model._write("sequential", 0, batch, None)
        heard: dict[str, Tensor] = {}
        model._read = lambda vectors, real: heard.update(vectors=vectors, real=real)  # type: ignore[assignment,method-assign,return-value]
        model._encode("sequential", prompt)
        for tokens, vectors, real in zip(prompt.tokens, heard["vectors"], heard["real"], strict=True):
            text = tokens[tokens != 0]
            assert int(real.sum()) == 2 + len(text)
            assert real[-int(real.sum()) :].all()
            torch.testing.assert_close(vectors[real][:2], model.prompts["sequential"].data)

    def test_a_request_has_no_template_and_only_users_and_items_are_words(self) -> None:
        model, data = made(POD)
        (tokens, words), *_ = prompts_of(model, data.request(np.arange(1), back=2))
        assert len(tokens) == 2 + 2 * 5  # two digits, five items
        assert words.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
        prompt = model._write("sequential", 1, data.request(np.arange(1), back=2), None)
        assert prompt.word[0].tolist() == [1, 1, 0, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 0, 0, 0]

    def test_tasks_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, _ = made(POD, tasks=Tasks(sequential=1, top_n=0.2))
        drawn = []
        for step in range(4):
            monkeypatch.setattr(type(model), "global_step", step)
            drawn.append(model._draw_task())
        assert drawn == ["sequential", "top_n", "sequential", "top_n"]

    def test_its_vectors_learn(self) -> None:
        model, data = made(POD)
        model.train()
        model.loss(data.request(np.arange(8), back=2)).backward()
        assert float(model.prompts["sequential"].grad.abs().sum()) > 0
        assert F.normalize(model.prompts["sequential"], dim=1).shape == (3, 16)
