"""Windows and prefixes: each training item but a user's first is a target once, after what came before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.data.samples import TrainSamples, cut, p5_segments, pod_segments, prefixes, windows

if TYPE_CHECKING:
    from collections.abc import Callable

USERS, STARTS, STOPS = np.array([4, 7]), np.array([10, 20]), np.array([15, 22])


def rows(samples: TrainSamples) -> list[tuple[int, ...]]:
    return [tuple(int(value) for value in row) for row in zip(*samples, strict=True)]


def test_windows_are_cut_from_the_newest_item() -> None:
    assert rows(windows(USERS, STARTS, STOPS, max_len=3)) == [(4, 14, 3), (4, 11, 1), (7, 21, 1)]


def test_prefixes_grow_by_one_target_and_forget_the_oldest() -> None:
    found = rows(prefixes(USERS, STARTS, STOPS, max_len=3))
    assert found == [(4, 11, 1), (4, 12, 2), (4, 13, 3), (4, 14, 3), (7, 21, 1)]


@pytest.mark.parametrize("cut", [windows, prefixes])
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), max_len=st.integers(1, 5))
def test_every_item_but_the_first_is_a_target_once(
    cut: Callable[..., TrainSamples], lengths: list[int], max_len: int
) -> None:
    stops = np.cumsum(lengths)
    starts = stops - lengths
    samples = cut(np.arange(len(lengths)), starts, stops, max_len=max_len)
    learning = 1 if cut is prefixes else max_len
    targets = [
        (user, stop - back) for user, stop, length in rows(samples) for back in range(min(length, learning))
    ]
    wanted = [
        (user, at)
        for user, (start, stop) in enumerate(zip(starts, stops, strict=True))
        for at in range(start + 1, stop)
    ]
    assert sorted(targets) == wanted
    assert all(starts[user] <= stop - length for user, stop, length in rows(samples))


def drawn(how: Callable[..., TrainSamples], num_items: int, *, max_len: int = 50) -> set[tuple[int, int]]:
    """All (place of the target, inputs before it) that a user with so many training items ever gives."""
    many = 5_000
    starts = np.full(many, 100)
    samples = how(np.arange(many), starts, starts + num_items, max_len=max_len, rng=np.random.default_rng(0))
    assert samples.user.tolist() == (list(range(many)) if num_items > 1 else [])
    return {(stop - 99, length) for _, stop, length in rows(samples)}


def test_segments_of_p5_start_in_the_first_three_items_and_end_in_the_last_three() -> None:
    assert drawn(p5_segments, 3) == {(3, 2), (3, 1)}
    assert drawn(p5_segments, 8) == {(t, t - first) for t in (6, 7, 8) for first in (1, 2, 3)}
    assert drawn(p5_segments, 4) == {(3, 2), (3, 1), (4, 3), (4, 2), (4, 1)}


def test_segments_of_pod_start_and_end_anywhere() -> None:
    assert drawn(pod_segments, 4) == {(t, t - first) for t in (2, 3, 4) for first in range(1, t)}
    assert drawn(pod_segments, 6, max_len=2) == {
        (t, min(t - first, 2)) for t in range(2, 7) for first in range(1, t)
    }


@pytest.mark.parametrize("how", [p5_segments, pod_segments])
def test_a_segment_needs_two_items(how: Callable[..., TrainSamples]) -> None:
    assert drawn(how, 2) == {(2, 1)}
    assert drawn(how, 1) == drawn(how, 0) == set()


def test_only_segments_depend_on_the_draw() -> None:
    starts, stops = np.array([0, 20]), np.array([20, 40])
    for samples, is_drawn in (
        ("positions", False),
        ("prefixes", False),
        ("p5_segments", True),
        ("pod_segments", True),
    ):
        first, other = (
            rows(cut(samples, USERS, starts, stops, max_len=9, rng=np.random.default_rng(seed)))
            for seed in (0, 1)
        )
        assert (first != other) == is_drawn
