"""S3-Rec: the four objectives one by one, and that two stages leave one method."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from small import (
    RECIPE,
    at_step,
    interrupt,
    run,
    run_folder,
    same,
    small_data,
    small_model,
    steps_per_epoch,
    timeless,
)
from torch import Tensor

from recbench import checkpoint, runs
from recbench.errors import CheckpointError, DivergedError, UsageError
from recbench.fit import load_run
from recbench.models import S3Rec, s3rec
from recbench.models.s3rec import Objectives, Pretraining, draw_masks, draw_segments, tag_loss
from recbench.parse import parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

PRETRAINING = replace(RECIPE, max_epochs=2)
OFF = {"associated_attributes": 0.0, "masked_items": 0.0, "masked_attributes": 0.0, "segments": 0.0}


def model_of() -> S3Rec:
    model = small_model(S3Rec, pretraining=PRETRAINING)
    assert isinstance(model, S3Rec)
    return model


def pretraining_of(data: InteractionData, **objectives: float) -> Pretraining:
    """Pre-training with weights large enough to tell apart, and without dropout."""
    torch.manual_seed(0)
    model = S3Rec(dim=8, hidden=12, objectives=Objectives(**objectives))
    model.build(data.catalog)
    stage = next(model.stages(data))
    assert isinstance(stage.module, Pretraining)
    with torch.no_grad():
        for name, weights in stage.module.named_parameters():
            if "norm" not in name:
                weights.normal_(std=0.5)
    return stage.module.eval()


def state(module: Pretraining, items: list[int], hidden: set[int]) -> Tensor:
    """(L, D): the encoder on `items`, those at the places in `hidden` behind the mask."""
    rows = [
        module.mask.weight[0] if i in hidden else module.items.weight[item] for i, item in enumerate(items)
    ]
    everybody = torch.ones(1, 1, 1, len(items), dtype=torch.bool)
    out: Tensor = module.encoder(torch.stack(rows)[None], everybody)[0]
    return out


class TestObjectives:
    """Windows [3 1 4 2] and [5 6]; masked are the places of 1, 2 and 6, the segments are [1 4] and [5]."""

    @pytest.fixture
    def batch(self, batch_of: Callable[..., SequenceBatch], monkeypatch: pytest.MonkeyPatch) -> SequenceBatch:
        masks = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1]]) == 1
        segments = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0]]) == 1
        monkeypatch.setattr(s3rec, "draw_masks", lambda window, rate: masks)  # noqa: ARG005
        monkeypatch.setattr(s3rec, "draw_segments", lambda window: segments)  # noqa: ARG005
        return batch_of([[3, 1, 4], [5]], target=[2, 6])

    @pytest.fixture
    def masked(self) -> Callable[[Pretraining], list[tuple[Tensor, int]]]:
        def of(module: Pretraining) -> list[tuple[Tensor, int]]:
            first, second = state(module, [3, 1, 4, 2], {1, 3}), state(module, [5, 6], {1})
            return [(first[1], 1), (first[3], 2), (second[1], 6)]

        return of

    def has(self, module: Pretraining, item: int, tag: int) -> bool:
        return tag in module.ids[item].tolist()

    def tags_by_hand(self, module: Pretraining, vector: Tensor, form: Tensor, item: int) -> float:
        """Eq. 5: -log P(a | i) of the item's tags, -log(1 - P(a | i)) of all others."""
        loss = 0.0
        for tag in range(1, module.num_tags + 1):
            score = float((form @ vector) @ module.tags.weight[tag])
            probability = 1 / (1 + math.exp(-score))
            loss -= math.log(probability if self.has(module, item, tag) else 1 - probability)
        return loss

    @torch.no_grad()
    def test_associated_attributes(self, demo: InteractionData, batch: SequenceBatch) -> None:
        module = pretraining_of(demo, **OFF | {"associated_attributes": 2.0})
        form = module.associated.weight
        terms = [self.tags_by_hand(module, module.items.weight[i], form, i) for i in (1, 2, 3, 4, 5, 6)]
        assert float(module.loss(batch)) == pytest.approx(2 * sum(terms) / 6, rel=1e-4)

    @torch.no_grad()
    def test_masked_items(self, demo: InteractionData, batch: SequenceBatch, masked: Any) -> None:
        module = pretraining_of(demo, **OFF | {"masked_items": 2.0})
        terms = []
        for vector, item in masked(module):
            scores = module.masked_item(vector) @ module.items.weight[1:].T
            terms.append(float(F.cross_entropy(scores, torch.tensor(item - 1))))
        assert float(module.loss(batch)) == pytest.approx(
            2 * sum(terms) / 3, rel=0.02
        )  # products in bfloat16

    @torch.no_grad()
    def test_masked_attributes(self, demo: InteractionData, batch: SequenceBatch, masked: Any) -> None:
        module = pretraining_of(demo, **OFF | {"masked_attributes": 2.0})
        form = module.masked_tag.weight
        terms = [self.tags_by_hand(module, vector, form, item) for vector, item in masked(module)]
        assert float(module.loss(batch)) == pytest.approx(2 * sum(terms) / 3, rel=1e-4)

    @torch.no_grad()
    def test_segments(self, demo: InteractionData, batch: SequenceBatch) -> None:
        module = pretraining_of(demo, **OFF | {"segments": 2.0})
        around = [state(module, [3, 1, 4, 2], {1, 2})[-1], state(module, [5, 6], {0})[-1]]
        segments = [state(module, [3, 1, 4, 2], {0, 3})[-1], state(module, [5, 6], {1})[-1]]
        loss = 0.0
        for own, other in ((0, 1), (1, 0)):
            form = module.segment.weight @ around[own]
            loss += math.log(1 + math.exp(float(form @ segments[other] - form @ segments[own])))
        assert float(module.loss(batch)) == pytest.approx(2 * loss / 2, rel=1e-4)

    @torch.no_grad()
    def test_the_loss_is_their_weighted_sum(self, demo: InteractionData, batch: SequenceBatch) -> None:
        def loss(**objectives: float) -> float:
            return float(pretraining_of(demo, **objectives).loss(batch))

        parts = [loss(**OFF | {name: 1.0}) for name in OFF]
        weights = (0.2, 1.0, 1.0, 0.5)  # of the paper, and the default
        wanted = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        assert loss() == pytest.approx(wanted, rel=1e-5)

    def test_all_that_it_has_learns(self, demo: InteractionData, batch: SequenceBatch) -> None:
        module = pretraining_of(demo)
        module.loss(batch).backward()
        for name, weights in module.named_parameters():
            assert weights.grad is not None, name
            assert weights.grad.abs().sum() > 0, name

    @torch.no_grad()
    def test_a_request_is_a_masked_newest_item(self, demo: InteractionData, batch: SequenceBatch) -> None:
        module = pretraining_of(demo)
        wanted = [state(module, [3, 1, 4, 7], {3})[-1], state(module, [5, 7], {1})[-1]]
        torch.testing.assert_close(module.encode(batch), module.masked_item(torch.stack(wanted)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (OFF, "weights must be 0 or more and one of them above"),
            ({"segments": -1.0}, "weights must be 0 or more and one of them above"),
            ({"mask_rate": 1.0}, "mask_rate must lie in 0..1, 1 excluded, got 1.0"),
        ],
    )
    def test_what_weighs_nothing_is_refused(self, options: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Objectives(**options)


def test_tag_loss_is_binary_cross_entropy_over_all_tags() -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 6)
    there = [[2, 5, 0], [0, 0, 0], [1, 2, 3]]
    labels = torch.tensor([[float(tag in row) for tag in range(1, 6)] for row in there])
    wanted = F.binary_cross_entropy_with_logits(scores[:, 1:], labels, reduction="sum") / 3
    torch.testing.assert_close(tag_loss(scores, torch.tensor(there)), wanted)


class TestDraws:
    def test_of_masks(self) -> None:
        torch.manual_seed(0)
        window = torch.tensor([[0, 0, 7, 8, 9]]).repeat(2000, 1)
        masks = draw_masks(window, 0.25)
        assert not masks[:, :2].any()
        assert masks[:, -1].all()
        assert abs(float(masks[:, 2:4].float().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)

    def test_of_segments(self) -> None:
        torch.manual_seed(0)
        num_draws = 6000
        window = torch.tensor([[0, 6, 7, 8, 9]]).repeat(num_draws, 1)
        found = Counter("".join(map(str, row)) for row in draw_segments(window).int().tolist())
        single, double = 1 / 2 / 4, 1 / 2 / 3  # a size of 1 or 2, then any place where it fits
        chances = {"01000": single, "00100": single, "00010": single, "00001": single}
        chances |= {"01100": double, "00110": double, "00011": double}
        assert set(found) == set(chances)
        for segment, chance in chances.items():
            deviation = math.sqrt(num_draws * chance * (1 - chance))
            assert abs(found[segment] - num_draws * chance) < 5 * deviation, segment

    @pytest.mark.parametrize("length", [2, 3])
    def test_of_short_windows(self, length: int) -> None:
        torch.manual_seed(0)
        window = torch.tensor([[0] * (4 - length) + [5] * length]).repeat(200, 1)
        inside = draw_segments(window)
        assert (inside.sum(1) == 1).all()
        assert not inside[:, : 4 - length].any()
        assert inside[:, 4 - length :].any(0).all()


class TestFineTuning:
    @torch.no_grad()
    def test_nobody_looks_ahead(self, demo: InteractionData) -> None:
        model = S3Rec(dim=8, max_len=3)
        model.build(demo.catalog)
        model.eval()
        found, later = (model.hidden_states(torch.tensor([[3, 1, item]])) for item in (4, 9))
        torch.testing.assert_close(found[:, :-1], later[:, :-1])
        assert not torch.allclose(found[:, -1], later[:, -1], atol=1e-3)
        torch.testing.assert_close(model.newest_state(torch.tensor([[7, 3, 1, 4]])), found[:, -1])


class TestStages:
    @pytest.fixture(scope="class")
    def finished(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, S3Rec, dict[str, Any]]:
        folder, model = tmp_path_factory.mktemp("s3rec"), model_of()
        return folder, model, timeless(run(folder, model))

    def test_both_train_and_are_on_the_record(self, finished: tuple[Path, S3Rec, dict[str, Any]]) -> None:
        stages = finished[2]["stages"]
        assert [(name, cost["num_epochs"]) for name, cost in stages.items()] == [
            ("pretrain", 2),
            ("train", 4),
        ]

    def test_fine_tuning_starts_where_pretraining_ended(self) -> None:
        model, data = model_of(), small_data()
        model.build(data.catalog)
        first, second = model.stages(data)
        assert isinstance(first.module, Pretraining)
        assert first.module.encoder is model.encoder
        assert first.module.items is model.items
        assert second.module is model

    def test_a_loaded_run_recommends_the_same(self, finished: tuple[Path, S3Rec, dict[str, Any]]) -> None:
        folder, model, _ = finished
        data = small_data()
        loaded = load_run(run_folder(folder), model_of(), data)
        assert same(loaded.state_dict(), model.state_dict())
        batch = next(iter(data.test_dataloader()))
        model.eval()
        assert torch.equal(loaded.recommend(batch, 10).items, model.recommend(batch, 10).items)

    def test_nothing_of_pretraining_is_left_in_the_method(
        self, finished: tuple[Path, S3Rec, dict[str, Any]]
    ) -> None:
        parts = {name.partition(".")[0] for name in finished[1].state_dict()}
        assert parts == {"items", "encoder"}

    @pytest.mark.parametrize("epochs", [0.5, 1.5])
    def test_a_break_in_pretraining_changes_nothing(
        self,
        epochs: float,
        finished: tuple[Path, S3Rec, dict[str, Any]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        build, step = Pretraining.build, int(epochs * steps_per_epoch())
        with monkeypatch.context() as patch:
            patch.setattr(
                Pretraining, "build", lambda module, catalog: build(at_step(module, step, interrupt), catalog)
            )
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, model_of())
        resumed = model_of()
        record = timeless(run(tmp_path, resumed, resume=True))
        for key in ("metrics", "validation", "stages"):
            assert record[key] == finished[2][key]
        assert same(resumed.state_dict(), finished[1].state_dict())

    def test_a_run_broken_after_pretraining_has_no_method_to_load(
        self, finished: tuple[Path, S3Rec, dict[str, Any]], tmp_path: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, at_step(model_of(), 1, interrupt))
        with pytest.raises(CheckpointError, match="not a finished run"):
            load_run(run_folder(tmp_path), model_of(), small_data())
        resumed = model_of()
        run(tmp_path, resumed, resume=True)
        assert same(resumed.state_dict(), finished[1].state_dict())

    def test_what_pretraining_kept_is_what_fine_tuning_starts_from(self, tmp_path: Path) -> None:
        still = replace(RECIPE, lr=1e-30, weight_decay=0.0, max_epochs=1)
        model = small_model(S3Rec, recipe=still, pretraining=PRETRAINING)
        run(tmp_path, model)
        kept = checkpoint.load(run_folder(tmp_path) / "stages" / "pretrain.ckpt")["weights"]
        for name, weights in model.state_dict().items():
            assert torch.equal(weights, kept[name]), name


def test_divergence_names_the_options_of_the_stage_that_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DivergedError, match=r"lower --model\.recipe\.lr .* or set --model\.recipe\.clip"):
        run(tmp_path / "fine-tuning", at_step(model_of(), 0, lambda loss: loss * math.nan))
    monkeypatch.setattr(Pretraining, "loss", lambda *_: torch.tensor(math.nan))
    with pytest.raises(DivergedError, match=r"lower --model\.pretraining\.lr .*--model\.pretraining\.clip"):
        run(tmp_path / "pre-training", model_of())


def test_data_without_tags_are_refused_before_training(data_of: Callable[..., InteractionData]) -> None:
    data = data_of([[1, 2, 3, 4]] * 3)
    model = model_of()
    model.build(data.catalog)
    with pytest.raises(UsageError, match="s3rec learns from item tags: this data set has no item 'tags'"):
        next(model.stages(data))


def test_objectives_are_options_of_the_command_line() -> None:
    words = ["--model", "s3rec", "--data", "demo"]
    words += ["--model.objectives.segments=0", "--model.pretraining.max_epochs=7"]
    model = parse(runs.fit, words, prog="fit")["model"]
    assert model.objectives == Objectives(segments=0.0)
    assert model.pretraining.max_epochs == 7
    assert model.recipe.max_epochs != 7
