"""T5s whose tokens' vectors are kept outside: new ones of any size, and those of the hub or a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from recbench.errors import UsageError
from recbench.nn.dropout import Dropout
from recbench.nn.lm_loading import package

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import T5Model


def new_t5(*, dim: int, num_layers: int, num_heads: int, hidden: int, dropout: float) -> T5Model:
    """A T5 from random weights, `num_layers` blocks on either side."""
    transformers = package("transformers")
    config = transformers.T5Config(
        vocab_size=1,  # tokens come as vectors
        eos_token_id=None,
        d_model=dim,
        d_kv=dim // num_heads,
        d_ff=hidden,
        num_layers=num_layers,
        num_heads=num_heads,
        dropout_rate=dropout,
    )
    return _with_our_dropout(_without_vectors(transformers.T5Model(config)))


def load_t5(name: str, *, dropout: float) -> tuple[T5Model, Tensor, Callable[[str], list[list[int]]]]:
    """A T5 by hub name or folder, its (W, D) token vectors, and text -> the tokens of each word.

    Raises:
        UsageError: there is no such T5, or it cannot be reached.
    """
    transformers = package("transformers")
    try:
        model = transformers.T5Model.from_pretrained(name, dropout_rate=dropout)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--model.pretrained {name}: {reason}; name a folder with the weights and tokenizer of a T5, "
            "or leave it empty for a small one from random weights"
        ) from None
    table = model.shared.weight.detach().clone()

    def encode(text: str) -> list[list[int]]:
        return [tokenizer(word, add_special_tokens=False)["input_ids"] for word in text.split()]

    return _with_our_dropout(_without_vectors(model)), table, encode


def _without_vectors(model: Any) -> T5Model:
    """Its own table would be a weight that never learns, stored three times."""
    model.shared = model.encoder.embed_tokens = model.decoder.embed_tokens = nn.Identity()
    bare: T5Model = model
    return bare


def _with_our_dropout(model: T5Model) -> T5Model:
    """T5's own draws a Bernoulli number per element, a fifth of a training step on a CPU."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.Dropout):
                setattr(parent, name, Dropout(part.p))
    return model
