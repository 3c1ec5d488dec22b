from __future__ import annotations

import torch

from recbench.nn.users import UserTable
from recbench.nn.windows import following, trailing

HISTORY = torch.tensor([[0, 4, 7, 2], [1, 5, 3, 9]])


def test_trailing_windows_end_at_their_own_place() -> None:
    wanted = [
        [[0, 0, 0], [0, 0, 4], [0, 4, 7], [4, 7, 2]],
        [[0, 0, 1], [0, 1, 5], [1, 5, 3], [5, 3, 9]],
    ]
    assert trailing(HISTORY, 3).tolist() == wanted


def test_trailing_windows_of_vectors_are_those_of_each_coordinate() -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    found = trailing(x, 2)
    assert found.shape == (2, 4, 3, 2)
    for coordinate in range(3):
        assert torch.equal(found[:, :, coordinate], trailing(x[..., coordinate], 2))


def test_a_window_may_be_wider_than_the_history() -> None:
    assert trailing(torch.tensor([[6, 8]]), 4).tolist() == [[[0, 0, 0, 6], [0, 0, 6, 8]]]


def test_following_items_come_nearest_first_and_end_in_zeros() -> None:
    next_items = torch.tensor([[4, 7, 2, 5]])
    assert following(next_items, 3).tolist() == [[[4, 7, 2], [7, 2, 5], [2, 5, 0], [5, 0, 0]]]
    assert following(next_items, 1)[..., 0].tolist() == next_items.tolist()


class TestUsers:
    def test_whoever_never_trains_stays_at_zero(self) -> None:
        users = UserTable(4, 3)
        optimizer = torch.optim.AdamW(users.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            (users(torch.tensor([0, 2])) - 1).square().sum().backward()
            optimizer.step()
        assert not users.table.weight[[1, 3]].any()
        assert bool((users.table.weight[[0, 2]] != 0).all())

    def test_a_share_of_users_is_forgotten_in_training_only(self) -> None:
        torch.manual_seed(0)
        users = UserTable(1, 2, forget_rate=0.3)
        torch.nn.init.ones_(users.table.weight)
        everyone = torch.zeros(4000, dtype=torch.long)
        kept = users(everyone).detach()
        assert set(kept.sum(1).tolist()) == {0.0, 2.0}  # whole vectors, and not scaled up
        assert abs(float(kept[:, 0].mean()) - 0.7) < 5 * (0.3 * 0.7 / 4000) ** 0.5
        assert bool((users.eval()(everyone) == 1).all())
