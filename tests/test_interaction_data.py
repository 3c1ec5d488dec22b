from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.data import synthetic
from recbench.data.module import InteractionData
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from recbench.data.batch import SequenceBatch

# user 1 has the fewest items that can be split; user 3 takes item 1 twice
FOUR = [[1, 2, 3, 4, 5], [2, 3, 4], [5, 4, 3, 2, 1, 6, 7], [1, 1, 2, 6]]


@pytest.fixture
def four(data_of: Callable[..., InteractionData]) -> InteractionData:
    return data_of(FOUR)


@pytest.fixture
def unique(data_of: Callable[..., InteractionData]) -> InteractionData:
    """Users of 3 to 29 items in which every interaction has an item of its own, which so tells its place."""
    lengths = np.random.default_rng(0).integers(3, 30, 40)
    ends = np.cumsum(lengths) + 1
    return data_of([list(range(end - n, end)) for end, n in zip(ends, lengths, strict=True)], max_len=5)


def real(row: torch.Tensor) -> list[int]:
    """Without padding, which must all be on the left."""
    items: list[int] = row.tolist()
    while items and items[0] == 0:
        del items[0]
    assert 0 not in items
    return items


def by_user(batches: Iterable[SequenceBatch]) -> dict[int, tuple[list[int], int, set[int]]]:
    """User -> history, target, seen items."""
    rows = {}
    for batch in batches:
        assert batch.seen is not None
        for i, user in enumerate(batch.users.tolist()):
            assert user not in rows
            rows[user] = (real(batch.history[i]), int(batch.target[i]), {*batch.seen[i].tolist()} - {0})
    return rows


class TestSplit:
    def test_validation_is_the_second_last_item_after_everything_before_it(
        self, four: InteractionData
    ) -> None:
        assert by_user(four.val_dataloader()) == {
            0: ([1, 2, 3], 4, {1, 2, 3}),
            1: ([2], 3, {2}),
            2: ([5, 4, 3, 2, 1], 6, {1, 2, 3, 4, 5}),
            3: ([1, 1], 2, {1}),
        }

    def test_test_is_the_last_item_after_everything_before_it(self, four: InteractionData) -> None:
        assert by_user(four.test_dataloader()) == {
            0: ([1, 2, 3, 4], 5, {1, 2, 3, 4}),
            1: ([2, 3], 4, {2, 3}),
            2: ([5, 4, 3, 2, 1, 6], 7, {1, 2, 3, 4, 5, 6}),
            3: ([1, 1, 2], 6, {1, 2}),
        }

    def test_histories_are_cut_at_max_len_but_everything_stays_seen(
        self, data_of: Callable[..., InteractionData]
    ) -> None:
        rows = by_user(data_of(FOUR, max_len=2).test_dataloader())
        assert rows[2] == ([1, 6], 7, {1, 2, 3, 4, 5, 6})

    def test_nothing_is_barred_where_repeats_are_legal(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR, mask_seen=False)
        assert all(batch.seen is None for batch in [*data.val_dataloader(), *data.test_dataloader()])

    @pytest.mark.parametrize("size", [1, 3, 1024])
    def test_every_user_comes_once(self, data_of: Callable[..., InteractionData], size: int) -> None:
        loader = data_of(FOUR, eval_batch_size=size).test_dataloader()
        batches = list(loader)
        assert len(batches) == len(loader)
        assert sorted(user for batch in batches for user in batch.users.tolist()) == [0, 1, 2, 3]

    def test_test_targets_are_out_of_reach_while_training(self, four: InteractionData) -> None:
        with four.training():
            four.val_dataloader()
            with pytest.raises(RuntimeError, match="choose on the validation split"):
                four.test_dataloader()
        four.test_dataloader()

    def test_popularity_counts_what_is_trained_on(self, four: InteractionData) -> None:
        # trained on: 1 2 3, 2, 5 4 3 2 1, 1 1; padding first
        assert four.catalog.popularity.tolist() == [0, 4, 3, 2, 1, 1, 0, 0]
        assert (four.catalog.num_users, four.catalog.num_items) == (4, 7)


class TestRequest:
    def test_now_shows_everything_and_has_no_target(self, four: InteractionData) -> None:
        batch = four.request(np.array([3, 1]), back=0)  # user 3 ends where the flat table ends
        assert [real(row) for row in batch.history] == [[1, 1, 2, 6], [2, 3, 4]]
        assert batch.target.tolist() == [0, 0]
        assert batch.seen is not None
        assert [{*row} - {0} for row in batch.seen.tolist()] == [{1, 2, 6}, {2, 3, 4}]

    def test_the_moment_before_an_item(self, four: InteractionData) -> None:
        batch = four.request(np.array([2]), back=3)
        assert (real(batch.history[0]), batch.target.tolist()) == ([5, 4, 3, 2], [1])

    def test_times_stand_beside_their_items(self, demo: InteractionData) -> None:
        frame = demo.prepared.interactions
        batch = demo.request(np.array([7]))
        own = frame.filter(frame["user"] == 7)
        assert batch.times is not None
        assert real(batch.history[0]) == own["item"].to_list()[:-1][-50:]
        assert batch.times[0].tolist()[-len(own) + 1 :] == own["time"].to_list()[:-1][-50:]

    def test_the_query_asks_for_the_last_item_only(self, demo: InteractionData) -> None:
        assert demo.prepared.queries is not None
        words = demo.prepared.queries["query"].to_list()
        users = np.array([5, 2])
        assert demo.request(users, back=1).query == [words[5], words[2]]
        assert demo.request(users, back=2).query is None
        assert demo.request(users, back=0).query is None


class TestTraining:
    def test_long_users_are_cut_from_their_end(self, data_of: Callable[..., InteractionData]) -> None:
        loader = data_of(FOUR, max_len=2).batched(1, seed=0).train_dataloader()
        windows = {(int(b.users[0]), *real(b.history[0]), int(b.target[0])) for b in loader}
        assert windows == {(0, 1, 2, 3), (2, 5, 4, 3), (2, 3, 2, 1), (3, 1, 1)}

    def test_every_training_item_but_the_first_is_a_target_once(self, unique: InteractionData) -> None:
        targets: Counter[int] = Counter()
        for batch in unique.batched(7, seed=0).train_dataloader():
            assert batch.history.shape[1] <= 5
            targets.update(batch.next_items()[batch.history != 0].tolist())
        spans = pairwise(unique.sequences.offsets)
        wanted = [item for start, stop in spans for item in unique.sequences.items[start + 1 : stop - 2]]
        assert targets == Counter(wanted)

    def test_later_items_are_never_shown(self, unique: InteractionData) -> None:
        stops = unique.sequences.offsets[1:]
        validation, test = set(unique.sequences.items[stops - 2]), set(unique.sequences.items[stops - 1])
        trained = list(unique.batched(8, seed=0).train_dataloader())
        shown = {item for b in trained for item in [*b.history.flatten().tolist(), *b.target.tolist()]}
        assert not shown & (validation | test)
        chosen = list(unique.val_dataloader())
        assert all(b.seen is not None for b in chosen)
        for values in ([b.history, b.target, b.seen] for b in chosen):
            assert not {item for value in values for item in value.flatten().tolist()} & test

    def test_training_batches_bar_nothing_and_have_no_query(self, demo: InteractionData) -> None:
        batch = next(iter(demo.train_dataloader()))
        assert batch.seen is None
        assert batch.query is None

    def test_there_is_next_to_no_padding(self) -> None:
        data = InteractionData.of(synthetic.demo(num_users=2000)).batched(64, seed=0)
        masks = [batch.history == 0 for batch in data.train_dataloader()]
        assert sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks) < 0.1


def order(data: InteractionData) -> list[list[list[int]]]:
    """The histories of the next epoch, batch by batch."""
    loader = data.train_dataloader()
    batches = [batch.history.tolist() for batch in loader]
    assert len(batches) == len(loader)
    return batches


class TestOrder:
    def test_is_decided_by_seed_and_epoch(self, unique: InteractionData) -> None:
        first = [order(unique.batched(8, seed=0)), order(unique)]
        again = [order(unique.batched(8, seed=0)), order(unique)]
        assert first == again

    def test_changes_with_the_epoch_and_with_the_seed(self, unique: InteractionData) -> None:
        first, second = order(unique.batched(8, seed=0)), order(unique)
        other = order(unique.batched(8, seed=1))
        assert first != second
        assert first != other

    def test_goes_on_where_a_saved_state_stood(self, unique: InteractionData) -> None:
        unique.batched(8, seed=3)
        order(unique), order(unique)
        state = unique.state_dict()
        third = order(unique)
        resumed = unique.batched(8, seed=3)
        resumed.load_state_dict(state)
        assert order(resumed) == third

    def test_a_pass_that_was_only_begun_does_not_count(self, unique: InteractionData) -> None:
        first = order(unique.batched(8, seed=0))
        unique.batched(8, seed=0)
        assert next(iter(unique.train_dataloader())).history.tolist() == first[0]
        assert order(unique) == first

    def test_evaluating_does_not_disturb_it(self, unique: InteractionData) -> None:
        unique.batched(8, seed=0)
        order(unique)
        second = order(unique)
        unique.batched(8, seed=0)
        order(unique)
        assert list(unique.val_dataloader())
        assert order(unique) == second


class TestHeldOut:
    @pytest.fixture
    def halves(self, data_of: Callable[..., InteractionData]) -> InteractionData:
        return data_of(FOUR, heldout_rate=0.5)

    def test_splits_the_users(self, halves: InteractionData) -> None:
        known, heldout = halves.users("known"), halves.users("heldout")
        assert len(heldout) == 2
        assert sorted([*known, *heldout]) == [0, 1, 2, 3]

    def test_neither_trains_nor_validates_nor_counts(self, halves: InteractionData) -> None:
        known = halves.users("known").tolist()
        trained = {user for batch in halves.train_dataloader() for user in batch.users.tolist()}
        assert trained <= set(known)
        assert set(by_user(halves.val_dataloader())) == set(known)
        assert set(by_user(halves.test_dataloader())) == set(known)
        trained_on = Counter(item for user in known for item in FOUR[user][:-2])
        assert halves.catalog.popularity.tolist() == [trained_on[item] for item in range(8)]
        assert sorted(halves.train_sequences().items.tolist()) == sorted(trained_on.elements())

    def test_is_scored_apart(self, halves: InteractionData) -> None:
        rows = by_user(halves.targets("test", "heldout"))
        assert {user: target for user, (_, target, _) in rows.items()} == {
            user: FOUR[user][-1] for user in halves.users("heldout").tolist()
        }

    def test_follows_the_index_seed(self, data_of: Callable[..., InteractionData]) -> None:
        chosen = [
            tuple(data_of(FOUR, heldout_rate=0.25, index_seed=seed).users("heldout")) for seed in range(20)
        ]
        assert len(set(chosen)) > 1
        assert chosen[0] == tuple(data_of(FOUR, heldout_rate=0.25).users("heldout"))


# user 0 is done before both cuts, user 2 begins after them, user 3 has its only late item as its first
TIMED = [[1, 2, 3], [4, 5, 1, 2, 3], [6, 7, 1], [5]]
TIMES = [[0, 10, 20], [5, 40, 60, 75, 95], [80, 85, 90], [99]]


def timed(data: InteractionData, times: list[list[int]], **options: Any) -> InteractionData:
    """The same histories at the given seconds of 1970."""
    frame = data.prepared.interactions.with_columns(
        time=pl.Series([t for row in times for t in row], dtype=pl.Int64)
    )
    card = data.prepared.card.model_copy(update={"clock": "unix"})
    return InteractionData.of(dataclasses.replace(data.prepared, interactions=frame, card=card), **options)


class TestGlobalTime:
    OPTIONS: ClassVar = {"split": "global_time", "validation_share": 0.25, "test_share": 0.25}

    @pytest.fixture
    def cut(self, data_of: Callable[..., InteractionData]) -> InteractionData:
        # the last 3 of 12 from second 90 on, the 3 before from second 75 on
        return timed(data_of(TIMED), TIMES, **self.OPTIONS)

    def test_what_is_trained_on_came_before_the_validation_cut(self, cut: InteractionData) -> None:
        found = cut.train_sequences()
        assert found.items.tolist() == [1, 2, 3, 4, 5, 1]
        assert found.lengths.tolist() == [3, 3, 0, 0]
        assert cut.catalog.popularity.tolist() == [0, 2, 1, 1, 1, 1, 0, 0]
        targets = [batch.next_items()[batch.history != 0].tolist() for batch in cut.train_dataloader()]
        assert sorted(item for row in targets for item in row) == [1, 2, 3, 5]

    def test_the_targets_are_the_last_items_after_the_cuts(self, cut: InteractionData) -> None:
        assert by_user(cut.val_dataloader()) == {1: ([4, 5, 1], 2, {1, 4, 5}), 2: ([6], 7, {6})}
        assert by_user(cut.test_dataloader()) == {
            1: ([4, 5, 1, 2], 3, {1, 2, 4, 5}),
            2: ([6, 7], 1, {6, 7}),
        }

    def test_users_without_a_target_are_counted(self, cut: InteractionData) -> None:
        assert cut.notes() == (
            "validation from 1970-01-01 00:01 (50.0% of the interactions), "
            "test from 1970-01-01 00:01 (25.0%)",
            "2 of 4 users have no validation target and are not evaluated",
            "2 of 4 users have no test target and are not evaluated",
        )
        assert cut.evaluated("test").tolist() == [1, 2]

    def test_test_items_cannot_be_asked_for_while_training(self, cut: InteractionData) -> None:
        with cut.training():
            assert cut.request(np.array([1]), back=2).target.tolist() == [2]
            with pytest.raises(RuntimeError, match="choose on the validation split"):
                cut.request(np.array([1, 2]), back=1)
            with pytest.raises(RuntimeError, match="choose on the validation split"):
                cut.request(np.array([3]), back=1)

    def test_held_out_users_do_not_train_but_have_targets(
        self, data_of: Callable[..., InteractionData]
    ) -> None:
        data = timed(data_of(TIMED), TIMES, heldout_rate=0.5, **self.OPTIONS)
        heldout = set(data.users("heldout").tolist())
        assert {user for batch in data.train_dataloader() for user in batch.users.tolist()}.isdisjoint(
            heldout
        )
        assert set(by_user(data.targets("test", "heldout"))) == heldout & {1, 2}
        assert set(by_user(data.test_dataloader())) == {1, 2} - heldout

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=3, max_size=8).map(sorted),
            min_size=2,
            max_size=10,
        )
    )
    def test_nothing_after_the_validation_cut_is_learnt_from(
        self, data_of: Callable[..., InteractionData], histories: list[list[tuple[int, int]]]
    ) -> None:
        everything = sorted(time for rows in histories for time, _ in rows)
        cut = everything[-max(1, round(0.5 * len(everything)))]
        wanted = [[item for time, item in rows if time < cut] for rows in histories]
        times = [[time for time, _ in rows] for rows in histories]
        try:
            data = timed(data_of([[item for _, item in rows] for rows in histories]), times, **self.OPTIONS)
        except DataError:  # all at one moment
            return
        found = data.train_sequences()
        assert [found.items[a:b].tolist() for a, b in pairwise(found.offsets)] == wanted
        targets: Counter[int] = Counter()
        for batch in data.train_dataloader():
            targets.update(batch.next_items()[batch.history != 0].tolist())
        assert targets == Counter(item for items in wanted for item in items[1:])

    @pytest.mark.parametrize("clock", ["none", "relative"])
    def test_needs_absolute_times(self, data_of: Callable[..., InteractionData], clock: str) -> None:
        prepared = timed(data_of(TIMED), TIMES).prepared
        card = prepared.card.model_copy(update={"clock": clock})
        for lacking in (dataclasses.replace(prepared, card=card), data_of(TIMED).prepared):
            with pytest.raises(
                DataError, match="by-hand: split global_time needs absolute times, and has none"
            ):
                InteractionData.of(lacking, split="global_time")

    def test_leave_one_out_has_nothing_to_remark(self, four: InteractionData) -> None:
        assert four.notes() == ()

    def test_leave_one_out_counts_users_too_short_for_it(
        self, data_of: Callable[..., InteractionData]
    ) -> None:
        data = data_of([[1, 2, 3], [1, 2], [1]])
        assert by_user(data.val_dataloader()) == {0: ([1], 2, {1})}
        assert by_user(data.test_dataloader()) == {0: ([1, 2], 3, {1, 2}), 1: ([1], 2, {1})}
        assert data.train_sequences().lengths.tolist() == [1, 0, 0]
        assert data.notes() == (
            "2 of 3 users have no validation target and are not evaluated",
            "1 of 3 users have no test target and are not evaluated",
        )


class TestReach:
    """Four places on the equator, 0, 3, 7 and 30 km from the first."""

    KM = 360 / (2 * math.pi * 6371.0088)  # one km in degrees

    @pytest.fixture
    def placed(self, data_of: Callable[..., InteractionData]) -> Callable[..., InteractionData]:
        prepared = data_of([[1, 2, 3], [2, 3, 1], [3, 1, 4]]).prepared
        items = prepared.items.with_columns(
            latitude=pl.lit(0.0), longitude=pl.Series([0.0, 3 * self.KM, 7 * self.KM, 30 * self.KM])
        )
        return lambda **options: InteractionData.of(dataclasses.replace(prepared, items=items), **options)

    def near(self, batch: SequenceBatch) -> list[list[int]]:
        assert batch.allowed is not None
        return [row.nonzero()[:, 0].tolist() for row in batch.allowed]

    def test_candidates_lie_around_the_last_check_in(self, placed: Callable[..., InteractionData]) -> None:
        (batch,) = placed(reach_km=5).test_dataloader()
        assert batch.history[:, -1].tolist() == [2, 3, 1]
        assert self.near(batch) == [
            [1, 2, 3],
            [2, 3],
            [1, 2],
        ]  # the target of users 1 and 2 is not among them

    def test_candidates_lie_around_the_target_on_request(
        self, placed: Callable[..., InteractionData]
    ) -> None:
        (batch,) = placed(reach_km=5, reach_from="target").test_dataloader()
        assert batch.target.tolist() == [3, 1, 4]
        assert self.near(batch) == [[2, 3], [1, 2], [4]]

    def test_now_is_the_last_check_in_of_all(self, placed: Callable[..., InteractionData]) -> None:
        for centre in ("last", "target"):
            now = placed(reach_km=5, reach_from=centre).request(np.array([2]), back=0)
            assert self.near(now) == [[4]]

    def test_without_a_limit_nothing_is_said(self, placed: Callable[..., InteractionData]) -> None:
        assert all(batch.allowed is None for batch in placed().test_dataloader())

    def test_training_knows_no_distance(self, placed: Callable[..., InteractionData]) -> None:
        data = placed(reach_km=5, split="leave_one_out").batched(2, seed=0)
        assert all(batch.allowed is None for batch in data.train_dataloader())

    def test_every_place_must_be_known(
        self, four: InteractionData, placed: Callable[..., InteractionData]
    ) -> None:
        with pytest.raises(DataError, match="7 of 7 have no coordinates; set reach_km to 0"):
            InteractionData.of(four.prepared, reach_km=5)
        known = placed().prepared
        items = known.items.with_columns(longitude=pl.when(pl.col("item") != 2).then("longitude"))
        with pytest.raises(DataError, match="1 of 4 have no coordinates"):
            InteractionData.of(dataclasses.replace(known, items=items), reach_km=5)


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        ({}, "loo-full"),
        ({"reach_km": 5}, "loo-5km"),
        ({"reach_km": 2.5, "reach_from": "target"}, "loo-2.5km-target"),
        ({"split": "global_time"}, "time-full"),
        ({"split": "global_time", "reach_km": 5}, "time-5km"),
        ({"split": "global_time", "test_share": 0.2}, "time-full-0.1-0.2"),
        ({"reach_from": "target", "test_share": 0.2}, "loo-full"),  # neither has an effect
    ],
)
def test_the_protocol_says_how_it_is_cut_and_what_competes(options: dict[str, Any], protocol: str) -> None:
    assert InteractionData("demo", **options).protocol == protocol


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_len": 0}, "max_len must be at least 1 item, got 0"),
        ({"heldout_rate": 1.0}, "heldout_rate must lie in 0..1 .* got 1.0"),
        ({"heldout_rate": -0.1}, "heldout_rate must lie in 0..1 .* got -0.1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1 user, got 0"),
        ({"test_share": 0.0}, "above 0 and leave something to train on, got 0.1 and 0.0"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave something to train on, got 0.5 and 0.5"),
        ({"reach_km": -5.0}, "reach_km must be 0 for no limit or a distance in km, got -5.0"),
        ({"reach_km": math.inf}, "reach_km must be .* got inf"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InteractionData("demo", **options)


def test_an_empty_training_batch_is_refused(four: InteractionData) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1 sample, got 0"):
        four.batched(0, seed=0)


def test_fewer_items_may_be_shown_while_as_many_are_seen(unique: InteractionData) -> None:
    whole, short = by_user(unique.test_dataloader()), by_user(unique.showing(2).test_dataloader())
    for user, (history, target, seen) in whole.items():
        assert short[user] == (history[-2:], target, seen)
    with pytest.raises(ValueError, match="num_items must be at least 1 item, got 0"):
        unique.showing(0)
