"""What every method must keep, whatever it computes: one test per promise, run for every preset.

A new method needs no line here: its preset is found, shrunk to the demo world, trained, and asked. Nearly all
of the time is training, so a preset is trained no longer than what it must show needs, and once.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tiny_lm import shared
from torch import Tensor

from recbench import config, models, runs
from recbench.data.module import InteractionData
from recbench.data.synthetic import world
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.models.base import Recommender, Scorer
from recbench.parse import parse
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.batch import SequenceBatch
    from recbench.data.synthetic import World

PRESETS = config.names("model")
CONTENT = {name: config.whole(config.folder() / "model" / f"{name}.yaml") for name in PRESETS}
CLASSES = {name: content["class_path"].rpartition(".")[2] for name, content in CONTENT.items()}
PARTS = {  # methods that a preset holds, by the option that holds them
    name: {
        option: value["class_path"].rpartition(".")[2]
        for option, value in content.get("init_args", {}).items()
        if isinstance(value, dict) and value.get("class_path", "").startswith("recbench.models.")
    }
    for name, content in CONTENT.items()
}
BY_GRADIENT = [name for name in PRESETS if getattr(models, CLASSES[name]).loss is not Recommender.loss]
SMALL = {
    "dim": 32,
    "hidden": 32,
    "num_heads": 2,
    "pretrained": "",
    "num_locals": 2,
    "num_beams": 10,
    "recipe.lr": 0.01,
    "recipe.weight_decay": 0.0,
    "recipe.warmup_steps": 10,
    "recipe.validate_every": 3,
}
BATCH_SIZES = {"positions": 32, "prefixes": 128, "p5_segments": 16, "pod_segments": 16}
SMALL_PARTS = {  # of what is trained one after the other, writes, or has its own sizes
    "P5": {"num_layers": 1},
    "POD": {"num_layers": 1},
    "MLP": {"hidden": 128},  # its likeness has 4 * dim
    "L3Rec": {"local.num_layers": 1},
    "LSC4Rec": {"cloud.num_layers": 1, "device.num_layers": 1},
    "DCCL": {"base.num_layers": 1},
    "CDA4Rec": {"text_dim": 16, "train_encoder": "both", "encoder.num_layers": 1},
}
USERS = np.arange(40)
FEW = 60  # users whom a seed is tried on


def make(preset: str, **overrides: object) -> Recommender:
    """The method of a preset as the command line makes it; overrides it has no parameter for are left out."""
    wanted = []
    for option, method in {"": CLASSES[preset], **PARTS[preset]}.items():
        known = inspect.signature(getattr(models, method)).parameters
        prefix = f"{option}." if option else ""
        wanted += [
            (f"{prefix}{name}", value)
            for name, value in (SMALL | batch_size(preset, option) | overrides).items()
            if name.partition(".")[0] in known
        ]
        if "lm" in known:
            wanted.append((f"{prefix}lm.name", shared()))
    wanted += SMALL_PARTS.get(CLASSES[preset], {}).items()
    return copy.deepcopy(_parsed(preset, tuple(wanted)))


def batch_size(preset: str, option: str) -> dict[str, int]:
    """A user has one window, some ten prefixes, one segment: an epoch is 10, 25 or 19 steps."""
    content = CONTENT[preset].get("init_args", {})
    content = content[option]["init_args"] if option else content
    return {"recipe.batch_size": BATCH_SIZES[content.get("recipe", {}).get("samples", "positions")]}


def num_epochs(preset: str) -> int:
    """Of every stage, at most; 120 to 230 steps where one stage is all."""
    return 6 if "'samples': 'prefixes'" in str(CONTENT[preset]) else 12


@functools.cache
def _parsed(preset: str, overrides: tuple[tuple[str, object], ...]) -> Recommender:
    words = [f"--model.{name}={value}" for name, value in overrides]
    model: Recommender = parse(runs.fit, ["--model", preset, "--data", "demo", *words], prog="fit")["model"]
    return model


def teach(
    model: Recommender, data: InteractionData, folder: Path, *, epochs: int, seed: int = 0
) -> Recommender:
    """Build and train as `fit` does, without a record."""
    torch.manual_seed(seed)
    model.build(data.catalog)
    options = TrainerOptions(max_epochs=epochs, progress=False)
    for stage in model.stages(data):
        train(stage, folder, options, seed=seed, resume=False, logger=None)
    return model.eval()


class Trained(NamedTuple):
    """A method that knows the demo world, and the moment before the last visit of some users."""

    preset: str
    model: Recommender
    data: InteractionData  # seen places are barred
    batch: SequenceBatch


@pytest.fixture(scope="module", params=PRESETS)
def trained(
    request: pytest.FixtureRequest, demo_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    data = InteractionData.of(demo_world.prepared, mask_seen=True)
    folder = tmp_path_factory.mktemp("stages")
    model = teach(make(request.param), data, folder, epochs=num_epochs(request.param))
    return Trained(request.param, model, data, data.request(USERS))


@pytest.fixture(scope="module")
def hit_rate(trained: Trained) -> float:
    """HR@10 of the users' last visits, which may repeat earlier ones."""
    data = InteractionData.of(trained.data.prepared, mask_seen=False)
    return means(evaluate(trained.model, data).ranks)["hr@10"]


@pytest.fixture(scope="module")
def few() -> World:
    """What a seed decides, it decides for few users: no test but this promise's trains on them."""
    return world(num_users=FEW, num_items=60, seed=1)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.inference_mode():
        yield


def scores_of(model: Recommender, batch: SequenceBatch) -> Tensor:
    """Scores of all items; of a method that only lists, what each item was listed with."""
    if isinstance(model, Scorer):
        return model.score(batch)
    best = model.recommend(batch, 10)
    return torch.zeros(len(batch), 61).scatter(1, best.items, best.scores)  # parts are joined: equally wide


def padded(batch: SequenceBatch, num_columns: int) -> SequenceBatch:
    times = None if batch.times is None else F.pad(batch.times, (num_columns, 0))
    return replace(batch, history=F.pad(batch.history, (num_columns, 0)), times=times)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_every_method_has_a_preset() -> None:
    assert set(CLASSES.values()) == set(models.__all__)


@pytest.mark.parametrize("lag", [0, 4, 100])  # at 4 some have no history left, at 100 nobody has
def test_padding_does_not_change_scores(trained: Trained, lag: int) -> None:
    batch = trained.batch.lagged(lag)
    assert bool((batch.history == 0).all(1).any()) == (lag > 0)
    close(scores_of(trained.model, padded(batch, 3)), scores_of(trained.model, batch))


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_change_scores_or_ranks(trained: Trained, size: int) -> None:
    model, batch = trained.model, trained.batch
    parts = [batch.rows(slice(start, start + size)) for start in range(0, len(batch), size)]
    close(torch.cat([scores_of(model, part) for part in parts]), scores_of(model, batch))
    ranks = torch.cat([model.target_ranks(part).rank for part in parts])
    assert torch.equal(ranks, model.target_ranks(batch).rank)


def test_users_of_a_batch_do_not_see_each_other(trained: Trained) -> None:
    half = slice(None, None, 2)
    found = scores_of(trained.model, trained.batch.rows(half))
    close(found, scores_of(trained.model, trained.batch)[half])


def test_target_does_not_change_scores(trained: Trained) -> None:
    other = replace(trained.batch, target=trained.batch.target % trained.data.catalog.num_items + 1)
    assert torch.equal(scores_of(trained.model, other), scores_of(trained.model, trained.batch))


def test_what_comes_after_the_moment_does_not_change_scores(trained: Trained) -> None:
    prepared, num_items = trained.data.prepared, trained.data.catalog.num_items
    is_target = pl.col("item").cum_count(reverse=True).over("user") <= 2  # of either split
    other = pl.when(is_target).then(pl.col("item") % num_items + 1).otherwise("item")
    later = replace(prepared, interactions=prepared.interactions.with_columns(item=other))
    changed = InteractionData.of(later, mask_seen=True).request(USERS, back=2)
    genuine = trained.data.request(USERS, back=2)
    assert not torch.equal(changed.target, genuine.target)
    assert torch.equal(scores_of(trained.model, changed), scores_of(trained.model, genuine))


def test_scores_of_some_items_are_those_of_all(trained: Trained) -> None:
    if not isinstance(trained.model, Scorer):
        pytest.skip("a method that only lists scores no item it is given")
    torch.manual_seed(0)
    items = torch.randint(1, trained.data.catalog.num_items + 1, (len(USERS), 9))
    found = trained.model.score(trained.batch, items)
    close(found, trained.model.score(trained.batch).gather(1, items))


def test_recommended_items_are_real_unseen_sorted_and_different(trained: Trained) -> None:
    seen = trained.batch.seen
    assert seen is not None
    best = trained.model.recommend(trained.batch, 5)
    assert best.items.shape == best.scores.shape == (len(USERS), 5)
    for items, scores, barred in zip(best.items.tolist(), best.scores.tolist(), seen.tolist(), strict=True):
        assert all(1 <= item <= trained.data.catalog.num_items for item in items)
        assert len(set(items)) == 5
        assert not set(items) & set(barred)
        assert scores == sorted(scores, reverse=True)


def test_seen_items_are_recommended_where_repeats_are_legal(trained: Trained) -> None:
    num_items = trained.data.catalog.num_items
    best = trained.model.recommend(replace(trained.batch, seen=None), num_items)
    if isinstance(trained.model, Scorer):
        assert all(sorted(items) == list(range(1, num_items + 1)) for items in best.items.tolist())


def test_asking_for_more_than_there_is_gives_what_there_is(trained: Trained) -> None:
    best = trained.model.recommend(trained.batch, 10_000)
    everything = set(range(1, trained.data.catalog.num_items + 1))
    assert trained.batch.seen is not None
    for items, scores, seen in zip(best.items, best.scores, trained.batch.seen, strict=True):
        shown = items[items != 0].tolist()
        assert len(shown) == len(set(shown))
        assert set(shown) <= everything - {*seen.tolist()}
        if isinstance(trained.model, Scorer):
            assert set(shown) == everything - {*seen.tolist()}
        assert scores[items == 0].isneginf().all()


def test_target_ranks_are_those_read_off_the_scores(trained: Trained) -> None:
    if not isinstance(trained.model, Scorer):
        pytest.skip("the rank of a method that only lists is its place in the list")
    found = trained.model.target_ranks(trained.batch)
    scores, seen = trained.model.score(trained.batch).tolist(), trained.batch.seen
    assert seen is not None
    for i, target in enumerate(trained.batch.target.tolist()):
        barred = set(seen[i].tolist()) - {target}
        candidates = [scores[i][item] for item in range(1, len(scores[i])) if item not in barred]
        ties = candidates.count(scores[i][target])
        better = sum(score > scores[i][target] for score in candidates)
        assert (float(found.rank[i]), int(found.ties[i])) == (better + (ties + 1) / 2, ties)


def test_saved_weights_give_the_same_scores(trained: Trained) -> None:
    file = io.BytesIO()
    torch.save(trained.model.state_dict(), file)
    file.seek(0)
    restored = make(trained.preset)
    restored.build(trained.data.catalog)
    restored.load_state_dict(torch.load(file, weights_only=True))
    restored.eval()
    assert torch.equal(scores_of(restored, trained.batch), scores_of(trained.model, trained.batch))


@pytest.mark.parametrize("preset", PRESETS)
@torch.inference_mode(mode=False)
def test_the_seed_decides_everything(preset: str, few: World, tmp_path: Path) -> None:
    data = InteractionData.of(few.prepared)
    batch = data.request(USERS)
    taught = [teach(make(preset), data, tmp_path / f"{i}", epochs=1, seed=s) for i, s in enumerate((0, 0, 1))]
    with torch.no_grad():
        first, again, other = (scores_of(model, batch) for model in taught)
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (preset not in BY_GRADIENT and not PARTS[preset])


@pytest.mark.parametrize("preset", BY_GRADIENT)
@torch.inference_mode(mode=False)
def test_one_batch_can_be_learnt_by_heart(preset: str, demo_world: World) -> None:
    data = InteractionData.of(demo_world.prepared).batched(16, seed=0)
    torch.manual_seed(0)
    model = make(preset, dropout=0.0, embedding_dropout=0.0, forget_rate=0.0)
    model.build(data.catalog)
    next(iter(model.stages(data)))  # what a method reads of all training data, such as a graph
    batch = next(iter(data.train_dataloader()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        torch.manual_seed(0)  # masks and negatives are a part of what is learnt by heart
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if is_learnt(losses):  # learning it better shows nothing more
            break
    assert is_learnt(losses)


def is_learnt(losses: list[float]) -> bool:
    return len(losses) > 5 and sum(losses[-5:]) / 5 < 0.5 * losses[0]


class TestOnTheDemoWorld:
    """300 users, 60 places, repeats allowed: chance hits 10 of 60, and the true probabilities are known."""

    CHANCE = 10 / 60
    DEVIATION = math.sqrt(1 / 6 * 5 / 6 / 300)  # of the hit rate of a random guess

    def test_every_method_is_far_better_than_chance(self, hit_rate: float) -> None:
        assert hit_rate > self.CHANCE + 5 * self.DEVIATION

    def test_no_method_is_better_than_the_truth(self, hit_rate: float, demo_world: World) -> None:
        assert hit_rate < demo_world.oracle_hit_rate(10) + 5 * self.DEVIATION

    def test_what_follows_the_last_item_says_more_than_what_is_popular(
        self, demo_world: World, tmp_path: Path
    ) -> None:
        data = InteractionData.of(demo_world.prepared, mask_seen=False)
        popular, following = (
            means(evaluate(teach(make(name), data, tmp_path / name, epochs=1), data).ranks)["hr@10"]
            for name in ("popularity", "last_item")
        )
        assert following > popular + 0.1
