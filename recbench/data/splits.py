"""Which interactions are trained on, and which one of each user is to be found. Imports no torch.

U users. Positions are flat, as in `Sequences`: user `u` has positions `offsets[u]` to `offsets[u + 1] - 1`.
A target needs something to be predicted from, so a user's first item never is one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from recbench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rule = Literal["leave_one_out", "global_time"]
NO_TARGET = -1


class Splits(NamedTuple):
    """Where the history of each user is cut.

    Args:
        train_stop: (U,) one past the last position that is trained on.
        test_start: (U,) the first position that nothing before the final test may show.
        validation: (U,) position of the validation target, -1 for users without one.
        test: (U,) position of the test target, -1 for users without one.
        note: how the cut was made where the rule alone does not say it; else empty.
    """

    train_stop: NDArray[np.int64]
    test_start: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    note: str = ""


def cut(
    rule: Rule,
    offsets: NDArray[np.int64],
    times: NDArray[np.int64] | None,
    *,
    name: str,
    shares: tuple[float, float],
) -> Splits:
    """Cut by `rule`.

    Args:
        rule: which of the two below.
        offsets: (U + 1,) of the users' histories.
        times: (positions,) unix seconds; None where they are unknown or count from something else.
        name: the data set, for errors.
        shares: of the interactions, for validation and for test; only `global_time` reads them.

    Raises:
        DataError: the data does not allow it.
    """
    if rule == "leave_one_out":
        return leave_one_out(offsets)
    if times is None:
        raise DataError(f"{name}: split global_time needs absolute times, and has none; use leave_one_out")
    try:
        return global_time(offsets, times, validation_share=shares[0], test_share=shares[1])
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def leave_one_out(offsets: NDArray[np.int64]) -> Splits:
    """The last item of every user is the test target, the one before the validation target.

    Args:
        offsets: (U + 1,) of the users' histories.
    """
    starts, ends = offsets[:-1], offsets[1:]
    return Splits(
        train_stop=np.maximum(ends - 2, starts),
        test_start=ends - 1,
        validation=_after_something(ends - 2, starts),
        test=_after_something(ends - 1, starts),
    )


def global_time(
    offsets: NDArray[np.int64],
    times: NDArray[np.int64],
    *,
    validation_share: float,
    test_share: float,
) -> Splits:
    """Two moments cut all histories alike, so that nobody learns from what has not happened yet.

    Trained on is what comes before the validation cut; a user's validation target is the last item between
    the cuts, the test target the last item from the test cut on ("GTS, last" of Gusak et al., "Time to
    Split", RecSys 2025). Interactions at the very moment of a cut lie after it.

    Args:
        offsets: (U + 1,) of the users' histories, none of which is empty.
        times: (positions,) unix seconds.
        validation_share: of all interactions, between the cuts.
        test_share: of all interactions, from the test cut on.

    Raises:
        DataError: a user's times go back, or a part is empty.
    """
    _refuse_backwards(offsets, times)
    ordered = np.sort(times)
    test_cut, validation_cut = (
        ordered[-max(1, round(share * len(times)))] for share in (test_share, validation_share + test_share)
    )
    starts, ends = offsets[:-1], offsets[1:]
    train_stop = starts + np.add.reduceat(times < validation_cut, starts, dtype=np.int64)
    test_start = starts + np.add.reduceat(times < test_cut, starts, dtype=np.int64)
    splits = Splits(
        train_stop=train_stop,
        test_start=test_start,
        validation=np.where(test_start > train_stop, _after_something(test_start - 1, starts), NO_TARGET),
        test=np.where(ends > test_start, _after_something(ends - 1, starts), NO_TARGET),
        note=f"validation from {_moment(validation_cut)} ({np.mean(times >= validation_cut):.1%} of the "
        f"interactions), test from {_moment(test_cut)} ({np.mean(times >= test_cut):.1%})",
    )
    if not (train_stop > starts).any() or (splits.validation < 0).all() or (splits.test < 0).all():
        raise DataError(
            f"a global-time split leaves nothing to train, validate or test on: {splits.note}; "
            "choose other shares, or split leave_one_out"
        )
    return splits


def _after_something(positions: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions that have a history before them; -1 for the others."""
    return np.where(positions > starts, positions, NO_TARGET)


def _refuse_backwards(offsets: NDArray[np.int64], times: NDArray[np.int64]) -> None:
    """Raise if anybody's times go back: then no position separates before from after."""
    back = np.flatnonzero(np.diff(times) < 0) + 1
    inside = back[~np.isin(back, offsets)]
    if len(inside):
        user = int(np.searchsorted(offsets, inside[0], side="right")) - 1
        raise DataError(
            f"a global-time split needs every user in order of time, but the times of user {user} go back at "
            f"interaction {inside[0] - offsets[user] + 1}; sort by time, or split leave_one_out"
        )


def _moment(seconds: np.int64) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M}"
