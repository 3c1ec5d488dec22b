"""Both ways to cut, against rules written out user by user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.data.splits import global_time, leave_one_out
from recbench.errors import DataError

# users of one to six interactions at the given seconds; small numbers so that many coincide
HISTORIES = st.lists(
    st.lists(st.integers(0, 30), min_size=1, max_size=6).map(sorted), min_size=1, max_size=12
)
DAY = 86_400


def flat(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and times of some users."""
    offsets = np.cumsum([0, *map(len, histories)])
    return offsets, np.array([time for times in histories for time in times])


@given(HISTORIES)
def test_leave_one_out_is_what_it_says_for_every_user(histories: list[list[int]]) -> None:
    offsets, _ = flat(histories)
    found = leave_one_out(offsets)
    for user, (times, start) in enumerate(zip(histories, offsets.tolist(), strict=False)):
        last = start + len(times) - 1
        assert found.test[user] == (last if len(times) > 1 else -1)
        assert found.validation[user] == (last - 1 if len(times) > 2 else -1)
        assert found.train_stop[user] == max(start, last - 1)
        assert found.test_start[user] == last


@given(HISTORIES, st.sampled_from([0.1, 0.25, 0.4]), st.sampled_from([0.1, 0.3]))
def test_global_time_is_what_it_says_for_every_user(
    histories: list[list[int]], validation_share: float, test_share: float
) -> None:
    everything = sorted(time for times in histories for time in times)
    test_cut = everything[-max(1, round(test_share * len(everything)))]
    validation_cut = everything[-max(1, round((validation_share + test_share) * len(everything)))]
    wanted = {"train": [], "validation": [], "test": []}
    for user, times in enumerate(histories):
        wanted["train"] += [(user, i) for i, time in enumerate(times) if time < validation_cut]
        between = [i for i, time in enumerate(times) if validation_cut <= time < test_cut]
        late = [i for i, time in enumerate(times) if time >= test_cut]
        wanted["validation"] += [(user, max(between))] if between and max(between) else []
        wanted["test"] += [(user, max(late))] if late and max(late) else []
    offsets, times = flat(histories)
    options = {"validation_share": validation_share, "test_share": test_share}
    if not all(wanted.values()):
        with pytest.raises(DataError, match="leaves nothing to train, validate or test on"):
            global_time(offsets, times, **options)
        return
    found = global_time(offsets, times, **options)
    place = {
        start + i: (user, i) for user, start in enumerate(offsets[:-1]) for i in range(len(histories[user]))
    }
    trained = zip(offsets, found.train_stop, strict=False)
    assert [place[p] for start, stop in trained for p in range(start, stop)] == wanted["train"]
    assert [place[p] for p in found.validation if p >= 0] == wanted["validation"]
    assert [place[p] for p in found.test if p >= 0] == wanted["test"]
    assert all(
        times[start : found.test_start[user]].max(initial=-1) < test_cut
        for user, start in enumerate(offsets[:-1])
    )


def test_the_stated_shares_lie_after_the_cuts() -> None:
    offsets, times = np.array([0, 60, 100]), np.concatenate([np.arange(60), np.arange(40) * 1.5]).astype(int)
    found = global_time(offsets, times, validation_share=0.2, test_share=0.1)
    ordered = sorted(times.tolist())
    assert sum(found.train_stop - offsets[:-1]) == sum(time < ordered[70] for time in ordered)
    assert sum(offsets[1:] - found.test_start) == sum(time >= ordered[90] for time in ordered)


def test_the_note_tells_the_cuts_and_what_lies_after_them() -> None:
    times = np.arange(10) * DAY  # 1970-01-01 to 1970-01-10
    found = global_time(np.array([0, 10]), times, validation_share=0.3, test_share=0.2)
    assert found.note == (
        "validation from 1970-01-06 00:00 (50.0% of the interactions), test from 1970-01-09 00:00 (20.0%)"
    )


def test_times_that_go_back_are_refused_by_user_and_place() -> None:
    offsets, times = flat([[1, 2, 3], [4, 9, 8, 10], [5, 6]])
    with pytest.raises(DataError, match="the times of user 1 go back at interaction 3"):
        global_time(offsets, times, validation_share=0.2, test_share=0.2)
