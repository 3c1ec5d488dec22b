"""Retrieval by groups: by hand, and against faiss group by group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbench.nn.retrieval import TagRetrieval, Wanted


def retrieval(*members: list[int], num_items: int) -> TagRetrieval:
    return TagRetrieval([np.array(items) for items in members], num_items=num_items)


def found(module: TagRetrieval, scores: list[float], *wanted: Wanted) -> list[list[int]]:
    """What users with these scores of items 1, 2, ... are given."""
    table = torch.tensor([[0.0], *([score] for score in scores)])
    users = torch.ones(len(wanted), 1)
    return [items.tolist() for items, _ in module(users, table, wanted)]


class TestByHand:
    GROUPS = retrieval([1, 2, 3], [3, 4], [5], num_items=6)
    SCORES = (0.9, 0.1, 0.8, 0.7, 0.2, 1.0)  # item 6 is the best and in no group

    def test_the_best_of_each_group_best_first(self) -> None:
        assert found(self.GROUPS, [*self.SCORES], Wanted((0, 1), (1, 2), 3)) == [[1, 3, 4]]

    def test_what_groups_share_is_taken_once_and_made_up_for(self) -> None:
        # 1 and 3 of the first group, 3 and 4 of the second: three items, so 2 fills up
        assert found(self.GROUPS, [*self.SCORES], Wanted((0, 1), (2, 2), 4)) == [[1, 3, 4, 2]]

    def test_a_small_group_leaves_its_share_to_the_others(self) -> None:
        assert found(self.GROUPS, [*self.SCORES], Wanted((2, 0), (2, 1), 3)) == [[1, 3, 5]]

    def test_groups_that_are_too_small_give_all_they_have(self) -> None:
        assert found(self.GROUPS, [*self.SCORES], Wanted((2,), (4,), 4)) == [[5]]

    def test_users_differ(self) -> None:
        asked = Wanted((2,), (1,), 1), Wanted((1,), (1,), 1)
        assert found(self.GROUPS, [*self.SCORES], *asked) == [[5], [3]]

    def test_a_quota_of_none_still_fills_up(self) -> None:
        assert found(self.GROUPS, [*self.SCORES], Wanted((2, 1), (1, 0), 2)) == [[3, 5]]

    def test_size_cuts_what_quotas_gave(self) -> None:
        assert found(self.GROUPS, [*self.SCORES], Wanted((0,), (3,), 2)) == [[1, 3]]

    def test_scores_come_along(self) -> None:
        table = torch.tensor([[0.0], [2.0], [3.0]])
        ((items, scores),) = retrieval([1, 2], num_items=2)(torch.ones(1, 1), table, [Wanted((0,), (2,), 2)])
        assert items.tolist() == [2, 1]
        assert scores.tolist() == [3, 2]


@pytest.mark.parametrize("num_users", [1, 300])
def test_groups_are_searched_as_faiss_does(num_users: int) -> None:
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    num_items, dim = 500, 16
    table = rng.normal(size=(num_items + 1, dim)).astype(np.float32)
    users = rng.normal(size=(num_users, dim)).astype(np.float32)
    parts = np.array_split(rng.permutation(num_items) + 1, 5)  # apart, so quotas are all there is to it
    asked = [Wanted((u % 5, (u + 2) % 5), (7, 4), 11) for u in range(num_users)]
    module = TagRetrieval([np.sort(part) for part in parts], num_items=num_items)
    ours = module(torch.from_numpy(users), torch.from_numpy(table), asked)
    for user, one, (items, _) in zip(users, asked, ours, strict=True):
        wanted: set[int] = set()
        for group, quota in zip(one.groups, one.quotas, strict=True):
            index = faiss.IndexFlatIP(dim)
            index.add(table[parts[group]])
            _, places = index.search(user[None], quota)
            wanted |= set(parts[group][places[0]].tolist())
        assert set(items.tolist()) == wanted
        scores = table[items.numpy()] @ user
        assert (np.diff(scores) <= 1e-5).all()
