"""Tuning: what may be varied, the same budget however often a study stops, what goes on the record."""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from small import RECIPE, small_data, small_model, steps_per_epoch

from recbench import tuning
from recbench.cli import main
from recbench.errors import DataError, DivergedError, UsageError
from recbench.models import SASRec
from recbench.results import read_runs
from recbench.training import MONITOR, TrainerOptions
from recbench.tuning import journal as module
from recbench.tuning.study import alone
from recbench.tuning.trial import TrialLogger, validation

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import tuning as tables

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE: tuning.Space = {"x": FloatDistribution(-1.0, 1.0)}
OPTIONS = {"dim": 8, "recipe": {"lr": 0.1, "batch_size": 4}, "loss": {"init_args": {"half": True}}}


def peak(options: dict[str, Any]) -> dict[str, float]:
    """A method whose validation is best at x = .3, and that diverges below -.5."""
    if options["x"] < -0.5:
        raise DivergedError("the loss became nan")
    value = 1 - (options["x"] - 0.3) ** 2
    return {"hr@10": value, "ndcg@10": value}


def study(
    journal: Path,
    num_trials: int,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Any = peak,
    make: Callable[[dict[str, Any]], Any] = dict,
) -> tuning.Outcome:
    def scripted(made: Any, *_: Any, **__: Any) -> dict[str, float]:
        found: dict[str, float] = outcome(made)
        return found

    monkeypatch.setattr(module, "validation", scripted)
    options = TrainerOptions()
    data: Any = None
    return tuning.search(
        make, data, SPACE, start={"x": 0.1}, journal=journal, num_trials=num_trials, trainer=options, seed=3
    )


def tried(journal: Path) -> list[float]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    found = optuna.load_study(study_name="tune", storage=storage).trials
    return [trial.params["x"] for trial in found if not {"broken", "refused"} & set(trial.user_attrs)]


def test_the_best_trial_wins_and_every_trial_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = study(tmp_path / "a", 25, monkeypatch)
    xs = tried(tmp_path / "a")
    assert len(xs) == found.num_trials == 25
    assert xs[0] == 0.1  # as it was configured
    assert found.given == pytest.approx(1 - (0.1 - 0.3) ** 2, abs=1e-6)
    assert found.num_failed == sum(x < -0.5 for x in xs) > 0
    nearest = min((x for x in xs if x >= -0.5), key=lambda x: abs(x - 0.3))
    assert found.options["x"] == pytest.approx(nearest, abs=1e-12)
    assert abs(found.options["x"] - 0.3) < 0.05
    assert found.validation["ndcg@10"] == pytest.approx(1 - (found.options["x"] - 0.3) ** 2, abs=1e-6)


def test_a_study_in_parts_is_the_study_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study(tmp_path / "whole", 16, monkeypatch)
    study(tmp_path / "parts", 5, monkeypatch)
    study(tmp_path / "parts", 13, monkeypatch)
    parts = study(tmp_path / "parts", 16, monkeypatch)
    assert tried(tmp_path / "parts") == tried(tmp_path / "whole")
    assert parts._replace(train_s=0) == whole._replace(train_s=0)
    assert study(tmp_path / "parts", 16, monkeypatch).num_trials == 16  # nothing left to do


def test_a_trial_cut_short_is_made_again_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def killed_at_the_third(options: dict[str, Any]) -> dict[str, float]:
        calls.append(options["x"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return peak(options)

    whole = study(tmp_path / "whole", 6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "cut", 6, monkeypatch, killed_at_the_third)
    assert study(tmp_path / "cut", 2, monkeypatch).num_trials == 2  # what waits to be made again is none
    found = study(tmp_path / "cut", 6, monkeypatch)
    assert tried(tmp_path / "cut") == tried(tmp_path / "whole")
    assert found.num_trials == whole.num_trials == 6
    assert found.num_failed == whole.num_failed


def test_options_in_steps_are_round_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACE, "x", FloatDistribution(0.1, 0.6, step=0.1))
    seen = []

    def outcome(options: dict[str, Any]) -> dict[str, float]:
        seen.append(options["x"])
        return peak(options)

    found = study(tmp_path / "a", 12, monkeypatch, outcome)
    assert found.options["x"] == 0.3  # of which Optuna makes .30000000000000004
    assert set(seen) <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}


def test_options_that_do_not_go_together_are_drawn_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choosy(options: dict[str, Any]) -> dict[str, Any]:
        if options["x"] < 0:
            raise UsageError("x must be positive")
        return options

    found = study(tmp_path / "whole", 12, monkeypatch, make=choosy)
    xs = tried(tmp_path / "whole")
    assert (len(xs), min(xs) >= 0) == (12, True)
    assert (found.num_trials, found.num_failed) == (12, 0)
    study(tmp_path / "parts", 4, monkeypatch, make=choosy)
    study(tmp_path / "parts", 12, monkeypatch, make=choosy)
    assert tried(tmp_path / "parts") == xs


def test_a_space_that_is_refused_whole_is_named_as_the_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: dict[str, Any]) -> None:
        raise UsageError("hidden must be 256")

    with pytest.raises(UsageError, match=r"refused, the last: hidden must be 256; narrow the space"):
        study(tmp_path / "a", 2, monkeypatch, make=refuses)


def test_a_study_of_which_nothing_ends_well_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(_: dict[str, Any]) -> dict[str, float]:
        raise DivergedError("nan")

    with pytest.raises(DivergedError, match="none of 3 trials ended well"):
        study(tmp_path / "a", 3, monkeypatch, diverges)


def test_a_trial_behind_the_median_is_stopped() -> None:
    made = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    )
    for _ in range(2):
        good = made.ask()
        logger = TrialLogger(good)
        for _ in range(3):
            logger.log_metrics({MONITOR: 0.5, "val/hr@10": 0.0}, step=1)
        made.tell(good, 0.5)
    bad = TrialLogger(made.ask())
    bad.log_metrics({"train/loss": 0.1}, step=1)  # nothing to judge by
    bad.log_metrics({MONITOR: 0.1}, step=1)  # too early to judge
    with pytest.raises(optuna.TrialPruned):
        bad.log_metrics({MONITOR: 0.1}, step=2)


def test_space_reads_three_kinds_and_leaves_out_what_the_method_lacks(tmp_path: Path) -> None:
    entries = {
        "dim": {"choices": [8, 16]},
        "recipe.lr": {"low": 0.001, "high": 0.1, "log": True},
        "recipe.batch_size": {"low": 2, "high": 8, "step": 2},
        "num_heads": {"choices": [1]},
    }
    found = tuning.read_space(entries, tmp_path, known=tuning.options_of(OPTIONS))
    assert found == {
        "dim": CategoricalDistribution([8, 16]),
        "recipe.lr": FloatDistribution(0.001, 0.1, log=True),
        "recipe.batch_size": IntDistribution(2, 8, step=2),
    }


@pytest.mark.parametrize("entry", [3, {"low": 1}, {"low": 3, "high": 1}, {"chioces": [1]}, {"choices": []}])
def test_a_malformed_entry_is_named(entry: Any) -> None:
    with pytest.raises(DataError, match=r"s\.yaml: dim: .*write \{choices"):
        tuning.read_space({"dim": entry}, Path("s.yaml"), known={"dim"})


def test_a_method_without_these_options_is_refused() -> None:
    with pytest.raises(UsageError, match="has none of the options dim"):
        tuning.read_space({"dim": {"choices": [1]}}, Path("s.yaml"), known={"k1"})


def test_options_are_named_by_dots_and_replaced_without_touching_the_rest() -> None:
    assert {"dim", "recipe.lr", "loss.init_args.half"} <= tuning.options_of(OPTIONS)
    model = {"class_path": "a.B", "init_args": OPTIONS}
    changed = tuning.with_options(model, {"recipe.lr": 0.5, "loss.init_args.half": False})
    assert changed["init_args"] == {
        "dim": 8,
        "recipe": {"lr": 0.5, "batch_size": 4},
        "loss": {"init_args": {"half": False}},
    }
    assert OPTIONS["recipe"] == {"lr": 0.1, "batch_size": 4}


def test_a_space_is_widened_to_hold_what_is_configured() -> None:
    space: tuning.Space = {
        "dim": CategoricalDistribution([16, 32]),
        "recipe.lr": FloatDistribution(1e-3, 1e-2, log=True),
        "recipe.batch_size": IntDistribution(8, 16),
    }
    start = tuning.given(OPTIONS, space)
    assert start == {"dim": 8, "recipe.lr": 0.1, "recipe.batch_size": 4}
    assert tuning.holding(space, start) == {
        "dim": CategoricalDistribution([16, 32, 8]),
        "recipe.lr": FloatDistribution(1e-3, 0.1, log=True),
        "recipe.batch_size": IntDistribution(4, 16),
    }
    assert tuning.holding(space, {"dim": 16}) == space
    stepped: tuning.Space = {"dropout": FloatDistribution(0.1, 0.6, step=0.1)}
    assert tuning.holding(stepped, {"dropout": 0.0}) == {"dropout": FloatDistribution(0.0, 0.6)}
    assert tuning.given({"dropout": None}, stepped) == {}


def test_every_shipped_space_fits_some_method() -> None:
    from recbench import config

    for path in sorted((config.folder() / "space").glob("*.yaml")):
        entries = config.read(path)
        assert set(tuning.read_space(entries, path, known=set(entries))) == set(entries)


def _hold(lock: Path, is_held: Any, may_end: Any) -> None:
    with alone(lock):
        is_held.set()
        may_end.wait(30)


def test_two_processes_do_not_share_a_study(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    is_held, may_end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", is_held, may_end))
    other.start()
    assert is_held.wait(30)
    with pytest.raises(UsageError, match="another recbench tune"), alone(tmp_path / "lock"):
        pass
    may_end.set()
    other.join()
    with alone(tmp_path / "lock"):
        pass


def test_the_preset_found_fits_and_its_record_says_how_it_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["tune", "--model", "itemknn", "--data", "demo", "--trials", "2", "--trainer.max_epochs", "3"])
        == 0
    )
    said = capsys.readouterr()
    assert said.err.count("trial ") == 2
    (preset,) = Path("runs/tune").glob("*.yaml")
    assert str(preset) in said.out
    fit = ["fit", "--model", str(preset), "--data", "demo", "--name", "itemknn", "--wandb", "disabled"]
    assert main([*fit, "--results", "results"]) == 0
    (record,) = read_runs(Path("results"))
    assert record.tuned == yaml.safe_load(preset.read_text())["tuned"]
    assert record.tuned["num_trials"] == 2
    assert record.tuned["max_epochs"] == 3
    assert 0 < record.tuned["given"] <= record.tuned["validation"]["ndcg@10"]
    cells = tables.row(preset)
    assert cells[:4] == ("itemknn", "demo", "2", "3")
    assert cells[5] == f"{record.validation['ndcg@10']:.4f}"
    assert (cells[7] == "nothing") == (cells[4] == cells[5])
    assert record.tuned["validation"]["ndcg@10"] == pytest.approx(record.validation["ndcg@10"], abs=1e-6)


def test_trials_run_with_the_threads_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    monkeypatch.chdir(tmp_path)
    words = ["tune", "--model", "itemknn", "--data", "demo", "--trials", "1", "--trainer.threads", "3"]
    assert main(words) == 0
    assert 3 in asked


def test_every_method_gets_the_same_share_of_its_epochs() -> None:
    assert tables.epochs("sasrec", 0.2) == 3  # of 16
    assert tables.epochs("mf", 0.2) == 12  # of 60
    assert tables.epochs("sasrec", 0.01) == 1
    assert tables.epochs("itemknn", 0.2) == 0  # closed form


def test_a_decaying_schedule_ends_where_the_trials_are_capped(tmp_path: Path) -> None:
    recipe = replace(RECIPE, schedule="linear", max_epochs=10, warmup_steps=0)
    model = small_model(SASRec, recipe)
    rates: list[float] = []
    model.on_train_batch_start = lambda *_: rates.append(model.optimizers().param_groups[0]["lr"])
    options = TrainerOptions(threads=1, max_epochs=2, progress=False)
    validation(model, small_data(), options, seed=0, logger=CSVLogger(tmp_path))
    total = 2 * steps_per_epoch()
    assert rates == pytest.approx([RECIPE.lr * (1 - step / total) for step in range(total)])
