from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch

from recbench.data.module import BatchLoader
from recbench.errors import DivergedError
from recbench.evaluate import estimates, evaluate, of_lengths, request_latency
from recbench.metrics import KEYS, Ranks, means
from recbench.models import Popularity

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.module import InteractionData

# trained on 1 2 3, 2, 5 4 3 2 1 and 1 1: popularity of items 1 to 7 is 4 3 2 1 1 0 0
FOUR = [[1, 2, 3, 4, 5], [2, 3, 4], [5, 4, 3, 2, 1, 6, 7], [1, 1, 2, 6]]


def popularity(data: InteractionData) -> Popularity:
    model = Popularity()
    model.build(data.catalog)
    for stage in model.stages(data):
        assert stage.solve is not None
        stage.solve()
    return model


class TestEvaluate:
    # user 0: 5 among 5 6 7. user 1: 4, tied with 5, after 1. user 2: 7 is all that is left. user 3: 6, tied
    # with 7, after 3 4 5.
    BY_HAND: ClassVar = {0: (1.0, 1), 1: (2.5, 2), 2: (1.0, 1), 3: (4.5, 2)}

    @pytest.mark.parametrize("size", [1, 3, 1024])
    def test_ranks_by_hand(self, data_of: Callable[..., InteractionData], size: int) -> None:
        data = data_of(FOUR, eval_batch_size=size)
        found = evaluate(popularity(data), data)
        ranks = zip(found.ranks.rank.tolist(), found.ranks.ties.tolist(), strict=True)
        assert dict(zip(found.users.tolist(), ranks, strict=True)) == self.BY_HAND
        assert len(found.users) == 4
        assert found.seconds > 0

    def test_without_a_mask_seen_items_compete(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR, mask_seen=False)
        found = evaluate(popularity(data), data)
        ranks = dict(zip(found.users.tolist(), found.ranks.rank.tolist(), strict=True))
        assert ranks == {0: 4.5, 1: 4.5, 2: 6.5, 3: 6.5}  # 1 2 3, {4 5}, {6 7}

    def test_validation_ranks_the_second_last_item(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR)
        found = evaluate(popularity(data), data, split="validation")
        ranks = dict(zip(found.users.tolist(), found.ranks.rank.tolist(), strict=True))
        # 4 tied with 5 before 6 7; 3 after 1; 6 tied with 7; 2 first
        assert ranks == {0: 1.5, 1: 2, 2: 1.5, 3: 1}

    def test_held_out_users_are_ranked_apart(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR, heldout_rate=0.5)
        model = popularity(data)
        known, heldout = evaluate(model, data), evaluate(model, data, users="heldout")
        assert sorted([*known.users, *heldout.users]) == [0, 1, 2, 3]
        assert set(heldout.users) == set(data.users("heldout"))

    def test_nobody_to_rank_gives_no_ranks(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR)
        found = evaluate(popularity(data), data, users="heldout")
        assert (len(found.users), len(found.ranks.rank), len(found.ranks.ties)) == (0, 0, 0)

    def test_users_without_a_target_are_left_out(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of([[1, 2, 3, 4], [2, 3], [1]])
        found = evaluate(popularity(data), data)
        assert sorted(found.users.tolist()) == [0, 1]
        assert sorted(evaluate(popularity(data), data, split="validation").users.tolist()) == [0]

    def test_targets_out_of_reach_are_misses(
        self, data_of: Callable[..., InteractionData], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = data_of(FOUR)
        assert evaluate(popularity(data), data).num_unreachable is None
        allowed = torch.ones(4, 8, dtype=torch.bool)
        allowed[1, 4] = False  # the target of user 1
        allowed[0, 6:] = False  # all that competes with the target of user 0, and loses
        allowed[:, 0] = False
        (batch,) = data.test_dataloader()
        near = dataclasses.replace(batch, allowed=allowed[batch.users])
        monkeypatch.setattr(data, "targets", lambda *_: [near])
        found = evaluate(popularity(data), data)
        ranks = zip(found.ranks.rank.tolist(), found.ranks.ties.tolist(), strict=True)
        assert dict(zip(found.users.tolist(), ranks, strict=True)) == self.BY_HAND | {1: (math.inf, 1)}
        assert found.num_unreachable == 1
        assert found.notes() == ("25.0% of the targets are out of reach and count as misses",)

    def test_a_user_who_comes_twice_is_noticed(
        self, data_of: Callable[..., InteractionData], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = data_of(FOUR)
        twice = BatchLoader(lambda: [np.array([0, 1]), np.array([1, 2])], data.request, 2)
        monkeypatch.setattr(data, "targets", lambda *_: twice)
        with pytest.raises(AssertionError, match="every user counts once"):
            evaluate(popularity(data), data)

    def test_scores_that_are_no_numbers_are_refused(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR)
        model = popularity(data)
        model.counts.fill_(math.nan)
        with pytest.raises(DivergedError):
            evaluate(model, data)

    def test_the_model_is_put_into_evaluation(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(FOUR)
        model = popularity(data).train()
        evaluate(model, data)
        assert not model.training


class TestEstimates:
    @pytest.fixture
    def ranks(self) -> Ranks:
        rng = np.random.default_rng(0)
        return Ranks(rng.integers(1, 40, 500).astype(float), np.ones(500, dtype=np.int64))

    def test_are_the_means_inside_their_intervals(self, ranks: Ranks) -> None:
        found = estimates(ranks)
        assert tuple(found) == KEYS
        assert {key: estimate.value for key, estimate in found.items()} == means(ranks)
        for estimate in found.values():
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low < estimate.value < estimate.high

    def test_intervals_are_as_wide_as_the_normal_approximation(self, ranks: Ranks) -> None:
        found = estimates(ranks)["hr@10"]
        assert found.low is not None
        assert found.high is not None
        width = 2 * 1.96 * math.sqrt(found.value * (1 - found.value) / 500)
        assert found.high - found.low == pytest.approx(width, rel=0.15)

    def test_no_doubt_where_all_users_agree(self) -> None:
        found = estimates(Ranks(np.full(20, 2.0), np.ones(20, dtype=np.int64)))["ndcg@10"]
        assert (found.low, found.value, found.high) == pytest.approx([1 / math.log2(3)] * 3, abs=1e-12)


class TestByLength:
    def test_groups_are_those_users_alone(self) -> None:
        lengths = np.array([3, 9, 10, 50, 51, 400] * 10)
        ranks = Ranks(np.tile([1.0, 30.0, 2.0, 1.0, 30.0, 30.0], 10), np.ones(60, dtype=np.int64))
        found = of_lengths(ranks, lengths)
        assert {name: group.num_users for name, group in found.items()} == {
            "short": 20,
            "medium": 20,
            "long": 20,
        }
        assert [group.metrics["hr@10"].value for group in found.values()] == [0.5, 1.0, 0.0]
        assert found["medium"].metrics["mrr@10"].value == pytest.approx(0.75)

    def test_a_group_is_what_evaluating_it_alone_gives(self) -> None:
        rng = np.random.default_rng(0)
        ranks = Ranks(rng.integers(1, 40, 500).astype(float), np.ones(500, dtype=np.int64))
        lengths = rng.integers(3, 100, 500)
        short = lengths < 10
        assert of_lengths(ranks, lengths)["short"].metrics == estimates(
            Ranks(ranks.rank[short], ranks.ties[short])
        )

    def test_nobody_makes_no_group_and_few_are_flagged(self) -> None:
        found = of_lengths(Ranks(np.ones(59), np.ones(59, dtype=np.int64)), np.array([5] * 29 + [60] * 30))
        assert {name: (group.num_users, group.is_small) for name, group in found.items()} == {
            "short": (29, True),
            "long": (30, False),
        }


def test_latency_is_that_of_recommending_to_one_user(demo: InteractionData) -> None:
    model, sizes = popularity(demo), []
    recommend = model.recommend
    model.recommend = lambda batch, k: sizes.append((len(batch), k)) or recommend(batch, k)  # type: ignore
    found = request_latency(model, demo, k=7, num_calls=200)[model.side]
    assert found.num_calls == 200
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms
    assert set(sizes) == {(1, 7)}
