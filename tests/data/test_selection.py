"""What is selected and in which order, against oracles that a person can check by eye."""

from __future__ import annotations

import random
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.data.ids import coded
from recbench.data.selection import Selection, k_core, narrow, select
from recbench.data.source import Clock, Log
from recbench.errors import DataError, UsageError

Pair = tuple[int, int]

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40)
least = st.integers(0, 4)
timed = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=30)


def _frame(rows: list[Pair]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")


def _log(rows: list[tuple[object, ...]], *columns: str, clock: Clock = "unix") -> Log:
    """A log of `rows` with the given columns; `row` is the place in the list."""
    frame = pl.DataFrame(rows, schema=list(columns), orient="row").with_row_index("row")
    return Log(frame.lazy(), clock)


def _peeled(rows: list[Pair], minima: list[tuple[int, int]]) -> list[Pair]:
    """Drop rows of the rarest kind, one side after the other, until nothing changes."""
    while True:
        before = len(rows)
        for side, minimum in minima:
            counts = Counter(row[side] for row in rows)
            rows = [row for row in rows if counts[row[side]] >= minimum]
        if len(rows) == before:
            return rows


@settings(deadline=None)
@given(pairs, least, least)
def test_k_core_is_what_is_left_by_users_first_and_by_items_first(
    rows: list[Pair], min_user: int, min_item: int
) -> None:
    found = k_core(_frame(rows), min_user=min_user, min_item=min_item).rows()
    assert found == _peeled(rows, [(0, min_user), (1, min_item)])
    assert found == _peeled(rows, [(1, min_item), (0, min_user)])


@settings(deadline=None)
@given(pairs, least, least)
def test_k_core_of_a_k_core_is_itself(rows: list[Pair], min_user: int, min_item: int) -> None:
    once = k_core(_frame(rows), min_user=min_user, min_item=min_item)
    assert k_core(once, min_user=min_user, min_item=min_item).equals(once)


def test_k_core_needs_several_rounds() -> None:
    # 3 loses its only item with user 2, and only then does item 11 fall below two
    rows = [(1, 10), (1, 11), (2, 11), (2, 12), (3, 12), (4, 10), (4, 13), (1, 13), (3, 14)]
    assert k_core(_frame(rows), min_user=2, min_item=2).rows() == [(1, 10), (4, 10), (4, 13), (1, 13)]


ids = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), max_size=20),
    st.lists(st.integers(0, 30), max_size=20),
    st.lists(st.text(max_size=5), max_size=20),
)


@settings(deadline=None)
@given(ids, st.booleans())
def test_codes_are_places_among_the_sorted_ids(values: list[int] | list[str], is_categorical: bool) -> None:
    is_text = bool(values) and isinstance(values[0], str)
    column = pl.Series("id", values, dtype=pl.String if is_text else pl.Int64)
    column = column.cast(pl.Categorical) if is_categorical and is_text else column
    found = coded(column)
    ordered = sorted(set(values), key=lambda value: value.encode() if isinstance(value, str) else value)
    assert found.ids.to_list() == ordered
    assert found.codes.tolist() == [ordered.index(value) for value in values]


def test_ids_that_are_neither_numbers_nor_text_are_refused() -> None:
    with pytest.raises(TypeError, match="column 'user' has type Float64; ids are integers or text"):
        coded(pl.Series("user", [1.5]))


@settings(deadline=None, max_examples=50)
@given(timed, st.sampled_from([int, str]))
def test_order_is_user_then_time_then_place_in_the_file(
    rows: list[tuple[int, int, int]], kind: type[int] | type[str]
) -> None:
    log = _log([(kind(user), item, time) for user, item, time in rows], "user", "item", "time")
    found = select(log, Selection())
    numbered = [(kind(user), time, row, item) for row, (user, item, time) in enumerate(rows)]
    expected = [(user, item, time) for user, time, _, item in sorted(numbered)]
    assert found.select("user", "item", "time").rows() == expected
    counts: Counter[int | str] = Counter()
    for user, pos in found.select("user", "pos").rows():
        assert pos == counts[user]
        counts[user] += 1


@settings(deadline=None, max_examples=50)
@given(timed, st.integers(0, 100))
def test_shuffled_rows_change_nothing_but_ties(rows: list[tuple[int, int, int]], seed: int) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    first, second = (select(_log([*each], "user", "item", "time"), Selection()) for each in (rows, shuffled))
    assert first.select("user", "pos", "time").equals(second.select("user", "pos", "time"))
    within = ["user", "time", "item"]
    assert first.select(within).sort(within).equals(second.select(within).sort(within))
    is_untied = ~pl.struct("user", "time").is_duplicated()
    assert first.filter(is_untied).equals(second.filter(is_untied))


def test_place_in_the_file_is_what_row_says_not_where_the_reader_put_it() -> None:
    log = _log([(1, 3, 7), (1, 1, 7), (1, 2, 7), (1, 9, 5)], "user", "item", "time")
    backwards = Log(log.frame.reverse(), log.clock)
    assert select(log, Selection())["item"].to_list() == [9, 3, 1, 2]
    assert select(backwards, Selection()).equals(select(log, Selection()))


def test_without_times_the_file_is_the_order() -> None:
    log = _log([("b", "y"), ("a", "z"), ("b", "x")], "user", "item", clock="none")
    found = narrow(log, Selection())
    assert found.interactions.rows() == [("a", "z", 0), ("b", "y", 0), ("b", "x", 1)]
    assert found.notes == ("no times: the order is that of the file",)


def test_window_keeps_its_first_and_its_last_day_whole() -> None:
    # 2019-01-01T00:00Z is 1546300800, 2020-01-01T00:00Z is 1577836800
    times = [1546300799, 1546300800, 1577836799, 1577836800]
    log = _log([(1, item, time) for item, time in enumerate(times)], "user", "item", "time")
    found = narrow(log, Selection(since="2019-01-01", until="2019-12-31"))
    assert found.interactions["item"].to_list() == [1, 2]
    assert found.notes == ("2 of 4 (50.00 %) dropped: before 2019-01-01 or after 2019-12-31",)


def test_lowest_rating_drops_what_has_none() -> None:
    log = _log([(1, 5, 2.0), (1, 6, None), (1, 7, 4.0)], "user", "item", "rating", clock="none")
    found = narrow(log, Selection(min_rating=4))
    assert found.interactions["item"].to_list() == [7]
    assert found.notes[0] == "2 of 3 (66.67 %) dropped: without a rating of 4 or more"
    assert select(log, Selection())["item"].to_list() == [5, 6, 7]


def test_of_repeats_the_first_in_time_stays() -> None:
    rows = [(1, 5, 30), (1, 6, 20), (1, 5, 10), (2, 5, 40)]
    found = narrow(_log(rows, "user", "item", "time"), Selection(merge_repeats=True))
    assert found.interactions.rows() == [(1, 5, 0, 10), (1, 6, 1, 20), (2, 5, 0, 40)]
    assert found.notes == ("1 of 4 (25.00 %) dropped: repeats of a user's earlier interaction with the item",)


def test_repeats_are_merged_before_the_core_is_taken() -> None:
    rows = [(1, 5, 1), (1, 5, 2), (2, 5, 3), (2, 6, 4)]
    log = _log(rows, "user", "item", "time")
    assert select(log, Selection(min_user=2, merge_repeats=True))["user"].to_list() == [2, 2]


def test_share_of_ties_is_noted() -> None:
    rows = [(1, 1, 7), (1, 2, 7), (1, 3, 8), (2, 1, 8), (2, 2, 9), (2, 3, 9)]
    notes = narrow(_log(rows, "user", "item", "time"), Selection()).notes
    assert notes == ("2 of 4 (50.00 %) steps take no time, and the file decides their order",)


def test_what_the_core_drops_is_noted() -> None:
    notes = narrow(_log([(1, 1), (1, 2), (2, 1)], "user", "item", clock="none"), Selection(min_user=2)).notes
    assert notes[0] == "1 of 3 (33.33 %) dropped: users with fewer than 2 or items with fewer than 0"


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no interaction of 2 is left after .*min_user=3.*; select less"):
        select(_log([(1, 1), (1, 2)], "user", "item", clock="none"), Selection(min_user=3))


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection(since="2019-01-01"), "need dates, and the file has none"),
        (Selection(min_rating=3), "needs ratings, and the file has none"),
    ],
    ids=["window", "rating"],
)
def test_what_the_file_has_not_cannot_select(selection: Selection, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        select(_log([(1, 1), (1, 2)], "user", "item", clock="none"), selection)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_user": -1}, "selection.min_user must be 0 or more, got -1"),
        ({"min_rating": float("nan")}, "selection.min_rating must be 0 or more, got nan"),
        ({"since": "01.02.2019"}, "selection.since must be a date as in 2019-12-31, got '01.02.2019'"),
        ({"since": "2019-02-02", "until": "2019-02-01"}, "is before selection.since 2019-02-02; swap them"),
    ],
    ids=["negative", "no number", "no date", "backwards"],
)
def test_senseless_selections_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Selection(**options)  # type: ignore[arg-type]
    assert says in str(caught.value)
