"""The top-N protocol: the target among a few random items that its user never took."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from recbench.data.candidates import Candidates, is_candidate
from recbench.data.module import InteractionData
from recbench.data.sequences import Sequences
from recbench.errors import DataError
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.models.base import Recipe, Scorer
from recbench.runs import blank

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog

# of 8 items user 0 leaves 4, 6, 7, 8, user 1 (who takes 5 twice) 1, 2, 3, 4, 6, user 2 leaves 3, 4, 5
WORLD = [[1, 5, 2, 3], [5, 8, 7, 5], [6, 1, 8, 2, 7]]
FREE = [{4, 6, 7, 8}, {1, 2, 3, 4, 6}, {3, 4, 5}]


def drawn_from(
    histories: list[list[int]], num_negatives: int, *, num_items: int, seed: int = 0
) -> Candidates:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in histories])])
    sequences = Sequences(np.concatenate(histories), offsets)
    return Candidates.of(
        sequences, num_items=num_items, num_negatives=num_negatives, seed=seed, name="by-hand"
    )


def rows(data: InteractionData, split: str = "test") -> dict[int, list[int]]:
    """User -> candidates, in the order in which they are served."""
    found = {}
    for batch in data.targets(split):
        assert batch.candidates is not None
        found |= dict(zip(batch.users.tolist(), batch.candidates.tolist(), strict=True))
    return found


class TestDraw:
    @pytest.mark.parametrize("num_negatives", [1, 2, 3])
    def test_is_the_target_and_different_items_never_taken(self, num_negatives: int) -> None:
        candidates = drawn_from(WORLD, num_negatives, num_items=8)
        for place in range(4):
            targets = np.array([items[place] for items in WORLD])
            found = candidates.draw(np.arange(3), np.full(3, place), targets)
            for row, target, free in zip(found.tolist(), targets.tolist(), FREE, strict=True):
                assert len(row) == num_negatives + 1
                assert target in row
                assert len({*row} - {target}) == num_negatives
                assert {*row} - {target} <= free

    def test_every_set_of_negatives_is_equally_likely(self) -> None:
        users, places = np.zeros(12_000, dtype=np.int64), np.arange(12_000)
        found = drawn_from(WORLD, 2, num_items=8).draw(users, places, np.ones_like(users))
        counts = Counter(tuple(sorted({*row} - {1})) for row in found.tolist())
        assert set(counts) == set(combinations(sorted(FREE[0]), 2))
        # 6 sets, 2,000 each on average, standard deviation sqrt(12000 * 1/6 * 5/6) = 41
        assert all(abs(count - 2000) < 5 * 41 for count in counts.values())

    def test_the_place_of_the_target_says_nothing(self) -> None:
        users, places = np.zeros(12_000, dtype=np.int64), np.arange(12_000)
        candidates = drawn_from(WORLD, 3, num_items=8)
        for target in (1, 5):
            found = candidates.draw(users, places, np.full_like(users, target))
            counts = np.bincount((found == target).argmax(axis=1), minlength=4)
            # 4 places, 3,000 each on average, standard deviation sqrt(12000 * 1/4 * 3/4) = 47
            assert (abs(counts - 3000) < 5 * 47).all()

    def test_the_order_does_not_depend_on_which_item_is_the_target(self) -> None:
        """Two items swap roles: a user leaves 2 of 3 items, so the same three are served."""
        for place in range(20):
            first, second = (
                drawn_from([[item]], 2, num_items=3).draw(np.array([0]), np.array([place]), np.array([item]))
                for item in (1, 3)
            )
            assert first.tolist() == second.tolist()

    def test_users_places_and_seeds_draw_apart(self) -> None:
        world = [[1, 2], [1, 2]]
        target = np.array([1])

        def draw(user: int, place: int, seed: int) -> tuple[int, ...]:
            found = drawn_from(world, 9, num_items=1000, seed=seed)
            return tuple(found.draw(np.array([user]), np.array([place]), target)[0])

        assert len({draw(u, p, s) for u in (0, 1) for p in (0, 1) for s in (0, 1)}) == 8

    def test_too_few_items_are_told_with_the_user_and_the_way_out(self) -> None:
        drawn_from(WORLD, 3, num_items=8)
        with pytest.raises(
            DataError, match=r"by-hand: num_negatives 4 is too many: user 2 .* set it to 3 or"
        ):
            drawn_from(WORLD, 4, num_items=8)

    def test_mask_says_which_items_they_are(self) -> None:
        found = is_candidate(np.array([[3, 1], [4, 2]]), num_items=4)
        assert found.tolist() == [[False, True, False, True, False], [False, False, True, False, True]]


class TestServed:
    @pytest.fixture
    def served(self, demo: InteractionData) -> Callable[..., InteractionData]:
        return lambda **options: InteractionData.of(demo.prepared, **({"num_negatives": 9} | options))

    def test_allowed_and_candidates_say_the_same_and_hold_the_target(
        self, served: Callable[..., InteractionData]
    ) -> None:
        data = served()
        for batch in [*data.val_dataloader(), *data.test_dataloader()]:
            assert batch.allowed is not None
            assert batch.candidates is not None
            assert batch.candidates.shape == (len(batch), 10)
            listed = [row.nonzero()[:, 0].tolist() for row in batch.allowed]
            assert [sorted(row) for row in batch.candidates.tolist()] == listed
            assert batch.allowed.gather(1, batch.target[:, None]).all()
            taken = data.sequences
            for user, row, target in zip(batch.users, batch.candidates.tolist(), batch.target, strict=True):
                own = set(taken.items[taken.offsets[user] : taken.offsets[user + 1]].tolist())
                assert own & {*row} == {int(target)}

    def test_batches_calls_and_other_options_change_nothing(
        self, served: Callable[..., InteractionData]
    ) -> None:
        wanted = rows(served())
        for options in ({"eval_batch_size": 7}, {"max_len": 3}, {"mask_seen": False}):
            assert rows(served(**options)) == wanted
        data = served()
        data.batched(8, seed=5)
        assert list(data.train_dataloader())
        assert rows(data) == rows(data) == wanted

    def test_a_request_competes_as_in_the_evaluation_of_the_same_moment(
        self, served: Callable[..., InteractionData]
    ) -> None:
        data, users = served(), np.array([7, 2])
        for split, back in (("test", 1), ("validation", 2)):
            found, wanted = data.request(users, back=back).candidates, rows(data, split)
            assert found is not None
            assert found.tolist() == [wanted[7], wanted[2]]

    def test_validation_and_test_draw_apart(self, served: Callable[..., InteractionData]) -> None:
        data = served()
        test, validation = rows(data), rows(data, "validation")
        shared = [len({*test[user]} & {*validation[user]}) for user in test]
        # 9 of some 45 free items each: 9 * 9 / 45 = 1.8 are drawn twice by chance
        assert 1 < np.mean(shared) < 3

    def test_index_seed_draws_anew(self, served: Callable[..., InteractionData]) -> None:
        assert rows(served(index_seed=1)) != rows(served())

    def test_another_process_draws_the_same(self) -> None:
        code = (
            "import numpy as np\nfrom recbench.data.candidates import Candidates\n"
            "from recbench.data.sequences import Sequences\n"
            "s = Sequences(np.arange(1, 9), np.array([0, 4, 8]))\n"
            "c = Candidates.of(s, num_items=50, num_negatives=5, seed=3, name='x')\n"
            "print(c.draw(np.array([0, 1]), np.array([3, 3]), np.array([4, 8])).tolist())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        world = drawn_from([[1, 2, 3, 4], [5, 6, 7, 8]], 5, num_items=50, seed=3)
        here = world.draw(np.array([0, 1]), np.array([3, 3]), np.array([4, 8]))
        assert done.stdout.strip() == str(here.tolist())

    def test_now_everything_may_be_recommended(self, served: Callable[..., InteractionData]) -> None:
        batch = served().request(np.array([0]), back=0)
        assert batch.candidates is None
        assert batch.allowed is None

    def test_training_knows_no_candidates(self, served: Callable[..., InteractionData]) -> None:
        for batch in served().batched(64, seed=0).train_dataloader():
            assert batch.candidates is None
            assert batch.allowed is None

    def test_what_the_cloud_does_not_know_yet_changes_no_candidate(
        self, served: Callable[..., InteractionData]
    ) -> None:
        batch = served().request(np.array([0, 1]))
        assert batch.candidates is not None
        assert torch.equal(batch.lagged(2).candidates, batch.candidates)

    def test_record_says_by_which_rules(
        self, served: Callable[..., InteractionData], demo: InteractionData
    ) -> None:
        assert served().protocol == "top-n-9"
        assert "random order has HR@10 1" in served().notes()[0]
        assert "random order has HR@10 0.5" in served(num_negatives=19).notes()[0]
        assert demo.protocol == "loo-full"
        assert demo.notes() == ()
        assert served(split="global_time").protocol == "time-top-n-9"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_negatives": -1}, "num_negatives must be 0 for all items or a count, got -1"),
            ({"num_negatives": 9, "reach_km": 5.0}, "one of them must be 0, got 9 and 5"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            InteractionData("demo", **options)


def test_runs_without_the_option_keep_their_records() -> None:
    """It came after the first records; what is asked for without it must be found among them."""
    plain, asked, sampled = (
        blank(["--model", "popularity", "--data", "demo", *words])
        for words in ([], ["--data.num_negatives=0"], ["--data.num_negatives=99"])
    )
    assert plain.config["data"].keys() == sampled.config["data"].keys() - {"num_negatives"}
    assert plain.key == asked.key != sampled.key
    assert (plain.protocol, sampled.protocol) == ("loo-full", "top-n-99")


class Fixed(Scorer):
    """Scores that depend on the user alone: random ones, or the item's index."""

    def __init__(self, *, is_random: bool) -> None:
        super().__init__(Recipe())
        self.is_random = is_random

    def build(self, catalog: Catalog) -> None:
        self.register_buffer("ascending", torch.arange(catalog.num_items + 1.0))

    def score(self, batch: SequenceBatch, items: torch.Tensor | None = None) -> torch.Tensor:
        assert items is None
        if not self.is_random:
            return self.ascending.expand(len(batch), -1).clone()
        generators = (torch.Generator().manual_seed(int(user)) for user in batch.users)
        return torch.stack([torch.rand(len(self.ascending), generator=g) for g in generators])


class TestEvaluated:
    def world(self, num_users: int = 2000, num_items: int = 400) -> list[list[int]]:
        drawn: NDArray[np.int64] = np.random.default_rng(1).integers(1, num_items + 1, (num_users, 5))
        drawn[0, 0] = num_items
        return drawn.tolist()

    @pytest.mark.parametrize("is_random", [True, False])
    def test_who_knows_nothing_hits_ten_of_a_hundred(
        self, data_of: Callable[..., InteractionData], is_random: bool
    ) -> None:
        data = data_of(self.world(), num_negatives=99, mask_seen=False)
        model = Fixed(is_random=is_random)
        model.build(data.catalog)
        found = means(evaluate(model, data).ranks)
        deviation = (0.1 * 0.9 / 2000) ** 0.5  # .0067
        assert found["hr@10"] == pytest.approx(0.1, abs=4 * deviation)
        assert found["hr@5"] == pytest.approx(0.05, abs=4 * deviation)

    def test_ranks_are_places_among_the_candidates(self, data_of: Callable[..., InteractionData]) -> None:
        data = data_of(self.world(50, 60), num_negatives=20)
        model = Fixed(is_random=False)  # the higher the index, the better
        model.build(data.catalog)
        found = evaluate(model, data)
        candidates = rows(data)
        for user, rank in zip(found.users.tolist(), found.ranks.rank.tolist(), strict=True):
            target = data.sequences.items[data.sequences.offsets[user + 1] - 1]
            assert rank == 1 + sum(item > target for item in candidates[user])
        assert found.notes() == ()
