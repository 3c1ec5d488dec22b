from __future__ import annotations

import pytest
import torch

from recbench.data.batch import SequenceBatch


@pytest.fixture
def batch() -> SequenceBatch:
    return SequenceBatch(
        users=torch.tensor([4, 9]),
        history=torch.tensor([[0, 3, 1, 2], [5, 6, 5, 7]]),
        target=torch.tensor([8, 1]),
        times=torch.tensor([[0, 30, 31, 32], [50, 51, 52, 53]]),
        query=["tea", "cake"],
        seen=torch.tensor([[0, 1, 2, 3], [0, 5, 6, 7]]),
        allowed=torch.tensor([[False, True, True], [False, False, True]]),
    )


def test_length_is_the_number_of_users(batch: SequenceBatch) -> None:
    assert len(batch) == 2


def test_next_items_end_with_the_target(batch: SequenceBatch) -> None:
    assert batch.next_items().tolist() == [[3, 1, 2, 8], [6, 5, 7, 1]]


class TestLag:
    def test_the_newest_items_and_their_times_are_gone(self, batch: SequenceBatch) -> None:
        lagged = batch.lagged(2)
        assert lagged.history.tolist() == [[0, 3], [5, 6]]
        assert lagged.times is not None
        assert lagged.times.tolist() == [[0, 30], [50, 51]]

    def test_every_user_may_lack_another_number(self, batch: SequenceBatch) -> None:
        found = batch.without_newest(torch.tensor([3, 1]))
        assert found.history.tolist() == [[0, 0, 0, 0], [0, 5, 6, 5]]
        assert found.times is not None
        assert found.times.tolist() == [[0, 0, 0, 0], [0, 50, 51, 52]]
        assert found.target is batch.target

    def test_what_is_not_history_stays(self, batch: SequenceBatch) -> None:
        lagged = batch.lagged(3)
        assert lagged.users is batch.users
        assert lagged.target is batch.target
        assert lagged.seen is batch.seen
        assert lagged.allowed is batch.allowed
        assert lagged.query is batch.query

    def test_of_nothing_is_the_same_history(self, batch: SequenceBatch) -> None:
        assert batch.lagged(0).history.tolist() == batch.history.tolist()

    @pytest.mark.parametrize("num_items", [4, 5, 100])
    def test_past_the_start_leaves_one_column_of_padding(self, batch: SequenceBatch, num_items: int) -> None:
        lagged = batch.lagged(num_items)
        assert lagged.history.tolist() == [[0], [0]]
        assert lagged.times is not None
        assert lagged.times.tolist() == [[0], [0]]

    def test_without_times(self, batch: SequenceBatch) -> None:
        untimed = SequenceBatch(batch.users, batch.history, batch.target)
        assert untimed.lagged(1).times is None
        assert untimed.lagged(9).times is None

    def test_lags_add_up(self, batch: SequenceBatch) -> None:
        assert batch.lagged(1).lagged(2).history.tolist() == batch.lagged(3).history.tolist()

    def test_a_negative_lag_would_show_the_future(self, batch: SequenceBatch) -> None:
        with pytest.raises(ValueError, match="0 or more interactions, got -1"):
            batch.lagged(-1)


class TestDevice:
    def test_every_tensor_moves(self, batch: SequenceBatch) -> None:
        moved = batch.to("meta")
        assert {moved.users.device.type, moved.history.device.type, moved.target.device.type} == {"meta"}
        assert moved.times is not None
        assert moved.seen is not None
        assert moved.allowed is not None
        assert moved.times.device.type == moved.seen.device.type == moved.allowed.device.type == "meta"

    def test_what_is_no_tensor_stays(self, batch: SequenceBatch) -> None:
        assert batch.to("meta").query == ["tea", "cake"]
        assert SequenceBatch(batch.users, batch.history, batch.target).to("meta").seen is None

    def test_values_survive(self, batch: SequenceBatch) -> None:
        assert batch.to(torch.device("cpu")).history.tolist() == batch.history.tolist()
