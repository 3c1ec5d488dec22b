"""What the figures of `speed.py` are made with: clocks, the machine's rates, and the work that code does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Figure = dict[str, Any]
aten = torch.ops.aten


def line(name: str, value: float, unit: str, **rest: Any) -> Figure:
    """One figure."""
    return {"name": name, "value": round(value, 4), "unit": unit, **rest}


def timed(
    work: Callable[[], object], *, repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of the fastest of `repeats` calls, after one that is not counted."""
    work()
    spent = []
    for _ in range(repeats):
        start = clock()
        work()
        spent.append(clock() - start)
    return min(spent)


def matrix_rate(
    dtype: torch.dtype, *, size: int = 2048, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Operations per second of a large square product."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / timed(lambda: a @ b, repeats=5, clock=clock)


def bandwidth(*, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second, read and written ones together, of copying what no cache holds."""
    source, target = torch.ones(2, 1 << 25)
    return 2 * source.nbytes / timed(lambda: target.copy_(source), repeats=5, clock=clock)


class Rates(NamedTuple):
    """What the machine can do per second, on the threads in force: operations by number format, and bytes."""

    single: float
    half: float
    bytes: float

    @classmethod
    def measured(cls) -> Rates:
        """In CPU-seconds, so that a core shared with others still gives its own rate."""
        single, half = (
            matrix_rate(dtype, clock=time.process_time) for dtype in (torch.float32, torch.bfloat16)
        )
        return cls(single, half, bandwidth(clock=time.process_time))


class Work(TorchDispatchMode):
    """Counts, while it is entered, the work that no implementation can do without.

    That is the multiplications and additions of every product, convolution and attention, forward and
    backward; the vectors that embeddings gather and the gradients of their tables; and what AdamW reads and
    writes of all weights. What is done element by element is left out: it can be fused into its neighbours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = {"single": 0, "half": 0}
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do it, and count it."""
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if count := _FLOPS.get(packet) or flop_registry.get(packet):
            kind = "half" if args[0].dtype in (torch.bfloat16, torch.float16) else "single"
            self.flops[kind] += int(count(*args, **(kwargs or {}), out_val=out))
        elif packet in _BYTES:
            self.bytes += _BYTES[packet](args, out)
        return out

    def floor(self, rates: Rates) -> float:
        """Seconds that the counted work takes at the machine's rates."""
        return (
            self.flops["single"] / rates.single + self.flops["half"] / rates.half + self.bytes / rates.bytes
        )


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Scores, and what they weigh."""
    return 2 * q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _attention_backward(_: Any, q: Tensor, k: Tensor, v: Tensor, *__: Any, **___: Any) -> int:
    """Scores once more, and the gradients of scores, queries, keys and values."""
    return 2 * q[..., 0].numel() * k.shape[-2] * (3 * q.shape[-1] + 2 * v.shape[-1])


# PyTorch's counter lacks what attention is on a CPU
_FLOPS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
_BYTES: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    aten.embedding: lambda _, out: out.nbytes,
    aten.embedding_dense_backward: lambda _, out: out.nbytes,
    aten._embedding_bag: lambda args, _: args[1].numel() * args[0][0].nbytes,
    aten._embedding_bag_forward_only: lambda args, _: args[1].numel() * args[0][0].nbytes,
    # weight, gradient and two moments are read; weight and moments written
    aten._fused_adamw_: lambda args, _: 7 * sum(weight.nbytes for weight in args[0]),
}
