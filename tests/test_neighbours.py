"""Methods that count: tables of neighbours, and what ItemKNN, LastItem and Popularity make of them."""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy.sparse import csr_matrix

from recbench.models import ItemKNN, LastItem, Popularity
from recbench.nn.neighbours import NeighbourTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.models.base import Scorer

# trained on: 1 2, 1 2 3, 1 1; item 4 is only ever held out
THREE = [[1, 2, 4, 4], [1, 2, 3, 4, 4], [1, 1, 4, 4]]


def solved(model: Scorer, data: InteractionData) -> Scorer:
    model.build(data.catalog)
    for stage in model.stages(data):
        assert stage.solve is not None
        stage.solve()
    return model


class TestTable:
    MATRIX = csr_matrix([[0, 0, 0, 0], [0, 0, 0.5, 0.5], [0, 0.25, 0, 2.0], [0, 0, 0, 0.125]])

    def test_sums_weights_times_strengths(self) -> None:
        table = NeighbourTable(3, num_neighbours=3)
        table.fill(self.MATRIX)
        found = table.sum_over(torch.tensor([[1, 2], [0, 3]]), torch.tensor([[1.0, 0.5], [0.0, 2.0]]))
        assert found.tolist() == [[0, 0.125, 0.5, 1.5], [0, 0, 0, 0.25]]

    def test_keeps_the_strongest_and_of_equals_the_smaller_index(self) -> None:
        table = NeighbourTable(3, num_neighbours=1)
        table.fill(self.MATRIX)
        assert table.items[:, 0].tolist() == [0, 2, 3, 3]
        assert table.weights[:, 0].tolist() == [0, 0.5, 2.0, 0.125]

    def test_is_no_wider_than_the_catalogue(self) -> None:
        assert NeighbourTable(3, num_neighbours=200).items.shape == (4, 3)

    def test_forgets_when_filled_again(self) -> None:
        table = NeighbourTable(3, num_neighbours=2)
        table.fill(self.MATRIX)
        table.fill(csr_matrix((4, 4)))
        assert table.sum_over(torch.tensor([[1, 2, 3]]), torch.ones(1, 3)).tolist() == [[0, 0, 0, 0]]


class TestItemKNN:
    @pytest.fixture
    def score(
        self, data_of: Callable[..., InteractionData], batch_of: Callable[..., SequenceBatch]
    ) -> Callable[..., list[float]]:
        def score(history: list[int], **options: Any) -> list[float]:
            scores = solved(ItemKNN(**options), data_of(THREE)).score(batch_of([history]))
            return scores[0].tolist()

        return score

    # item 1 has users 0 1 2, item 2 users 0 1, item 3 user 1; a repeat does not count twice
    COS_12, COS_13, COS_23 = 2 / sqrt(6), 1 / sqrt(3), 1 / sqrt(2)

    def test_cosine_by_hand(self, score: Callable[..., list[float]]) -> None:
        wanted = [0, self.COS_13, self.COS_12 + self.COS_23, self.COS_13, 0]
        assert score([3, 1]) == pytest.approx(wanted, rel=1e-6)

    def test_an_item_taken_twice_counts_twice(self, score: Callable[..., list[float]]) -> None:
        assert score([1, 1]) == pytest.approx([0, 0, 2 * self.COS_12, 2 * self.COS_13, 0], rel=1e-6)

    def test_older_items_decay(self, score: Callable[..., list[float]]) -> None:
        wanted = [0, 0.5 * self.COS_13, self.COS_12 + 0.5 * self.COS_23, self.COS_13, 0]
        assert score([3, 1], decay=0.5) == pytest.approx(wanted, rel=1e-6)

    def test_only_the_newest_items_count(self, score: Callable[..., list[float]]) -> None:
        assert score([3, 2, 1], last_items=1) == score([1])
        assert score([3, 2, 1], last_items=2) == score([2, 1])
        assert score([3, 2, 1], last_items=9) == score([3, 2, 1], last_items=0)

    def test_shrinkage_is_added_to_the_denominator(self, score: Callable[..., list[float]]) -> None:
        wanted = [0, 0, 2 / (sqrt(6) + 2), 1 / (sqrt(3) + 2), 0]
        assert score([1], shrinkage=2.0) == pytest.approx(wanted, rel=1e-6)

    def test_only_the_nearest_neighbours_count(self, score: Callable[..., list[float]]) -> None:
        assert score([1], num_neighbours=1) == pytest.approx([0, 0, self.COS_12, 0, 0], rel=1e-6)

    @pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.5, 0.5), (2.0, 0.0)])
    def test_bm25_by_its_formula(self, score: Callable[..., list[float]], k1: float, b: float) -> None:
        users_of = {1: {0, 1, 2}, 2: {0, 1}, 3: {1}, 4: set[int]()}
        items_of = {0: 2, 1: 3, 2: 1}  # distinct items per user
        mean_length = (3 + 2 + 1 + 0) / 4

        def similarity(document: int, query: int) -> float:
            length = len(users_of[document]) / mean_length
            saturated = (k1 + 1) / (1 + k1 * (1 - b + b * length))
            common = users_of[document] & users_of[query]
            return sum(log((4 + 1) / (items_of[user] + 1)) * saturated for user in common)

        wanted = [
            sum(similarity(own, item) for own in (3, 1) if own != item) if item else 0 for item in range(5)
        ]
        assert score([3, 1], similarity="bm25", k1=k1, b=b) == pytest.approx(wanted, rel=1e-6)

    def test_who_took_nothing_is_recommended_nothing(self, score: Callable[..., list[float]]) -> None:
        assert score([]) == [0, 0, 0, 0, 0]


class TestLastItem:
    # trained on: 1 2 1 2, 2 3, 1 3; so 1 -> 2 twice, 1 -> 3, 2 -> 1, 2 -> 3
    CHAINS = ([1, 2, 1, 2, 4, 4], [2, 3, 4, 4], [1, 3, 4, 4])
    POPULARITY = (0, 3 / 4, 3 / 4, 2 / 4, 0)  # 3, 3, 2, 0 of at most 3, below one transition

    @pytest.fixture
    def score(
        self, data_of: Callable[..., InteractionData], batch_of: Callable[..., SequenceBatch]
    ) -> Callable[..., list[float]]:
        def score(history: list[int], **options: Any) -> list[float]:
            scores = solved(LastItem(**options), data_of(list(self.CHAINS))).score(batch_of([history]))
            return scores[0].tolist()

        return score

    @pytest.mark.parametrize(
        ("last", "followed"), [(1, [0, 0, 2, 1, 0]), (2, [0, 1, 0, 1, 0]), (3, [0] * 5), (4, [0] * 5)]
    )
    def test_counts_what_followed(
        self, score: Callable[..., list[float]], last: int, followed: list[int]
    ) -> None:
        wanted = [count + popular for count, popular in zip(followed, self.POPULARITY, strict=True)]
        assert score([4, 3, last]) == pytest.approx(wanted, rel=1e-6)

    def test_only_the_most_frequent_followers_count(self, score: Callable[..., list[float]]) -> None:
        assert score([1], num_followers=1) == pytest.approx([0, 0.75, 2.75, 0.5, 0], rel=1e-6)

    def test_without_a_last_item_popularity_decides(self, score: Callable[..., list[float]]) -> None:
        assert score([]) == pytest.approx(self.POPULARITY, rel=1e-6)

    def test_nothing_follows_from_one_user_to_the_next(self, score: Callable[..., list[float]]) -> None:
        assert score([3]) == pytest.approx(self.POPULARITY, rel=1e-6)  # user 1 ends with 3, user 2 follows


class TestPopularity:
    def test_scores_are_training_interactions(
        self, data_of: Callable[..., InteractionData], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = solved(Popularity(), data_of(THREE))
        batch = batch_of([[1], [2, 3]])
        assert model.score(batch).tolist() == [[0, 4, 2, 1, 0]] * 2
        assert model.score(batch, torch.tensor([[3, 1], [4, 2]])).tolist() == [[1, 4], [0, 2]]
