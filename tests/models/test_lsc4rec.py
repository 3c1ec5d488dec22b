"""LSC4Rec: fusion, inconsistency and recombination by hand; what its stages see; what is chosen from what."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from small import RECIPE, run, small_data, timeless
from torch import nn

from recbench import checkpoint
from recbench.edge.lists import ScoredList
from recbench.edge.policy import Always, Never, RandomBudget, Threshold
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.models import DIN, POD, CodeLM, GRU4Rec, LSC4Rec, Popularity, SASRec
from recbench.models.collaborative import Boundary
from recbench.models.on_lists import Cooperation, KeptLists, positions
from recbench.nn.list_fusion import GRID, inconsistency, minmax, mix
from recbench.nn.own_history import listwise, own_moments, tuned
from recbench.nn.recombination import recombine
from recbench.nn.trie import Trie
from recbench.training import TrainerOptions, train

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import lsc4rec as experiment
from remembering import Remembering, remember

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.models.base import Scorer
    from recbench.models.generator import Generator

LOW = -math.inf
SHORT = replace(RECIPE, max_epochs=2)
BY_LIST = replace(SHORT, samples="pod_segments")


def small_cloud() -> CodeLM:
    return CodeLM(dim=8, num_layers=1, num_heads=2, hidden=16, num_beams=10, recipe=SHORT)


def small_device() -> SASRec:
    return SASRec(dim=8, num_layers=1, num_heads=2, hidden=16, recipe=SHORT)


def small(cloud: Generator | None = None, device: Scorer | None = None, **options: Any) -> LSC4Rec:
    recipes = {"cooperation": BY_LIST, "adaptation": SHORT}
    settings = {"num_listed": 20, "num_recombined": 5} | recipes | options
    return LSC4Rec(cloud=cloud or small_cloud(), device=device or small_device(), **settings)


def teach(model: LSC4Rec, data: InteractionData, folder: Path) -> dict[str, Any]:
    """Train; the modules of the stages by name."""
    torch.manual_seed(0)
    model.build(data.catalog)
    modules = {}
    with data.training():
        for stage in model.stages(data):
            train(stage, folder, TrainerOptions(progress=False), seed=0, resume=False, logger=None)
            modules[stage.name] = stage.module
    model.eval()
    return modules


class Taught:
    """A trained method, its stages and its data."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.data = small_data()
        self.model = small(**options)
        self.stages = teach(self.model, self.data, folder)

    @property
    def kept(self) -> KeptLists:
        return self.stages["lists"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return Taught(tmp_path_factory.mktemp("stages"), history_lag=2)


class TestFusion:
    def test_minmax_by_hand(self) -> None:
        scores = torch.tensor([[2.0, 4.0, 3.0, LOW], [7.0, 7.0, 7.0, 7.0], [LOW] * 4])
        assert minmax(scores).tolist() == [[0, 1, 0.5, 0], [0] * 4, [0] * 4]

    def test_a_quarter_of_the_cloud_by_hand(self) -> None:
        items = torch.tensor([[5, 6, 7, 0]])
        theirs = torch.tensor([[-1.0, -2.0, -5.0, LOW]])  # 1, .75, 0
        own = torch.tensor([[0.0, 2.0, 1.0, 99.0]])  # 0, 1, .5; padding has no say
        found = mix("minmax", items, theirs, own, alpha=0.25)[0, :3].tolist()
        assert found == [0.25, 0.25 * 0.75 + 0.75, 0.75 * 0.5]

    @pytest.mark.parametrize(
        ("how", "wanted"),
        [
            ("linear_rank_1", [-0.5, -1.0]),
            ("linear_rank_2", [0.0 + 0.45, -0.5]),  # the second is nearer than .4 to a half
            ("linear_rank_3", [-0.5 + 0.45, -1.0 - 0.25]),
            ("linear_rank_4", [-0.5 + 0.9, -1.0 - 0.5]),
            ("linear_rank_5", [0.45, -0.25]),
        ],
    )
    def test_the_code_s_five_by_hand(self, how: Any, wanted: list[float]) -> None:
        own = torch.tensor([[0.95, 0.25]]).logit()
        found = mix(how, torch.tensor([[3, 4]]), torch.tensor([[-1.0, -9.0]]), own, alpha=0.5)
        torch.testing.assert_close(found, torch.tensor([wanted]))

    def test_inconsistency_by_hand(self) -> None:
        items = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8], [0, 0, 0, 0]])
        own = torch.tensor([[1.0, 3.0, 2.0, 9.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
        # 5 falls from 0 to 2, 6 and 7 rise by one; equals stay where the cloud put them; no list, no say
        assert inconsistency(items, own).tolist() == [4 / 3, 0, 0]

    def test_unknown_fusion_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"fusion must be one of minmax, .* got 'sum'"):
            LSC4Rec(fusion="sum")  # type: ignore[arg-type]


class TestRecombination:
    CODES = torch.tensor([[0, 0], [2, 5], [2, 6], [3, 5], [3, 6], [4, 7]])

    def test_items_are_found_by_their_codes(self) -> None:
        trie = Trie.of(self.CODES)
        asked = torch.tensor([[[3, 6], [2, 5]], [[4, 5], [9, 7]], [[4, 7], [0, 0]]])
        assert trie.find(asked).tolist() == [[4, 1], [0, 0], [5, 0]]

    def test_two_items_give_the_two_others_of_their_square(self) -> None:
        torch.manual_seed(0)
        found = recombine(Trie.of(self.CODES), torch.tensor([[1, 4, 0]]), 200)
        assert sorted(found[found != 0].tolist()) == [2, 3]

    def test_what_is_no_item_does_not_come(self) -> None:
        found = recombine(Trie.of(self.CODES), torch.tensor([[1, 5]]), 200)  # (2, 7) and (4, 5) are none
        assert not found.any()

    def test_equals_the_product_of_the_codes(self) -> None:
        rng = np.random.default_rng(0)
        codes = np.array(sorted({tuple(row) for row in rng.integers(2, 5, (30, 3)).tolist()}))
        codes = np.concatenate([np.zeros((1, 3), int), rng.permutation(codes)])
        item_of = {tuple(row): item for item, row in enumerate(codes.tolist()) if item}
        items = rng.permutation(np.arange(1, len(codes)))[:8].reshape(2, 4)
        found = recombine(Trie.of(torch.from_numpy(codes)), torch.from_numpy(items), 3000)
        for row, listed in zip(found.tolist(), items.tolist(), strict=True):
            product = itertools.product(*(set(column) for column in codes[listed].T.tolist()))
            wanted = {item_of[code] for code in product if code in item_of} - set(listed)
            assert sorted(item for item in row if item) == sorted(wanted)

    def test_an_empty_list_gives_nothing(self) -> None:
        assert not recombine(Trie.of(self.CODES), torch.zeros(1, 3, dtype=torch.int64), 10).any()


class TestDataViews:
    @pytest.fixture
    def data(self, data_of: Callable[..., InteractionData]) -> InteractionData:
        return data_of([[1, 2, 3, 4, 5, 6], [4, 3, 2]])  # trained on: 1 2 3 4 and 4

    def test_moments_are_the_newest_training_targets(self, data: InteractionData) -> None:
        users, places = data.moments(2)
        assert (users.tolist(), places.tolist()) == ([0, 0], [3, 2])
        batch = data.moment(users, places)
        assert (batch.history.tolist(), batch.target.tolist()) == ([[1, 2, 3], [0, 1, 2]], [4, 3])

    def test_earlier_moments(self, data: InteractionData) -> None:
        assert data.earlier(2).moments(5)[1].tolist() == [1]
        assert data.earlier(9).moments(5)[1].tolist() == []
        assert data.earlier(2).train_sequences().items.tolist() == [1, 2]
        assert (
            next(iter(data.earlier(2).val_dataloader())).history.tolist()
            == next(iter(data.val_dataloader())).history.tolist()
        )

    def test_only_the_newest_are_learnt(self, data: InteractionData) -> None:
        learnt = [
            sorted(
                target
                for batch in view.batched(2, 0, samples="prefixes").train_dataloader()
                for target in batch.target.tolist()
            )
            for view in (data.newest(1), data.newest(2), data.newest(9))
        ]
        assert learnt == [[4], [3, 4], [2, 3, 4]]

    def test_a_moment_of_the_test_is_out_of_reach_while_training(self, data: InteractionData) -> None:
        with data.training(), pytest.raises(RuntimeError, match="test targets are read once"):
            data.moment(np.array([0]), np.array([5]))


class TestOwnSteps:
    def test_a_step_is_a_step_and_is_taken_back(self) -> None:
        layer = nn.Linear(2, 1, bias=False)
        layer.weight.data = torch.tensor([[1.0, 2.0]])
        table = nn.Embedding(3, 2)
        model = nn.ModuleList([layer, table])
        before = [weight.clone() for weight in model.parameters()]
        x = torch.tensor([3.0, 4.0])
        with tuned(model, lambda: (layer(x) + table.weight.sum()).sum(), num_steps=2, lr=0.1):
            torch.testing.assert_close(layer.weight, torch.tensor([[1.0 - 2 * 0.3, 2.0 - 2 * 0.4]]))
            assert torch.equal(table.weight, before[1])
        assert all(map(torch.equal, model.parameters(), before))

    def test_moments_of_a_history(self, batch_of: Callable[..., SequenceBatch]) -> None:
        found = own_moments(batch_of([[0, 1, 2, 3, 4]]), 2)
        assert found.history.tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
        assert found.target.tolist() == [4, 3]
        assert len(own_moments(batch_of([[0, 0, 9]]), 2)) == 0

    def test_listwise_by_hand(self) -> None:
        scores = torch.tensor([[1.0, 2.0, 50.0], [0.0, 0.0, 0.0]])
        real = torch.tensor([[True, True, False], [True, True, True]])
        assert float(listwise(scores, real)) == pytest.approx((math.log(1 + math.e) + math.log(3)) / 2)

    def test_every_device_learns_its_own_and_nothing_remains(self, taught: Taught) -> None:
        batch = taught.data.request(np.arange(12))
        model = taught.model
        before = {name: value.clone() for name, value in model.device_model.state_dict().items()}
        with torch.inference_mode():
            plain = model.recommend(batch, 10)
            model.own_steps, model.own_lr = 2, 0.5
            try:
                model.cross(model.boundary)
                found = model.recommend(batch, 10)
                alone = [model.recommend(batch.rows(slice(i, i + 1)), 10) for i in range(len(batch))]
            finally:
                model.own_steps = 0
                model.cross(model.boundary)
        assert not torch.allclose(found.scores, plain.scores)
        torch.testing.assert_close(torch.cat([one.scores for one in alone]), found.scores)
        after = model.device_model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


class TestStages:
    def test_are_those_of_the_paper(self, taught: Taught) -> None:
        assert list(taught.stages) == ["cloud", "device", "lists", "cooperate", "adapt"]

    def test_stages_can_be_left_out(self, tmp_path: Path) -> None:
        found = Taught(tmp_path, cooperates=False, adapts=False)
        assert list(found.stages) == ["cloud", "device", "lists"]
        assert found.model.skills[0] > 0
        assert found.model.skills[1:].tolist() == [-1, -1]

    @pytest.mark.parametrize("device", [DIN, GRU4Rec], ids=lambda cls: cls.__name__)
    def test_other_devices_serve_as_well(self, device: type[Scorer], tmp_path: Path) -> None:
        found = Taught(tmp_path, device=device(dim=8, hidden=16, recipe=SHORT))
        assert (found.model.skills > 0).all()

    def test_another_cloud_serves_as_well(self, tmp_path: Path) -> None:
        recipe = replace(SHORT, samples="pod_segments")
        prompts = POD(dim=8, num_layers=1, num_heads=2, hidden=16, max_len=10, recipe=recipe)
        found = Taught(tmp_path, cloud=prompts, cooperates=False, adapts=False)
        assert found.model.recall > 0

    def test_the_cloud_is_shown_nobody_s_name_and_old_histories(self, taught: Taught) -> None:
        asked, batch = taught.stages["cloud"], taught.data.request(np.arange(5))
        shown: list[SequenceBatch] = []
        plain = asked.model.target_ranks
        asked.model.target_ranks = lambda one: (shown.append(one), plain(one))[1]
        try:
            asked.target_ranks(batch)
        finally:
            del asked.model.target_ranks
        assert shown[0].users.tolist() == [-1] * 5
        assert torch.equal(shown[0].history, batch.history[:, :-2])

    def test_no_target_and_nothing_too_new_is_trained_on(self, taught: Taught) -> None:
        data, module = taught.data, taught.stages["cooperate"]
        assert isinstance(module, Cooperation)
        ends = data.sequences.offsets[1:]
        places = module._positions
        # the last is of the test, the one before of the validation, two more are not history yet
        assert (places < ends[:, None] - 4).all()
        is_there = places[:, 0] >= 0
        assert np.array_equal(places[is_there, 0], ends[is_there] - 5)
        assert np.array_equal(places, positions(data.earlier(2), 3))
        for name, wanted in (("cloud", 4), ("cooperate", 4), ("adapt", 2)):
            stage = next(one for one in _stages(data) if one.name == name)
            stage.data.batched(64, 0, samples="positions")
            newest = stage.data._samples.stop.max()
            assert newest == (ends - wanted).max() - 1, name

    def test_lists_are_what_the_cloud_said_two_interactions_earlier(self, taught: Taught) -> None:
        data, kept = taught.data, taught.kept
        places = positions(data.earlier(2), 3)
        users = np.flatnonzero(places[:, 1] >= 0)[:20]
        batch = data.moment(users, places[users, 1])
        late = replace(batch, users=torch.full((len(users),), -1), history=batch.history[:, :-2], seen=None)
        with torch.inference_mode():
            wanted = taught.model.cloud.recommend(late, 20)
        assert torch.equal(kept.listed[users, 1].long(), wanted.items)

    def test_candidates_are_the_target_the_list_and_their_like(self, taught: Taught) -> None:
        module = taught.stages["cooperate"]
        moments, items, is_candidate = module.augmented(np.arange(30))
        assert torch.equal(items[:, 0], moments.target)
        assert is_candidate[:, 0].all()
        codes = taught.model.cloud.item_tokens
        for row, real, target in zip(items.tolist(), is_candidate.tolist(), moments.target, strict=True):
            listed, others = row[1:21], [item for item in row[21:] if item]
            taken = [item for item, is_real in zip(row, real, strict=True) if is_real]
            assert taken.count(int(target)) == 1
            assert all(1 <= item <= 60 for item in taken)
            assert not set(others) & set(listed)
            for place in range(codes.shape[1]):
                assert {int(codes[i, place]) for i in others} <= {int(codes[i, place]) for i in listed}

    def test_what_may_not_be_recommended_is_no_candidate(self) -> None:
        data, model = small_data(), small()
        data.mask_seen = True
        model.build(data.catalog)
        model.cloud.write_items(data)
        kept = KeptLists(150, 60, num_moments=3, num_listed=60)
        kept.listed.copy_(torch.arange(1, 61))
        module = model._cooperation(kept, data)
        moments, items, is_candidate = module.augmented(np.arange(10))
        for row, real, history, target in zip(
            items.tolist(), is_candidate.tolist(), moments.seen.tolist(), moments.target.tolist(), strict=True
        ):
            taken = [item for item, is_real in zip(row, real, strict=True) if is_real]
            assert sorted(taken) == sorted({*range(1, 61)} - set(history) | {target})

    @pytest.mark.parametrize("objective", ["softmax", "bce"])
    def test_the_loss_is_that_of_the_candidates(self, objective: str, taught: Taught) -> None:
        module, users = taught.stages["cooperate"].eval(), np.arange(6)
        module.objective = objective
        batch = taught.data.request(users, back=3)
        torch.manual_seed(3)
        found = float(module.loss(batch).detach())
        torch.manual_seed(3)
        moments, items, is_candidate = module.augmented(users)
        scores = taught.model.device_model.score(moments, items).detach().double()
        terms = []
        for row, real in zip(scores.tolist(), is_candidate.tolist(), strict=True):
            said = [score for score, is_real in zip(row, real, strict=True) if is_real]
            if objective == "softmax":
                terms.append(math.log(sum(map(math.exp, said))) - said[0])
            else:
                terms.append(math.log1p(math.exp(-said[0])))
                terms += [math.log1p(math.exp(score)) for score in said[1:]]
        assert found == pytest.approx(sum(terms) / len(terms), rel=1e-5)

    def test_a_device_without_a_loss_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Popularity has no loss to learn lists by"):
            LSC4Rec(device=Popularity())


def _stages(data: InteractionData) -> Any:
    """The stages, untrained but for the lists, which are empty."""
    model = small(history_lag=2)
    model.build(data.catalog)
    return model.stages(data)


class TestWhatIsChosen:
    def test_the_share_is_the_best_on_validation(self, taught: Taught) -> None:
        model, chosen = taught.model, float(taught.model.alpha)
        found = {}
        try:
            for alpha in GRID:
                model.alpha.fill_(alpha)
                model.cross(model.boundary)
                ranks = evaluate(model, taught.data, split="validation").ranks
                found[alpha] = means(ranks)["ndcg@10"]
        finally:
            model.alpha.fill_(chosen)
            model.cross(model.boundary)
        assert chosen == pytest.approx(max(found, key=found.__getitem__))
        assert float(model.skills[2]) == pytest.approx(max(found.values()))

    def test_nothing_is_chosen_by_what_the_test_shows(self, taught: Taught) -> None:
        data, model = taught.data, taught.model
        names = ("alpha", "skills", "recall", "needs", "limit")
        before = {name: getattr(model, name).clone() for name in names}
        newest = data.sequences.offsets[1:] - 1
        genuine = data.sequences.items[newest].copy()
        data.sequences.items[newest] = genuine % 60 + 1
        try:
            model._judge(2, data, taught.kept)
            model._find_limit(data, taught.kept)
        finally:
            data.sequences.items[newest] = genuine
        assert all(torch.equal(getattr(model, name), value) for name, value in before.items())

    def test_recall_is_the_share_of_targets_in_the_lists(self, taught: Taught) -> None:
        ranks = evaluate(taught.model, taught.data, split="validation").ranks
        assert float(taught.model.recall) == pytest.approx(np.isfinite(ranks.rank).mean())
        assert f"{np.isfinite(ranks.rank).mean():.2%}" in taught.model.notes()[0]

    @pytest.mark.parametrize("budget", [0.05, 0.1, 0.2, 0.4])
    def test_thresholds_keep_the_budget_on_validation(self, budget: float, taught: Taught) -> None:
        model, data = taught.model, taught.data
        threshold = model.threshold(budget)
        model.cross(Boundary(policy=Threshold(threshold=threshold), lag=2))
        try:
            with torch.inference_mode():
                asked = np.concatenate([model.answer(batch).asked for batch in data.val_dataloader()])
        finally:
            model.cross(Boundary(policy=Never(), lag=2))
        needs = model.needs[model.needs >= 0].numpy()
        assert len(needs) == len(asked)
        assert asked.mean() == (needs >= threshold).mean() <= budget
        lower = needs[needs < threshold].max()
        assert (needs >= lower).mean() > budget  # the next threshold would be too much

    def test_a_budget_is_kept_to_after_training_and_loading(self, taught: Taught) -> None:
        model = small(budget=0.2, history_lag=2)
        model.build(taught.data.catalog)
        model.load_state_dict(taught.model.state_dict())
        model._find_limit(taught.data, taught.kept)
        loaded = copy.deepcopy(small(budget=0.2, history_lag=2))  # as the command line's methods are copied
        loaded.build(taught.data.catalog)
        loaded.load_state_dict(model.state_dict())
        threshold = taught.model.threshold(0.2)
        for one in (model, loaded):
            with torch.inference_mode():
                answers = [one.eval().answer(batch) for batch in taught.data.val_dataloader()]
            asked = np.concatenate([answer.asked for answer in answers])
            assert asked.sum() == (model.needs >= threshold).sum() > 0
            assert 0.1 < asked.mean() <= 0.2


class TestInService:
    def literal(self, taught: Taught, batch: SequenceBatch, lag: int) -> ScoredList:
        """The same with nothing between the sides."""
        model = taught.model
        late = replace(batch.lagged(lag), users=torch.full_like(batch.users, -1), seen=None)
        items, theirs = model.cloud.recommend(late, 20)
        own = model.device_model.score(batch, items)
        return ScoredList(items, mix("minmax", items, theirs, own, alpha=float(model.alpha)), 60)

    @pytest.mark.parametrize(
        ("boundary", "lag"),
        [(Boundary(policy=Never(), lag=2), 2), (Boundary(policy=Always(), lag=2), 0)],
        ids=["near-real-time", "real-time"],
    )
    def test_the_list_is_as_old_as_the_boundary_says(
        self, boundary: Boundary, lag: int, taught: Taught
    ) -> None:
        taught.model.cross(boundary)
        batch = taught.data.request(np.arange(50))
        try:
            with torch.inference_mode():
                found = taught.model.target_ranks(batch)
                wanted = self.literal(taught, batch, lag).target_ranks(batch)
        finally:
            taught.model.cross(Boundary(policy=Never(), lag=2))
        assert torch.equal(found.rank, wanted.rank)

    def test_random_requests_take_the_fresh_list_and_others_the_old(self, taught: Taught) -> None:
        taught.model.cross(Boundary(policy=RandomBudget(budget=0.3), lag=2))
        batch = taught.data.request(np.arange(150))
        try:
            with torch.inference_mode():
                answer = taught.model.answer(batch)
                found = answer.target_ranks().rank
                old, fresh = (self.literal(taught, batch, lag).target_ranks(batch).rank for lag in (2, 0))
        finally:
            taught.model.cross(Boundary(policy=Never(), lag=2))
        asked = torch.from_numpy(answer.asked)
        assert 0.15 < asked.float().mean() < 0.45
        assert torch.equal(found, torch.where(asked, fresh, old))

    def test_without_a_cloud_the_device_ranks_everything(self, taught: Taught) -> None:
        taught.model.cross(Boundary(network="offline", lag=-1))
        batch = taught.data.request(np.arange(20))
        try:
            with torch.inference_mode():
                found = taught.model.target_ranks(batch)
                wanted = taught.model.device_model.target_ranks(batch)
        finally:
            taught.model.cross(Boundary(policy=Never(), lag=2))
        assert torch.equal(found.rank, wanted.rank)


def test_a_run_broken_after_its_lists_is_the_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbench.fit.request_latency", lambda *_: {})  # takes longest, and is no result
    unbroken = timeless(run(tmp_path / "unbroken", small()))

    def press(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbench.models.on_lists.Adaptation.loss", press)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", small())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptLists, "fill", lambda *_, **__: pytest.fail("lists are made again"))
        resumed = timeless(run(tmp_path / "broken", small(), resume=True))
    assert resumed == unbroken
    assert list(resumed["stages"]) == ["cloud", "device", "lists", "cooperate", "adapt"]
    assert "validation NDCG@10 after each stage: device" in resumed["note"]


class TestExperiment:
    @pytest.fixture
    def views(self, taught: Taught, tmp_path: Path) -> Any:
        found = experiment.Views(taught.model, taught.data, tmp_path)
        remember(found.model)
        yield found
        del taught.model.cloud_side
        taught.model.alpha.fill_(found.chosen)
        taught.model.cross(Boundary(policy=Never(), lag=2))

    def test_a_remembering_cloud_computes_a_frame_once(self) -> None:
        asked: list[bytes] = []

        class Cloud:
            def handle(self, frames: Sequence[bytes]) -> list[bytes]:
                asked.extend(frames)
                return [frame.upper() for frame in frames]

        cloud = Remembering(Cloud(), {}, limit=3)
        assert cloud.handle([b"a", b"b", b"a"]) == [b"A", b"B", b"A"]
        assert cloud.handle([b"b", b"c"]) == [b"B", b"C"]
        assert asked == [b"a", b"b", b"c"]
        assert cloud.handle([b"d", b"c", b"d"]) == [b"D", b"C", b"D"]  # there is no room for a fourth
        assert cloud.handle([b"d"]) == [b"D"]
        assert asked == [b"a", b"b", b"c", b"d", b"d"]

    def test_a_view_is_what_evaluation_gives(self, views: Any, taught: Taught) -> None:
        ours = views.view("LSC4Rec")
        plain = means(evaluate(taught.model, taught.data).ranks)
        assert ours.metric("hr@10").mean() == pytest.approx(plain["hr@10"])
        assert ours.asked == 0
        assert views.view("", experiment.NOW).asked == 1

    def test_the_best_share_and_thresholds_are_those_of_training(self, views: Any, taught: Taught) -> None:
        assert views.best_share() == pytest.approx(views.chosen)
        assert views.threshold(0.2) == pytest.approx(taught.model.threshold(0.2))

    def test_an_oracle_is_never_worse_than_chance_nor_than_what_was_there(self, views: Any) -> None:
        old, fresh = views.view("old"), views.view("fresh", experiment.NOW)
        rows = {row.name: row for row in experiment.requests(views, old, fresh)}
        assert len(rows) == 4 * len(experiment.BUDGETS)
        for budget in experiment.BUDGETS:
            oracle = rows[f"oracle {budget:.0%}"]
            assert oracle.asked <= budget
            assert (oracle.metric("ndcg@10") >= old.metric("ndcg@10")).all()
            asking, chance = rows[f"inconsistency {budget:.0%}"], rows[f"random {budget:.0%}"]
            assert asking.asked == chance.asked
            mean = (1 - asking.asked) * old.values + asking.asked * fresh.values
            assert np.allclose(chance.values, mean)

    def test_answers_by_hand(self) -> None:
        better, worse = np.ones(100), np.zeros(100)
        assert experiment.Difference.of(better, worse).answer == "yes"
        assert experiment.Difference.of(worse, better).answer == "no"
        mixed = np.arange(100) % 2
        assert experiment.Difference.of(mixed, 1 - mixed).answer == "not separable"

    def test_the_report_has_all_tables_and_claims(
        self, views: Any, taught: Taught, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(experiment, "latencies", lambda _: {"kept list": {"device": 1.0}})
        for name in ("device", "cooperate", "adapt"):
            weights = {"weights": taught.stages[name].state_dict()}
            checkpoint.save(weights, views.stages / f"{name}.ckpt")
        text = "\n".join(experiment.report(views))
        for heading in ("Tables 1 and 5", "Table 4", "Table 6", "Table 7", *(f"L{n}" for n in range(1, 11))):
            assert heading in text
        rows = {line.split(" | ")[0]: line.split(" | ")[1:5] for line in text.splitlines()}
        assert rows["| stage adapt"] == rows["| LSC4Rec"]  # what the last stage left is the method
        assert rows["| lists of 20"] == rows["| LSC4Rec"]  # as long as it has always been
