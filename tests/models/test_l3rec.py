"""L3Rec: who is in which community, what each trains on, and how their lists become one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from recbench.metrics import per_user
from recbench.models import POD, L3Rec, MultVAE
from recbench.models.base import Recipe
from recbench.nn.bags import distinct
from recbench.nn.fusion import fuse
from recbench.nn.item_codes import Random
from recbench.nn.prompt_tasks import Tasks
from tests.small import small_data

if TYPE_CHECKING:
    from recbench.data.module import InteractionData


def made(*, tasks: Tasks = Tasks(), **options: object) -> L3Rec:
    sizes = {"dim": 8, "hidden": 16, "num_layers": 1, "num_heads": 2, "max_len": 5}
    local = POD(codes=Random(), tasks=tasks, recipe=Recipe(samples="prefixes", max_epochs=1), **sizes)  # type: ignore[arg-type]
    vae = MultVAE(dim=8, hidden=16, recipe=Recipe(max_epochs=1))
    return L3Rec(clusterer=vae, local=local, **{"anchor_step": 1} | options)  # type: ignore[arg-type]


def cut(model: L3Rec) -> InteractionData:
    """Build and go through the stages without training."""
    data = small_data()
    torch.manual_seed(0)
    model.build(data.catalog)
    for _ in model.stages(data):
        pass
    model.eval()
    return data


def test_stages_are_the_papers_steps_and_their_copies_differ() -> None:
    data, model = small_data(), made(num_locals=2, warm_start=True, anchor_step=1)
    model.build(data.catalog)
    stages = list(model.stages(data))
    assert [stage.name for stage in stages] == ["cluster", "global", "local-0", "local-1"]
    assert [stage.seed for stage in stages] == [0, 0, 0, 1]
    for one in (stages[2].module, stages[3].module):
        assert torch.equal(one.state_dict()["tokens.weight"], model.local.state_dict()["tokens.weight"])
    cold = made(num_locals=2)
    cold.build(data.catalog)
    first, second = (one.state_dict()["tokens.weight"] for one in cold.locals)
    assert not torch.equal(first, second)


def test_communities_are_within_the_bandwidth_of_their_anchors() -> None:
    model = made(num_locals=3, bandwidth=0.5)
    data = cut(model)
    place = torch.zeros(data.catalog.num_users, 8)
    for users, items in data.train_bags(64):
        place[users] = model.clusterer.latent(distinct(items))
    unit = place / place.norm(dim=1, keepdim=True)
    anchors = [
        int(column.argmax()) for column in model.weights.T
    ]  # nobody is nearer to an anchor than itself
    assert len(set(anchors)) == 3
    distance = (unit[anchors] @ unit.T).clamp(-1, 1).arccos() * 2 / torch.pi
    assert torch.equal(model.weights.T > 0, distance < 0.5)
    torch.testing.assert_close(
        model.weights.T, (0.75 * (1 - (distance / 0.5) ** 2)).clamp_min(0), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["random", "everyone"])
def test_controls_have_the_same_sizes_or_everyone(kind: str) -> None:
    around, control = made(bandwidth=0.6), made(bandwidth=0.6, communities=kind)
    cut(around)
    data = cut(control)
    sizes = (control.weights > 0).sum(0)
    if kind == "random":
        assert torch.equal(sizes, (around.weights > 0).sum(0))
        assert not torch.equal(control.weights > 0, around.weights > 0)
    else:
        assert sizes.tolist() == [data.catalog.num_users] * 3


def test_a_local_model_trains_on_its_members_alone() -> None:
    data, model = small_data(), made(bandwidth=0.5)
    model.build(data.catalog)
    for stage in model.stages(data):
        if stage.name.startswith("local"):
            members = (model.weights[:, int(stage.name[-1])] > 0).nonzero()[:, 0].tolist()
            stage.data.batched(64, 0, samples="prefixes")
            trained = torch.cat([batch.users for batch in stage.data.train_dataloader()])
            assert set(trained.tolist()) == set(members)
            assert set(stage.data.evaluated("validation").tolist()) <= set(members)


def test_local_items_are_the_only_ones_that_are_learnt() -> None:
    data = small_data()
    model = made(tasks=Tasks(sequential=0, top_n=1), local_items=True, item_bandwidth=0.8)
    model.build(data.catalog)
    for stage in model.stages(data):
        if stage.name.startswith("local"):
            batches = stage.data.batched(64, 0, samples="prefixes").train_dataloader()
            learnt = torch.cat([batch.target for batch in batches]).unique()
            assert 0 < len(learnt) < data.catalog.num_items


def test_lists_are_fused_and_strangers_get_the_autoencoder_s() -> None:
    model = made(bandwidth=0.4, fusion="wrrf_cf")
    data = cut(model)
    batch = data.request(np.arange(60), back=2)
    lists = torch.stack([one.recommend(batch, 20).items for one in model.locals], dim=1)  # type: ignore[operator]
    wanted, _ = fuse(lists, model.weights[batch.users], how="weighted")
    spare = model.clusterer.recommend(batch, 7).items
    is_stranger = ~(model.weights[batch.users] > 0).any(1)
    assert 0 < int(is_stranger.sum()) < 60
    found = model.recommend(batch, 7).items
    assert torch.equal(found[~is_stranger], wanted[~is_stranger, :7])
    assert torch.equal(found[is_stranger], spare[is_stranger])


def test_ranks_are_places_in_the_fused_list() -> None:
    model = made(fusion="rrf")
    data = cut(model)
    batch = replace(data.request(np.arange(40), back=2), seen=None)
    best = model.recommend(batch, 20)
    listed = replace(batch, target=best.items[:, 3])
    rank = model.target_ranks(listed)
    for scores, place, ties in zip(best.scores.tolist(), rank.rank.tolist(), rank.ties.tolist(), strict=True):
        equal = [i for i, score in enumerate(scores, start=1) if score == scores[3]]
        assert place == sum(equal) / len(equal)
        assert ties == len(equal)


def test_what_weighs_lists_by_skill_is_ndcg_on_the_validation_item() -> None:
    model = made(num_locals=2, fusion="wrrf_lm", communities="everyone")
    data = cut(model)
    batch = next(iter(data.val_dataloader()))
    ndcg = [per_user(one.target_ranks(batch).numpy(), ("ndcg@5",))[:, 0] for one in model.locals]  # type: ignore[operator]
    wanted = np.exp(ndcg) / np.exp(ndcg).sum(0)
    torch.testing.assert_close(
        model._list_weights(batch.users).double(), torch.from_numpy(wanted.T), atol=1e-6, rtol=1e-6
    )


def test_the_record_says_how_large_communities_are() -> None:
    model = made(communities="everyone")
    cut(model)
    assert model.notes() == (
        "communities hold 100.0% of all users on average, 100.0% to 100.0%; 0.00% of users are in none",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 2.5}, "bandwidth must lie above 0"),
        ({"damping": -1.0}, "damping must be 0 or more"),
        ({"local_items": True}, "holes"),
        ({"num_locals": 0}, "num_locals must be at least 1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)
