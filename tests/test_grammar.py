"""Writing within a grammar: what comes out against a literal loop, and how many passes it takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_lm import byte_llama

from recbench.nn.grammar import Grammar, one_of, write_within
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions

if TYPE_CHECKING:
    from torch import Tensor

pytest.importorskip("llguidance")
WORDS = ["sasrec", "surge", "a much longer word than the others", "b"]


def follow(text: str) -> str:
    """JSON of one to three of the words, none of them twice."""
    if not text:
        return r'\{"alpha":(0\.1|0\.5|1),"tags":\[' + one_of(map(json.dumps, WORDS))
    if text.endswith("}"):
        return ""
    said = json.loads(text + "]}")["tags"]
    more = rf",{one_of(json.dumps(word) for word in WORDS if word not in said)}|" if len(said) < 3 else ""
    return rf'({more}\],"why":"[^"\\\x00-\x1f]{{0,8}}"\}})'


PROMPTS = ["x", "a longer prompt than the first", "third", "and another one of some length"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return LanguageModel(LanguageModelOptions(name=byte_llama(tmp_path_factory.mktemp("lm")), max_tokens=600))


def literal(lm: LanguageModel, prompt: str, most: int) -> list[int]:
    """One token after another, each from a pass over the whole text; what is bound to come is not asked."""
    row = lm.tokens.prompt(prompt)
    scores = lm.model(input_ids=torch.tensor([row])).logits[0, -1]
    text = Grammar(lm.tokens, follow).begin(len(scores))
    text.forced()
    while not text.is_whole and len(text.tokens) < most:
        scores = lm.model(input_ids=torch.tensor([row + text.tokens])).logits[0, -1]
        text.take(int(scores.masked_fill(~text.allowed(), -torch.inf).argmax()))
    return text.tokens[:most]


@torch.inference_mode()
@pytest.mark.parametrize("most", [200, 25])
def test_rows_that_get_ahead_of_one_another_write_what_each_would_alone(lm: LanguageModel, most: int) -> None:
    found = lm.generate(PROMPTS, max_new_tokens=most, grammar=Grammar(lm.tokens, follow))
    wanted = [literal(lm, prompt, most) for prompt in PROMPTS]
    assert found == lm.tokens.texts(wanted)
    assert len({len(row) for row in wanted}) > 1 or most == 25  # they do get ahead


@torch.inference_mode()
def test_what_is_bound_to_come_takes_no_pass(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = lm.model.forward

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(options["input_ids"].shape[1])
        return forward(*args, **options)

    monkeypatch.setattr(lm.model, "forward", counted)
    chosen: list[Tensor] = []

    def choose(scores: Tensor) -> int:
        chosen.append(scores)
        return int(scores.argmax())

    grammar = Grammar(lm.tokens, follow)
    (written,) = write_within(
        lm.model, lm.tokens, [lm.tokens.prompt(PROMPTS[0])], grammar, max_new_tokens=200, choose=choose
    )
    assert json.loads(lm.tokens.texts([written])[0])["tags"]
    assert len(chosen) < len(written) / 2
    assert (
        len(passes) <= len(chosen) + 1
    )  # the prompt, what the start binds, and a pass per choice but the last
    assert sum(passes[1:]) <= len(written)  # each token is read once


@torch.inference_mode()
def test_what_prompts_begin_with_alike_is_read_once(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[int, ...]] = []
    forward = lm.model.forward

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    prompts = [f"What all of them say. {text}" for text in ("x", "xy and more", "other words")]
    grammar = Grammar(lm.tokens, follow)
    alone = [lm.generate([text], max_new_tokens=200, grammar=grammar)[0] for text in prompts]
    monkeypatch.setattr(lm.model, "forward", counted)
    assert lm.generate(prompts, max_new_tokens=200, grammar=grammar) == alone
    start = len(lm.tokens.prompt("What all of them say. "))
    longest = max(len(lm.tokens.prompt(text)) for text in prompts)
    (rows, read), (all_rows, rest) = passes[:2]
    assert (rows, all_rows) == (1, 3)
    assert read >= start - 1  # the end of the shared words may belong to another token
    assert read + rest == longest
    assert lm.generate([prompts[0]] * 2, max_new_tokens=200, grammar=grammar) == [alone[0]] * 2


def test_sampled_texts_follow_the_seed(lm: LanguageModel) -> None:
    grammar = Grammar(lm.tokens, follow)

    def texts(seed: int, **options: float) -> list[str]:
        return lm.generate(
            PROMPTS, temperature=2.0, seed=seed, max_new_tokens=200, grammar=grammar, **options
        )

    assert texts(1) == texts(1) != texts(2)
    for text in texts(3):
        content = json.loads(text)
        assert content["alpha"] in (0.1, 0.5, 1.0)
        assert len(set(content["tags"])) == len(content["tags"])
    likeliest = lm.generate(PROMPTS, max_new_tokens=200, grammar=grammar)
    assert texts(1, top_p=1e-6) == likeliest
