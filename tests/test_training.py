"""Which weights a stage keeps, when it stops, the order of stages, and what follows when a number is none."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from small import at_step, interrupt, run, run_folder, same, small_data, small_model, steps_per_epoch
from torch import nn

from recbench import checkpoint, cli
from recbench.errors import DivergedError
from recbench.models import SASRec
from recbench.models.base import Paper, Recipe, Scorer, Stage
from recbench.results import read_run
from recbench.training import TrainerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.results import StageCost

STEPS = steps_per_epoch()


class Scripted(Scorer):
    """Weights that count their epochs, and validations that find what was written down for them."""

    paper = Paper("None", "nowhere", 2025, "")
    epoch: Tensor

    def __init__(self, values: list[float], **recipe: Any) -> None:
        super().__init__(Recipe(batch_size=32, **{"max_epochs": len(values)} | recipe))
        self.values = values
        self.validated: list[int] = []

    def build(self, catalog: Catalog) -> None:
        self.popularity = nn.Parameter(torch.zeros(catalog.num_items + 1))
        self.register_buffer("epoch", torch.tensor(0))

    def loss(self, batch: SequenceBatch) -> Tensor:
        return -self.popularity.log_softmax(0)[batch.target].mean()

    def on_train_epoch_start(self) -> None:
        self.epoch += 1

    def on_validation_epoch_end(self) -> None:
        self.validation.reset()
        self.validated.append(int(self.epoch))
        self.log("val/ndcg@10", self.values[int(self.epoch) - 1])

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        return self.popularity.repeat(len(batch), 1) if items is None else self.popularity[items]


def cost(folder: Path, model: Recommender, **options: Any) -> StageCost:
    """What the one stage of `model` took."""
    (found,) = read_run(run(folder, model, **options)).stages.values()
    return found


class TestKeepBest:
    @pytest.mark.parametrize(
        ("values", "best"),
        [
            ([0.1, 0.3, 0.2], 2),
            ([0.3, 0.2, 0.1], 1),
            ([0.1, 0.2, 0.3], 3),
            ([0.1, 0.3, 0.3], 2),
            ([0.0] * 3, 1),
        ],
    )
    def test_the_weights_are_those_of_the_best_epoch(
        self, values: list[float], best: int, tmp_path: Path
    ) -> None:
        model = Scripted(values)
        found = cost(tmp_path, model)
        assert (found.num_epochs, found.best_epoch) == (3, best)
        assert int(model.epoch) == best
        kept = checkpoint.load(run_folder(tmp_path) / "stages" / "train.ckpt")
        assert int(kept["weights"]["epoch"]) == best

    def test_patience_ends_it(self, tmp_path: Path) -> None:
        model = Scripted([0.1, 0.3, 0.2, 0.3, 0.9], patience=2)  # equal is no better
        found = cost(tmp_path, model)
        assert (found.num_epochs, found.best_epoch) == (4, 2)
        assert int(model.epoch) == 2

    def test_an_improvement_renews_patience(self, tmp_path: Path) -> None:
        found = cost(tmp_path, Scripted([0.1, 0.0, 0.2, 0.1, 0.3, 0.0], patience=2))
        assert (found.num_epochs, found.best_epoch) == (6, 5)

    def test_only_validated_epochs_are_judged(self, tmp_path: Path) -> None:
        model = Scripted([0.9, 0.1, 0.9, 0.2, 0.9], validate_every=2)
        found = cost(tmp_path, model)
        assert model.validated == [2, 4]
        assert (found.num_epochs, found.best_epoch) == (5, 4)

    def test_a_short_run_is_validated_at_its_end(self, tmp_path: Path) -> None:
        model = Scripted([0.1, 0.2], validate_every=5)
        assert cost(tmp_path, model).best_epoch == 2
        assert model.validated == [2]

    def test_epochs_are_capped(self, tmp_path: Path) -> None:
        options = TrainerOptions(threads=1, max_epochs=2)
        assert cost(tmp_path / "a", Scripted([0.1] * 5), trainer=options).num_epochs == 2
        assert cost(tmp_path / "b", Scripted([0.1]), trainer=options).num_epochs == 1

    @pytest.mark.parametrize(("minutes", "epochs"), [(1e-9, 1), (60.0, 3)])
    def test_time_ends_it_with_a_whole_epoch(self, minutes: float, epochs: int, tmp_path: Path) -> None:
        model = Scripted([0.1, 0.2, 0.3])
        steps: list[int] = []
        model.on_train_end = lambda: steps.append(model.global_step)
        found = cost(tmp_path, model, trainer=TrainerOptions(threads=1, max_minutes=minutes))
        assert (found.num_epochs, found.best_epoch) == (epochs, epochs)
        assert steps == [epochs * STEPS]

    def test_time_does_not_end_it_before_there_is_a_best(self, tmp_path: Path) -> None:
        model = Scripted([0.1, 0.2, 0.3, 0.4], validate_every=2)
        found = cost(tmp_path, model, trainer=TrainerOptions(threads=1, max_minutes=1e-9))
        assert (found.num_epochs, found.best_epoch) == (2, 2)

    def test_time_is_counted_over_all_parts(self, tmp_path: Path) -> None:
        first = Scripted([0.1, 0.2, 0.3])
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, at_step(first, 2 * STEPS, interrupt))
        file = run_folder(tmp_path) / "stages" / "train.last.ckpt"
        state = checkpoint.load(file)
        (keeper,) = (value for name, value in state["callbacks"].items() if name.startswith("KeepBest"))
        assert keeper["seconds"] > 0
        keeper["seconds"] = 1000.0
        checkpoint.save(state, file)
        assert cost(tmp_path, Scripted([0.1, 0.2, 0.3]), resume=True).train_s > 1000


class Recipes(Scripted):
    """Three steps: count, train, and mix what both left with something random."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__([0.1, 0.2])
        self.broken = broken
        self.events: list[str] = []

    def build(self, catalog: Catalog) -> None:
        super().build(catalog)
        self.register_buffer("noise", torch.zeros(3))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        yield Stage("count", self, data, solve=lambda: self._count(data))
        self.events.append("between")
        between = torch.rand(3)
        counted = self.popularity.detach().clone()
        yield Stage("train", self, data, self.recipe)
        assert not torch.equal(self.popularity, counted)
        yield Stage("mix", self, data, solve=lambda: self._mix(between, counted))

    def on_train_start(self) -> None:
        self.events.append("train")

    def _count(self, data: InteractionData) -> None:
        self.events.append("count")
        self.popularity.data.copy_(torch.from_numpy(data.catalog.popularity) + torch.rand(()))

    def _mix(self, between: Tensor, counted: Tensor) -> None:
        self.events.append("mix")
        if self.broken:
            raise KeyboardInterrupt
        self.noise.copy_(between + torch.rand(3) + counted.mean())


class TestStages:
    def test_one_after_the_other_each_on_what_the_last_left(self, tmp_path: Path) -> None:
        model = Recipes()
        record = read_run(run(tmp_path, model))
        assert model.events == ["count", "between", "train", "mix"]
        assert list(record.stages) == ["count", "train", "mix"]
        assert [stage.num_epochs for stage in record.stages.values()] == [0, 2, 0]
        files = {file.name for file in (run_folder(tmp_path) / "stages").iterdir()}
        assert files == {"count.ckpt", "train.ckpt", "mix.ckpt"}
        assert model.noise.min() >= small_data().catalog.popularity.mean()

    def test_finished_ones_are_loaded_on_resume(self, tmp_path: Path) -> None:
        whole = Recipes()
        run(tmp_path / "whole", whole)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", Recipes(broken=True))
        resumed = Recipes()
        run(tmp_path / "broken", resumed, resume=True)
        assert resumed.events == ["between", "mix"]
        assert same(resumed.state_dict(), whole.state_dict())  # down to what was drawn between the stages

    def test_without_resume_all_is_done_anew(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Recipes(broken=True))
        again = Recipes()
        run(tmp_path, again)
        assert again.events == ["count", "between", "train", "mix"]


class Curious(Scripted):
    """Looks at the test targets in a way of its own."""

    def __init__(self, look: Callable[[InteractionData], object], where: str) -> None:
        super().__init__([0.1])
        self.look, self.where = look, where

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        if self.where == "between stages":
            self.look(data)
        yield Stage("train", self, data, self.recipe)

    def loss(self, batch: SequenceBatch) -> Tensor:
        if self.where == "in the loss":
            self.look(self.trainer.datamodule)
        return super().loss(batch)


class TestNoPeeking:
    @pytest.mark.parametrize("where", ["between stages", "in the loss"])
    @pytest.mark.parametrize("look", [lambda data: data.test_dataloader(), lambda data: data.targets("test")])
    def test_test_targets_cannot_be_reached_while_training(
        self, look: Callable[[InteractionData], object], where: str, tmp_path: Path
    ) -> None:
        data = small_data()
        with pytest.raises(RuntimeError, match="test targets are read once, after training"):
            run(tmp_path, Curious(look, where), data)
        assert len(data.test_dataloader()) == 3, "after training they can: 150 users, 64 at a time"

    def test_validation_targets_can(self, tmp_path: Path) -> None:
        run(tmp_path, Curious(lambda data: data.targets("validation"), "in the loss"))


def diverged(folder: Path, model: Recommender, **options: Any) -> str:
    """Why a run of `model` was given up; what it must leave behind is checked."""
    with pytest.raises(DivergedError) as caught:
        run(folder, model, **options)
    assert caught.value.exit_code == 5
    (path,) = (folder / "results").rglob("*.json")
    record = read_run(path)
    assert (record.status, record.note) == ("diverged", str(caught.value))
    assert (record.metrics, record.validation, record.num_users) == ({}, {}, None)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "ranks of a run that has none"
    return str(caught.value)


class TestDivergence:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_the_first_loss_that_is_no_number_ends_it(self, value: float, tmp_path: Path) -> None:
        step = 2 * STEPS + 1
        message = diverged(tmp_path, at_step(small_model(SASRec), step, lambda loss: loss * 0 + value))
        assert message.startswith(
            f"the loss became {value} at step {step}; lower --model.recipe.lr (now 0.01)"
        )

    def test_the_last_good_checkpoint_is_kept(self, tmp_path: Path) -> None:
        diverged(tmp_path, at_step(small_model(SASRec), 2 * STEPS + 1, lambda loss: loss * math.nan))
        stages = run_folder(tmp_path) / "stages"
        last = checkpoint.load(stages / "train.last.ckpt")
        assert last["global_step"] == 2 * STEPS
        best = checkpoint.load(stages / "train.best.ckpt")
        for weights in (*last["state_dict"].values(), *best["weights"].values()):
            assert weights.isfinite().all()

    def test_an_infinite_gradient_ends_it_at_the_next_step(self, tmp_path: Path) -> None:
        def spoil(loss: Tensor) -> Tensor:
            loss.register_hook(lambda gradient: gradient * math.inf)
            return loss

        message = diverged(tmp_path, at_step(small_model(SASRec), STEPS, spoil))
        assert f"the loss became nan at step {STEPS + 1}" in message

    @pytest.mark.parametrize("when", ["validation", "test"])
    def test_scores_that_are_no_numbers_are_not_ranked(self, when: str, tmp_path: Path) -> None:
        model, data = small_model(SASRec), small_data()
        plain = model.encode

        def encode(batch: SequenceBatch) -> Tensor:
            is_wanted = data._is_training == (when == "validation")
            return plain(batch) * (math.nan if is_wanted else 1)

        model.encode = encode
        assert "scores are NaN or infinite" in diverged(tmp_path, model, data=data)

    def test_a_wild_learning_rate_ends_honestly(self, tmp_path: Path) -> None:
        wild = Recipe(lr=1e6, batch_size=32, max_epochs=3)
        try:
            record = read_run(run(tmp_path, small_model(SASRec, wild)))
        except DivergedError:
            return
        assert record.status == "ok"
        assert all(math.isfinite(estimate.value) for estimate in record.metrics.values())

    def test_on_the_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(SASRec, "loss", lambda model, _: model.items.weight.sum() * math.nan)
        words = ["fit", "--model", "SASRec", "--data", "demo", "--wandb", "disabled", "--trainer.threads=1"]
        assert cli.main([*words, f"--runs={tmp_path}/runs", f"--results={tmp_path}/results"]) == 5
        out, err = capfd.readouterr()
        assert out == ""
        assert err == (
            "recbench: the loss became nan at step 0; lower --model.recipe.lr (now 0.001) or set "
            "--model.recipe.clip\n"
        )
        (record,) = (tmp_path / "results").rglob("*.json")
        assert json.loads(record.read_text())["status"] == "diverged"
