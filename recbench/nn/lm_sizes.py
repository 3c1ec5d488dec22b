"""What language models weigh: their weights and bytes, on the meta device too, and public configurations.

The configurations are those their owners publish, so that memory can be planned where no hub is reachable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.nn.language_model import LanguageModel

_LLAMA_3: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128_000,
    "eos_token_id": 128_001,
}
_LLAMA_1B = {
    **_LLAMA_3,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
_LLAMA_8B = {
    **_LLAMA_3,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
_T5: dict[str, Any] = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 32_128,
    "d_kv": 64,
    "decoder_start_token_id": 0,
}
PUBLIC: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 49_152,
        "max_position_embeddings": 8192,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": _LLAMA_1B,
    "llama-3.2-1b-instruct": _LLAMA_1B,
    "llama-3.1-8b": _LLAMA_8B,
    "llama-3.1-8b-instruct": _LLAMA_8B,
    "t5-small": {**_T5, "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {**_T5, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}

_BLOCK, _NESTED = 64, 256  # weights per scale, and scales per scale of scales, as bitsandbytes has them
_TABLES = 4 * (16 + 256 + 1)  # of one layer: the 16 values, the values of scales, their offset; 32 bits each


def nf4_bytes(num_weights: int) -> int:
    """What a layer takes in NF4 with double quantisation: 4.127 bits a weight, and its tables.

    Args:
        num_weights: of the layer.
    """
    num_scales = -(-num_weights // _BLOCK)
    return -(-num_weights // 2) + num_scales + 4 * -(-num_scales // _NESTED) + _TABLES


def num_weights(lm: LanguageModel) -> int:
    """Weights of base and adapters, of however many bits."""
    return sum(weight.numel() for weight in _whole(lm)) + sum(_packed_sizes(lm))


def num_bytes(lm: LanguageModel) -> int:
    """Bytes that base and adapters take in memory; on the meta device, that they would take."""
    return sum(weight.nbytes for weight in _whole(lm)) + sum(map(nf4_bytes, _packed_sizes(lm)))


def _packed(lm: LanguageModel) -> Iterator[nn.Linear]:
    """The layers that bitsandbytes holds, or would hold, in 4 bits: all linear ones but the output layer."""
    head = lm.model.get_output_embeddings()
    for name, module in lm.model.named_modules():
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name:
            yield module


def _packed_sizes(lm: LanguageModel) -> list[int]:
    is_packed = lm.options.quantize == "nf4"
    return [layer.in_features * layer.out_features for layer in _packed(lm)] if is_packed else []


def _whole(lm: LanguageModel) -> list[Tensor]:
    """The weights that are not in 4 bits."""
    packed = {id(layer.weight) for layer in _packed(lm)} if lm.options.quantize == "nf4" else set()
    return [weight for weight in lm.parameters() if id(weight) not in packed]
