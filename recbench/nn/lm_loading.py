"""How a language model comes into memory: its kind, its numbers, its 4 bits, its adapters.

transformers, peft and bitsandbytes are imported here only, when a model is made.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from recbench import weights
from recbench.carried import INSTALL
from recbench.errors import DataError, ResourceError
from recbench.nn.lm_attention import use_packed
from recbench.nn.lm_sizes import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recbench.nn.lm_options import LanguageModelOptions, Lora

# layers of the attention as Llama, T5 and BERT call them
ATTENTION = (("q_proj", "k_proj", "v_proj", "o_proj"), ("q", "k", "v", "o"), ("query", "key", "value"))


class Loaded(NamedTuple):
    """A model as transformers makes it, its tokenizer (None on meta where it is not here), (32,) bytes."""

    model: Any
    tokenizer: Any
    base_id: torch.Tensor


def load(options: LanguageModelOptions) -> Loaded:
    """Make the model that `options` ask for, on torch's default device.

    Raises:
        UsageError: there is no model of that name.
        ResourceError: its weights or a package are missing.
        DataError: its folder is damaged.
    """
    transformers = package("transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends kernels from a hub
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device, dtype = torch.get_default_device(), getattr(torch, options.dtype)
    if device.type == "meta":
        return _on_meta(transformers, options.name, dtype)
    folder = weights.require(options.name)
    base_id = torch.tensor(list(bytes.fromhex(fingerprint(folder))), dtype=torch.uint8)
    how: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    if options.quantize == "nf4":
        package("bitsandbytes")
        how["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        how["device_map"] = {"": device}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        model = _kind(transformers, config).from_pretrained(folder, config=config, **how)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, package("safetensors").SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{folder}: no model that transformers can load ({reason})") from None
    _keep_layout(model)
    use_packed(model)
    _keep_head_whole(model)
    return Loaded(model.to(device) if options.quantize == "none" else model, tokenizer, base_id)


def add_adapters(model: nn.Module, lora: Lora, names: Sequence[str] = ("default",)) -> None:
    """Put adapters, in 32 bits, on the layers that `lora` names, one set for each of `names`.

    Only they are trained; the first is in use.

    Raises:
        ValueError: the model has no layer of such a name.
    """
    peft = package("peft")
    here = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    usual: tuple[str, ...] = next((found for found in ATTENTION if here.issuperset(found)), ())
    targets = lora.targets or usual
    if not targets or not here.issuperset(targets):
        missing = ", ".join(sorted(set(targets) - here)) or "no usual names"
        raise ValueError(f"lora.targets: no linear layer is called so ({missing}); there are {sorted(here)}")
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(targets)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several sets are meant
        for name in names:
            peft.inject_adapter_in_model(config, model, name)
    use_adapter(model, names[0])
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def use_adapter(model: nn.Module, name: str) -> None:
    """Compute with the adapters of `name` from now on; all of them stay trainable."""
    peft = package("peft")
    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.set_adapter(name)
            for adapters in (module.lora_A, module.lora_B):
                adapters.requires_grad_(True)


def recompute(model: Any) -> None:
    """Keep what enters each layer only, and compute the rest again on the way back."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def config_of(name: str) -> Any:
    """The configuration of a model, as transformers holds it; weights are not needed.

    Args:
        name: as for `LanguageModelOptions`.

    Raises:
        UsageError: there is no model of that name.
        ResourceError: nothing is known of it here, and a hub does not answer.
    """
    transformers = package("transformers")
    folder = weights.find(name)
    if folder is None and name in PUBLIC:
        settings = dict(PUBLIC[name])
        return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    folder = folder or weights.require(name)
    return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)


def package(name: str) -> Any:
    """An optional package.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ResourceError(f"language models need {name}; {INSTALL}") from None


def _on_meta(transformers: Any, name: str, dtype: torch.dtype) -> Loaded:
    """Sizes only."""
    config = config_of(name)
    folder = weights.find(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True) if folder else None
    model = _kind(transformers, config).from_config(config, dtype=dtype)
    return Loaded(model, tokenizer, torch.zeros(32, dtype=torch.uint8))


def _kind(transformers: Any, config: Any) -> Any:
    """Reads and writes, writes, or reads only."""
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    writes = ("ForCausalLM", "LMHeadModel")
    if any(name.endswith(writes) for name in config.architectures or ()):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _keep_layout(model: nn.Module) -> None:
    """Forbid the packed layout of 4-bit weights that processors with AVX512-BF16 get at the first evaluation.

    bitsandbytes 0.50.2 does not come back from it unharmed: after `state_dict` the weights are others, in
    memory and in the file.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _keep_head_whole(model: Any) -> None:
    """Give the output layer rows that lie together.

    Of a slice of them, such as each text's last token, torch makes a product per text, each with its own copy
    of the layer's weights: for 8 texts of SmolLM2-135M on a CPU eight times the rest of a pass.
    """
    head = model.get_output_embeddings()
    if head is not None:
        # a copy always: a single row of a slice calls itself contiguous, and is not treated so
        head.register_forward_pre_hook(
            lambda _, inputs: (inputs[0].clone(memory_format=torch.contiguous_format),)
        )


def fingerprint(folder: Path) -> str:
    """A sha256 that tells models apart without reading all of them.

    It covers the header of every safetensors file (names, types, shapes), the first 256 bytes of each tensor,
    and the tokenizer, so it changes when any tensor is trained on, and takes milliseconds for 16 GB.

    Args:
        folder: of a model.

    Raises:
        DataError: there are no safetensors, or they are damaged.
    """
    found = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder}: holds no .safetensors; convert the weights, pickled ones are not read")
    for path in files:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = file.read(min(size, 1 << 27))
            found.update(header)
            try:
                entries = json.loads(header)
                starts = sorted(
                    entries[name]["data_offsets"][0] for name in entries if name != "__metadata__"
                )
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}: not a safetensors file, or a damaged one; fetch it again") from None
            for start in starts:
                file.seek(8 + size + start)
                found.update(file.read(256))
    tokenizer = folder / "tokenizer.json"
    found.update(tokenizer.read_bytes() if tokenizer.is_file() else b"")
    return found.hexdigest()
