"""Windows and prefixes: each training item but a user's first is a target once, after what came before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.data.samples import TrainSamples, prefixes, windows

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
