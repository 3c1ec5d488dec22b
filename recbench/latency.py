"""Stopwatch and percentiles: what one request costs in compute; modelled network time is never added here."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbench.results import Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def measure(call: Callable[[int], object], *, num_calls: int = 300, num_warmup: int = 30) -> Latency:
    """The time of `call(i)`, i = 0..num_calls-1, after `num_warmup` calls that are not counted.

    Raises:
        ValueError: fewer than 200 calls, too few for a 99th percentile.
    """

    def whole(total_ms: float) -> dict[str, float]:
        return {"": total_ms}

    return measure_sides(call, whole, num_calls=num_calls, num_warmup=num_warmup)[""]


def measure_sides(
    call: Callable[[int], object],
    split: Callable[[float], Mapping[str, float]],
    *,
    num_calls: int = 300,
    num_warmup: int = 30,
) -> dict[str, Latency]:
    """As `measure`, for each of the sides that take part in a call.

    The clock is monotonic and read only when the device has finished.

    Args:
        call: what is timed.
        split: how the milliseconds of the call before divide; asked after every call, off the clock.
        num_calls: how many count.
        num_warmup: calls before these.

    Raises:
        ValueError: fewer than 200 calls, too few for a 99th percentile.
    """
    if num_calls < 200:
        raise ValueError(f"a p99 needs at least 200 calls, got {num_calls}")
    for i in range(num_warmup):
        call(i)
    spent = defaultdict(list)
    for i in range(num_calls):
        _synchronise()
        start = time.perf_counter()
        call(i)
        _synchronise()
        for side, milliseconds in split(1000 * (time.perf_counter() - start)).items():
            spent[side].append(milliseconds)
    return {side: percentiles(milliseconds) for side, milliseconds in spent.items()}


def percentiles(milliseconds: Sequence[float]) -> Latency:
    """The median and the tail of some durations."""
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).round(4).tolist()
    return Latency(p50_ms=p50, p95_ms=p95, p99_ms=p99, num_calls=len(milliseconds))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
