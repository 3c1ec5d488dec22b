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
from recbench.errors import UsageError
from recbench.models import P5, POD
from recbench.models.base import Recipe
from recbench.models.p5 import Tasks
from recbench.nn.free_search import free_search
from recbench.nn.item_codes import Random, Sequential
from recbench.nn.prompt_tasks import TEMPLATES
from recbench.results import read_run
from tests.small import run, small_data

if TYPE_CHECKING:
    from pathlib import Path

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


class TestYesNo:
    @staticmethod
    def asked(**tasks: float) -> tuple[P5, InteractionData]:
        model, _ = made(tasks=Tasks(**{"sequential": 0, "yes_no": 1} | tasks))
        return model, small_data(num_negatives=9)

    @staticmethod
    def literal(model: P5, user: int, item: int) -> float:
        """Log-odds of yes after one prompt put together by hand, softmax over the two answers."""
        first = model.num_tokens + 100
        words = sorted(
            {
                word
                for texts in TEMPLATES.values()
                for text in texts
                for word in text.split()
                if "{" not in word
            }
            | {"yes", "no"}
        )
        number = {word: first + i for i, word in enumerate(words)}
        digits = [model.num_tokens + user // 100, model.num_tokens + user % 100]
        prompt = [number["does"], *digits, number["want"], *model.item_tokens[item].tolist()]
        source = model.tokens(torch.tensor(prompt)) + model.words(torch.tensor([1, 2, 2, 3, 4, 4]))
        states = model.t5.encoder(inputs_embeds=source[None]).last_hidden_state
        begin = model.tokens(torch.tensor([[0]]))
        out = model.t5.decoder(
            inputs_embeds=begin, encoder_hidden_states=states, use_cache=False
        ).last_hidden_state[0, 0]
        rows = model.tokens.weight[[number["yes"], number["no"]]]
        yes, no = (rows @ out / 16**0.5).log_softmax(0).tolist()
        return float(yes - no)

    @torch.no_grad()
    def test_candidates_are_ranked_by_how_certain_the_yes_is(self) -> None:
        model, data = self.asked()
        batch = replace(next(iter(data.val_dataloader())).rows(slice(0, 3)), seen=None)
        assert batch.candidates is not None
        found = model.recommend(batch, 10)
        for row, (user, items) in enumerate(
            zip(batch.users.tolist(), batch.candidates.tolist(), strict=True)
        ):
            odds = {item: self.literal(model, user, item) for item in items}
            assert found.items[row].tolist() == sorted(odds, key=odds.__getitem__, reverse=True)
            torch.testing.assert_close(
                found.scores[row].tolist(), sorted(odds.values(), reverse=True), rtol=1e-4, atol=1e-4
            )
        rank = model.target_ranks(batch).rank.tolist()
        assert rank == [
            1 + found.items[row].tolist().index(target) for row, target in enumerate(batch.target.tolist())
        ]

    @torch.no_grad()
    def test_without_candidates_all_items_are_asked_about_unless_a_history_can_be_gone_on_with(self) -> None:
        model, data = self.asked()
        now = data.request(np.arange(2), back=0)
        assert sorted(model.recommend(now, 60).items[1].tolist()) == list(range(1, 61))
        assert model._task_of(now) == "yes_no"
        both, _ = self.asked(sequential=1)
        assert both._task_of(now) == "sequential"
        assert both._task_of(next(iter(data.val_dataloader()))) == "yes_no"

    @torch.no_grad()
    @pytest.mark.parametrize(("drawn", "sign"), [(0.0, -1), (1.0, 1)], ids=["target", "another item"])
    def test_a_target_is_answered_by_yes_and_another_item_by_no(
        self, drawn: float, sign: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, data = self.asked()
        batch = data.request(np.arange(4), back=2)
        monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(0))  # the first template
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, drawn))
        monkeypatch.setattr(
            "recbench.models.p5.other_items", lambda target, *_, **__: target[:, None] % 60 + 1
        )
        items = batch.target if drawn < 0.5 else batch.target % 60 + 1
        odds = [self.literal(model, *pair) for pair in zip(batch.users.tolist(), items.tolist(), strict=True)]
        wanted = F.softplus(sign * torch.tensor(odds)).mean()
        torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-4)

    def test_all_items_are_too_many_to_ask_about(self) -> None:
        model, data = self.asked()
        with pytest.raises(UsageError, match="num_negatives 99"):
            next(iter(model.stages(small_data())))
        assert next(iter(model.stages(data))).name == "train"

    def test_pod_has_no_such_task(self) -> None:
        with pytest.raises(ValueError, match="yes_no is a task of P5 alone"):
            made(POD, tasks=Tasks(yes_no=1))


class TestFreeDecoding:
    def test_figures_stand_apart(self) -> None:
        assert made(decoding="free")[0].track == "free"
        assert made(decoding="free", codes=Sequential(leaky=True))[0].track == "leaky-free"

    @torch.no_grad()
    def test_strings_that_are_no_item_take_places(self) -> None:
        model, data = made(decoding="free", num_beams=64)
        batch = replace(data.request(np.arange(30), back=2), seen=None)
        written = free_search(model.decoder(batch), model.codes, model.item_tokens, num_beams=64)
        assert 0 < float(written.invalid_rate.mean()) < 1
        row, place = next((r, p) for r, p in (written.items > 0).nonzero().tolist() if p > 0)
        target = batch.target.clone()
        target[row] = written.items[row, place]
        ranks = model.target_ranks(replace(batch, target=target))
        first = (written.items == target[:, None]).double()
        wanted = torch.where(first.any(1), first.argmax(1) + 1.0, torch.inf)
        assert torch.equal(ranks.rank.double(), wanted.double())
        shown = model.recommend(batch, 5).items
        for items, strings in zip(shown.tolist(), written.items.tolist(), strict=True):
            real = list(dict.fromkeys(item for item in strings if item))[:5]
            assert items == real + [0] * (5 - len(real))

    def test_the_record_says_how_many_on_the_test(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("recbench.fit.request_latency", lambda *_: {})  # of no matter here, and slow
        recipe = Recipe(samples="prefixes", max_epochs=2, batch_size=256)
        model = P5(**SIZES | {"decoding": "free", "num_beams": 5, "recipe": recipe})  # type: ignore[arg-type]
        record = read_run(run(tmp_path, model))
        assert record.protocol == "loo-full-free"
        with torch.inference_mode():
            found = [
                free_search(model.decoder(batch), model.codes, model.item_tokens, num_beams=5)
                for batch in small_data().targets("test")
            ]
        invalid, repeated = (
            float(torch.cat(rates).mean())
            for rates in zip(*((one.invalid_rate, one.duplicate_rate) for one in found), strict=True)
        )
        said = (
            f"free decoding: {invalid:.2%} of the places hold no item, {repeated:.2%} one that has a better"
        )
        assert f"{said} place" in record.note.split("; ")


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
