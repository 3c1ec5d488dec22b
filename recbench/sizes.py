"""What a method takes: weights, gradients, optimiser and activations, before anything of it exists.

The method is built on the meta device, where tensors have shapes and no content. Activations are what
autograd keeps of a training step, counted by a hook: of a language model on the meta device, of other methods
in two small real steps, since most losses look at values. B samples, H heads, T tokens, D width.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from recbench.data.batch import SequenceBatch
from recbench.models.base import Recommender
from recbench.nn import lm_sizes
from recbench.nn.language_model import LanguageModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from recbench.data.module import InteractionData

ANSWER_TOKENS = 32  # assumed of what a language model learns to write
_FEW = 8  # samples that are really run where a loss looks at values


class Activations(NamedTuple):
    """Bytes that one step keeps for its backward pass (None where that cannot be told), and how counted."""

    num_bytes: int | None
    how: str


class Sizes(NamedTuple):
    """Of a method on a data set.

    Args:
        num_weights: of all parameters, whatever their number of bits.
        num_trained: of those that are trained by gradient.
        weight_bytes: of parameters and buffers.
        training_bytes: of gradients and the two moments of AdamW, all in the trained weights' type.
        activations: of one step.
    """

    num_weights: int
    num_trained: int
    weight_bytes: int
    training_bytes: int
    activations: Activations


def measure(model: Recommender, data: InteractionData) -> Sizes:
    """Build `model` for `data` on the meta device and add up.

    Args:
        model: not yet built.
        data: decides the number of items and the length of histories.

    Raises:
        UsageError: a language model of the method is not known.
        ResourceError: nothing is known here of a language model's sizes, or a package is missing.
    """
    blank = copy.deepcopy(model)
    with torch.device("meta"):
        model.build(data.catalog)
    if any(not tensor.is_meta for tensor in _tensors(model)):
        model.to("meta")  # tables that came from numpy
    lms = _language_models(model)
    inside = {id(tensor) for lm in lms for tensor in _tensors(lm)}
    outside = [tensor for tensor in _tensors(model) if id(tensor) not in inside]
    is_trained = type(model).loss is not Recommender.loss
    trained = [weight for weight in model.parameters() if weight.requires_grad] if is_trained else []
    return Sizes(
        num_weights=num_weights(model),
        num_trained=sum(weight.numel() for weight in trained),
        weight_bytes=sum(tensor.nbytes for tensor in outside) + sum(map(lm_sizes.num_bytes, lms)),
        training_bytes=3 * sum(weight.nbytes for weight in trained),
        activations=_activations(model, blank, data) if is_trained else Activations(0, "no backward pass"),
    )


def num_weights(module: nn.Module) -> int:
    """All parameters, whatever their number of bits."""
    lms = _language_models(module)
    inside = {id(weight) for lm in lms for weight in lm.parameters()}
    plain = sum(weight.numel() for weight in module.parameters() if id(weight) not in inside)
    return plain + sum(map(lm_sizes.num_weights, lms))


def num_bytes(module: nn.Module) -> int:
    """What a checkpoint has of it, each tensor once, and its language models whole, as they lie in memory."""
    named = module.named_modules(remove_duplicate=False)
    inside = tuple(f"{name}." if name else "" for name, part in named if isinstance(part, LanguageModel))
    state = module.state_dict(keep_vars=True)  # so that weights with two names are told by what they are
    plain: dict[int, Tensor] = {
        id(tensor): tensor for name, tensor in state.items() if not name.startswith(inside)
    }
    return sum(tensor.nbytes for tensor in plain.values()) + sum(
        map(lm_sizes.num_bytes, _language_models(module))
    )


def _activations(model: Recommender, blank: Recommender, data: InteractionData) -> Activations:
    """Of the language models, where the method has any, else of everything."""
    num_samples = model.recipe.batch_size
    if lms := _language_models(model):
        trained = [lm for lm in lms if lm.options.lora.rank]
        if not trained:
            return Activations(
                None, "not told: the language model is frozen, what is around it depends on texts"
            )
        how = ", ".join(
            f"{num_samples} prompts and answers of {lm.tokens.max_tokens} tokens together" for lm in trained
        )
        return Activations(sum(_of_language_model(lm, num_samples) for lm in trained), f"{how}, on meta")
    how = (
        f"one step of {num_samples} samples of {data.max_len} items, from real ones of {_FEW} and {2 * _FEW}"
    )
    try:
        return Activations(_extrapolated(blank, data), how)
    except (AttributeError, IndexError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return Activations(None, f"not told: the loss needs more than a batch ({type(error).__name__})")


def kept_bytes(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of the storages that autograd keeps of what `run` computes, weights left out, each once."""
    own = {tensor.untyped_storage()._cdata for tensor in _tensors(model)}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other storage gets its address
        return tensor

    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    model.train(was_training)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def _of_language_model(lm: LanguageModel, num_rows: int) -> int:
    """Of a step that writes answers; layers that are computed twice keep what enters them."""
    num_tokens, answer = lm.tokens.max_tokens, min(ANSWER_TOKENS, lm.tokens.max_tokens - 1)
    read, wanted = [[0] * (num_tokens - answer)] * num_rows, [[0] * answer] * num_rows
    with _Fused():
        kept = kept_bytes(lm, lambda: lm.row_losses(read, wanted)[0].sum())
    width = getattr(torch, lm.options.dtype).itemsize
    entering = lm.model.config.num_hidden_layers * num_rows * num_tokens * lm.dim * width
    return kept + (entering if lm.options.checkpointing else 0)


class _Fused(TorchFunctionMode):
    """On meta: attention keeps what fused kernels keep, and rows are full where a mask asks.

    Without it the attention of the meta device keeps (B, H, T, T) probabilities in 32 bits.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])  # type: ignore[no-untyped-call]
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """Queries, keys, values (B, H, T, D), the outcome, and (B, H, T) normalisers in 32 bits."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Shapes only; there is no way back."""
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


def _extrapolated(blank: Recommender, data: InteractionData) -> int:
    """Of a whole batch, on a line through two small ones."""
    blank.build(data.catalog)
    few, twice = (
        kept_bytes(blank, lambda size=size: blank.loss(_batch(size, data.max_len, data.catalog.num_items)))  # type: ignore[misc]
        for size in (_FEW, 2 * _FEW)
    )
    return few + (twice - few) * (blank.recipe.batch_size - _FEW) // _FEW


def _batch(num_samples: int, length: int, num_items: int) -> SequenceBatch:
    """Full histories of random items."""
    draw = torch.Generator().manual_seed(0)
    items = torch.randint(1, num_items + 1, (num_samples, length + 1), generator=draw)
    return SequenceBatch(users=torch.arange(num_samples), history=items[:, :-1], target=items[:, -1])


def _language_models(model: nn.Module) -> list[LanguageModel]:
    return [module for module in model.modules() if isinstance(module, LanguageModel)]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
