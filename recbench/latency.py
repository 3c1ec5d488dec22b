"""Stopwatch and percentiles: what one request costs in compute; modelled network time is never added here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbench.results import Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def measure(call: Callable[[int], object], *, num_calls: int = 300, num_warmup: int = 30) -> Latency:
    """Milliseconds of `call(i)`, i = 0..num_calls-1, after `num_warmup` calls that are not counted.

    The clock is monotonic and read only when the device has finished.

    Raises:
        ValueError: fewer than 200 calls, too few for a 99th percentile.
    """
    if num_calls < 200:
        raise ValueError(f"a p99 needs at least 200 calls, got {num_calls}")
    for i in range(num_warmup):
        call(i)
    spent = np.empty(num_calls)
    for i in range(num_calls):
        _synchronise()
        start = time.perf_counter()
        call(i)
        _synchronise()
        spent[i] = time.perf_counter() - start
    return percentiles((spent * 1000).tolist())


def percentiles(milliseconds: Sequence[float]) -> Latency:
    """The median and the tail of some durations."""
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).round(4).tolist()
    return Latency(p50_ms=p50, p95_ms=p95, p99_ms=p99, num_calls=len(milliseconds))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
