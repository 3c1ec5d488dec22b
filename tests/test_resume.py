"""A run that was stopped and resumed is the run that was never stopped, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from small import (
    RECIPE,
    at_step,
    gradient_methods,
    interrupt,
    run,
    run_folder,
    same,
    small_data,
    small_model,
    steps_per_epoch,
    timeless,
)

from recbench import checkpoint
from recbench.errors import CheckpointError
from recbench.models import GRU4Rec, SASRec, SCaLRec
from recbench.nn.losses import SampledSoftmax
from recbench.results import read_run
from recbench.training import TrainerOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recbench.models.base import Recommender

STEPS = steps_per_epoch()
WHERE: dict[str, Callable[[int], int]] = {  # of the steps of an epoch; a run has 4
    "in the first epoch": lambda _: 2,
    "between epochs 2 and 3": lambda steps: 2 * steps,
    "in the middle of epoch 3": lambda steps: 2 * steps + steps // 2,
    "at the last step": lambda steps: 4 * steps - 1,
}


class Outcome(NamedTuple):
    """What two equal runs have in common."""

    best: dict[str, torch.Tensor]
    end: dict[str, Any]  # weights, optimizer and schedule when training ended
    record: dict[str, Any]


def outcome(folder: Path, model: Recommender, **options: Any) -> Outcome:
    """Train and look."""
    end: dict[str, Any] = {}

    def look() -> None:
        trainer = model.trainer
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        schedule = trainer.lr_scheduler_configs[0].scheduler.state_dict()
        del schedule["lr_lambdas"]
        end.update(weights=weights, optimizer=trainer.optimizers[0].state_dict(), schedule=schedule)

    model.on_train_end = look
    record = run(folder, model, **options)
    return Outcome(model.state_dict(), end, timeless(record))


def broken_at(folder: Path, model: Recommender, step: int) -> None:
    """Train until somebody presses Ctrl-C at `step`."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, at_step(model, step, interrupt))


class TestExact:
    @pytest.fixture(scope="class", params=gradient_methods(), ids=lambda cls: cls.__name__)
    def method(self, request: pytest.FixtureRequest) -> type[Recommender]:
        return request.param

    @pytest.fixture(scope="class")
    def unbroken(self, method: type[Recommender], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
        return outcome(tmp_path_factory.mktemp("unbroken"), small_model(method))

    @pytest.fixture(scope="class")
    def steps(self, method: type[Recommender]) -> int:
        samples = small_model(method).recipe.samples
        return steps_per_epoch(samples, newest=int(method is SCaLRec))  # which learns one moment of a user

    @pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
    def test_a_resumed_run_is_the_unbroken_one(
        self,
        method: type[Recommender],
        unbroken: Outcome,
        steps: int,
        where: Callable[[int], int],
        tmp_path: Path,
    ) -> None:
        broken_at(tmp_path, small_model(method), where(steps))
        resumed = outcome(tmp_path, small_model(method), resume=True)
        assert same(resumed.best, unbroken.best)
        assert same(resumed.end["weights"], unbroken.end["weights"])
        assert same(resumed.end["optimizer"], unbroken.end["optimizer"])
        assert same(resumed.end["schedule"], unbroken.end["schedule"])
        assert resumed.record == unbroken.record

    def test_it_did_train(self, unbroken: Outcome, steps: int) -> None:
        assert unbroken.record["stages"]["train"]["num_epochs"] == 4
        assert unbroken.end["schedule"]["_step_count"] == 4 * steps + 1
        assert unbroken.end["optimizer"]["param_groups"][0]["lr"] == 0  # where a linear decay ends


def test_negatives_are_drawn_alike_after_a_resume(tmp_path: Path) -> None:
    def model() -> Recommender:
        return small_model(SASRec, loss=SampledSoftmax(num_negatives=8))

    unbroken = outcome(tmp_path / "unbroken", model())
    broken_at(tmp_path / "broken", model(), 2 * STEPS + 1)
    resumed = outcome(tmp_path / "broken", model(), resume=True)
    assert same(resumed, unbroken)


def test_a_run_may_be_broken_again_and_again(tmp_path: Path) -> None:
    unbroken = outcome(tmp_path / "unbroken", small_model(GRU4Rec))
    broken_at(tmp_path / "broken", small_model(GRU4Rec), STEPS + 1)
    for step in (2 * STEPS, 3 * STEPS + 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", at_step(small_model(GRU4Rec), step, interrupt), resume=True)
    assert same(outcome(tmp_path / "broken", small_model(GRU4Rec), resume=True), unbroken)


def test_patience_is_counted_across_a_break(tmp_path: Path) -> None:
    # nothing is learnt at this rate: the first validation is the best, and three more end it
    recipe = replace(RECIPE, lr=1e-30, weight_decay=0.0, max_epochs=20, patience=3)
    broken_at(tmp_path, small_model(SASRec, recipe), 2 * STEPS)
    record = read_run(run(tmp_path, small_model(SASRec, recipe), resume=True))
    assert (record.stages["train"].num_epochs, record.stages["train"].best_epoch) == (4, 1)


@pytest.mark.parametrize("patience", [2, 10], ids=["out of patience", "all epochs done"])
def test_a_run_broken_after_its_last_epoch_trains_no_further(patience: int, tmp_path: Path) -> None:
    recipe = replace(RECIPE, lr=1e-30, weight_decay=0.0, patience=patience)
    epochs = min(1 + patience, RECIPE.max_epochs)
    model = small_model(SASRec, recipe)
    model.on_train_end = lambda: interrupt(torch.empty(0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model)
    resumed = at_step(small_model(SASRec, recipe), epochs * STEPS, interrupt)
    assert read_run(run(tmp_path, resumed, resume=True)).stages["train"].num_epochs == epochs


def test_a_finished_run_is_evaluated_but_not_trained_again(tmp_path: Path) -> None:
    first = outcome(tmp_path, small_model(SASRec))
    before = (run_folder(tmp_path) / "stages" / "train.ckpt").read_bytes()
    again = small_model(SASRec)
    again.training_step = lambda *_: pytest.fail("a finished stage is trained again")
    second = outcome(tmp_path, again, resume=True)
    assert same(second.best, first.best)
    assert second.record == first.record
    assert (run_folder(tmp_path) / "stages" / "train.ckpt").read_bytes() == before


def test_a_finished_stage_leaves_one_file(tmp_path: Path) -> None:
    run(tmp_path, small_model(SASRec))
    assert [file.name for file in (run_folder(tmp_path) / "stages").iterdir()] == ["train.ckpt"]


class TestDamage:
    @pytest.fixture
    def stages(self, tmp_path: Path) -> Path:
        """A run broken in its third epoch."""
        broken_at(tmp_path, small_model(SASRec), 2 * STEPS + 1)
        return run_folder(tmp_path) / "stages"

    def test_a_damaged_newest_costs_an_epoch_and_changes_nothing(
        self, stages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        last = stages / "train.last.ckpt"
        last.write_bytes(last.read_bytes()[:-1])
        resumed = outcome(tmp_path, small_model(SASRec), resume=True)
        assert [entry.name for entry in caplog.records] == ["recbench.checkpoint"]
        assert same(resumed, outcome(tmp_path / "unbroken", small_model(SASRec)))

    @pytest.mark.parametrize("names", [("train.best.ckpt",), ("train.last.ckpt", "train.last.ckpt.previous")])
    def test_damage_without_remedy_is_told_before_training(
        self, names: tuple[str, ...], stages: Path, tmp_path: Path
    ) -> None:
        for name in names:
            (stages / name).write_bytes(b"")
        model = small_model(SASRec)
        model.training_step = lambda *_: pytest.fail("trains all the same")
        with pytest.raises(CheckpointError, match="not a recbench checkpoint"):
            run(tmp_path, model, resume=True)

    @pytest.mark.parametrize("name", ["train.last.ckpt", "train.ckpt"])
    def test_a_file_of_another_method_is_refused(self, name: str, stages: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        broken_at(other, small_model(GRU4Rec), STEPS)
        alien = run_folder(other) / "stages" / "train.last.ckpt"
        (stages / name).write_bytes(alien.read_bytes())
        checkpoint.previous(stages / name).unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match="it is of GRU4Rec, stage train, data demo") as caught:
            run(tmp_path, small_model(SASRec), resume=True)
        assert "\n" not in str(caught.value)

    def test_weights_for_other_data_of_the_same_shapes_are_refused(self, tmp_path: Path) -> None:
        run(tmp_path / "a", small_model(SASRec))
        shuffled = small_data(index_seed=1)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", at_step(small_model(SASRec), 0, interrupt), shuffled)
        source = run_folder(tmp_path / "a") / "stages" / "train.ckpt"
        target = run_folder(tmp_path / "b") / "stages" / "train.ckpt"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
        with pytest.raises(CheckpointError, match="not the weights of this method and data"):
            run(tmp_path / "b", small_model(SASRec), shuffled, resume=True)


class TestDeterminism:
    @pytest.fixture(scope="class", params=gradient_methods(), ids=lambda cls: cls.__name__)
    def folder(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Where seed 0 ran twice and seed 1 once."""
        folder = tmp_path_factory.mktemp("twice")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recbench.runtime.commit", lambda: "c0ffee")  # somebody may commit between two runs
            for name, seed in (("first", 0), ("second", 0), ("other", 1)):
                run(folder / name, small_model(request.param), seed=seed)
        return folder

    def test_the_same_command_writes_the_same_record(self, folder: Path) -> None:
        first, second = (next((folder / name).rglob("*.json")) for name in ("first", "second"))
        assert first.name == second.name
        assert timeless(first) == timeless(second)
        assert (
            first.with_suffix(".ranks.parquet").read_bytes()
            == second.with_suffix(".ranks.parquet").read_bytes()
        )

    def test_and_the_same_weights(self, folder: Path) -> None:
        first, second = (
            checkpoint.load(run_folder(folder / name) / "stages" / "train.ckpt")["weights"]
            for name in ("first", "second")
        )
        assert same(first, second)

    def test_another_seed_finds_other_numbers(self, folder: Path) -> None:
        first, other = (read_run(next((folder / name).rglob("*.json"))) for name in ("first", "other"))
        assert first.metrics != other.metrics
        assert first.validation != other.validation


@pytest.mark.parametrize("method", gradient_methods(), ids=lambda cls: cls.__name__)
def test_training_needs_no_operation_that_may_differ(method: type[Recommender], tmp_path: Path) -> None:
    try:
        record = run(tmp_path, small_model(method), trainer=TrainerOptions(threads=1, deterministic=True))
    finally:
        torch.use_deterministic_algorithms(False)  # Lightning leaves it on
    assert read_run(record).status == "ok"
