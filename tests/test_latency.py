from __future__ import annotations

import time

import pytest

from recbench.latency import measure, measure_sides, percentiles


def test_a_call_that_sleeps_five_milliseconds_takes_five() -> None:
    found = measure(lambda _: time.sleep(0.005), num_calls=200, num_warmup=2)
    assert 5 <= found.p50_ms < 50
    assert found.p50_ms <= found.p95_ms <= found.p99_ms
    assert found.num_calls == 200


def test_calls_are_numbered_and_warm_up_is_not_counted() -> None:
    made: list[int] = []

    def call(i: int) -> None:
        made.append(i)
        if len(made) <= 10:
            time.sleep(0.03)  # slow until warm

    found = measure(call, num_calls=200, num_warmup=10)
    assert made == [*range(10), *range(200)]
    assert found.p50_ms < 30


def test_sides_are_told_apart_call_by_call() -> None:
    asked = 0

    def split(total_ms: float) -> dict[str, float]:
        nonlocal asked
        asked += 1
        return {"device": total_ms - 1, "cloud": 1.0, "network": 40.0 if asked % 2 else 60.0}

    found = measure_sides(lambda _: time.sleep(0.003), split, num_calls=200, num_warmup=5)
    assert asked == 200
    assert 2 <= found["device"].p50_ms < 50
    assert (found["cloud"].p50_ms, found["network"].p50_ms, found["network"].p95_ms) == (1, 50, 60)


@pytest.mark.parametrize("num_calls", [0, 199])
def test_too_few_calls_for_a_99th_percentile_are_refused(num_calls: int) -> None:
    with pytest.raises(ValueError, match=f"a p99 needs at least 200 calls, got {num_calls}"):
        measure(lambda _: None, num_calls=num_calls)


def test_percentiles_by_hand() -> None:
    found = percentiles([float(value) for value in range(100, -1, -1)])  # 0..100 in any order
    assert (found.p50_ms, found.p95_ms, found.p99_ms, found.num_calls) == (50, 95, 99, 101)


def test_percentiles_lie_on_the_line_between_two_durations() -> None:
    found = percentiles([1.0, 2.0])
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx((1.5, 1.95, 1.99))
