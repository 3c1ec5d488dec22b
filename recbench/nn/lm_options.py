"""Which language model a method takes and how it is held: what `--model.lm` sets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the linear layers of the attention (Hu et al., ICLR 2022).

    Args:
        rank: of each update; 0 for a frozen model.
        alpha: updates are scaled by alpha / rank.
        dropout: on what enters an adapter.
        targets: names of the layers; those of queries, keys, values and output where none are named.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank must be 0 or more, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha must be above 0, got {self.alpha:g}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be 0 or more and below 1, got {self.dropout:g}")


@dataclass(frozen=True)
class LanguageModelOptions:
    """Which language model, and how it is held; on the command line `--model.lm NAME` sets the name.

    Args:
        name: a short name (`recbench weights list`), a hub's owner/name, or a folder.
        quantize: nf4 holds the linear layers in 4 bits.
        dtype: of the other weights and of computation.
        max_tokens: longest text; of a longer prompt the end is kept, of a longer text to embed the beginning.
        checkpointing: compute activations twice instead of keeping them.
        lora: what is trained.
    """

    name: str = "smollm2-135m"
    quantize: Literal["none", "nf4"] = "none"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens: int = 512
    checkpointing: bool = False
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must say which language model; recbench weights list shows some")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2, got {self.max_tokens}")
