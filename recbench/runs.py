"""Runs: `fit` makes one from names and options, `restore` loads one, `retrain` repeats one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recbench.config import nearest, read, space_file
from recbench.errors import DataError, UsageError
from recbench.parse import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.results import Run
    from recbench.training import TrainerOptions

# options of the data that came after the first records, and what these were made with: at that value a run is
# still the same run, its record found and its seeds averaged
LATER = {"num_negatives": 0}


def fit(
    *,
    model: Recommender,
    data: InteractionData,
    trainer: TrainerOptions,
    name: str = "",
    tuned: dict[str, Any] | None = None,
    seed: int = 0,
    wandb: Literal["offline", "online", "disabled"] = "offline",
    runs: Path = Path("runs"),
    results: Path = Path("leaderboard/results"),
    resume: bool = False,
    config: dict[str, Any],
) -> Table:
    """Train a method, evaluate it, and write its record.

    Args:
        model: a preset of configs/model, a class of recbench.models, a dotted path, or a YAML file.
        data: a preset of configs/data, a YAML file, or your own file of sequences.
        trainer: a preset of configs/trainer, or a YAML file.
        name: what the record calls the method; the preset's name unless given.
        tuned: how the options were found, as `recbench tune` notes it in a preset; goes on the record.
        seed: decides weights, batches and negatives.
        wandb: where Weights & Biases keeps the curves.
        runs: folder of run folders: configuration, checkpoints, curves.
        results: folder of records.
        resume: continue the run that the same configuration left unfinished.
        config: the resolved configuration.
    """
    from recbench import fit as runner
    from recbench.figures import record_table
    from recbench.results import read_run

    record = runner.fit(
        model,
        data,
        config=_deciding(config),
        name=name or _own_name(model),
        tuned=tuned or {},
        trainer=trainer,
        seed=seed,
        wandb=wandb,
        runs=runs,
        results=results,
        resume=resume,
    )
    return record_table(read_run(record), record)


def tune(
    *,
    model: Recommender,
    data: InteractionData,
    trainer: TrainerOptions,
    name: str = "",
    trials: int = 30,
    space: str = "",
    seed: int = 0,
    studies: Path = Path("runs/tune"),
    tuned: dict[str, Any] | None = None,  # noqa: ARG001 - of the preset that is tuned anew
    config: dict[str, Any],
) -> str:
    """Search a method's options on the validation split; resumable, and the test items stay unseen.

    The best become a preset that says how they were found, and so do the records of runs made from it.

    Args:
        model: a preset of configs/model, a class of recbench.models, a dotted path, or a YAML file.
        data: a preset of configs/data, a YAML file, or your own file.
        trainer: a preset of configs/trainer, or a YAML file; its limits hold for each trial.
        name: what the study calls the method; the preset's name unless given.
        trials: of the whole study; those made before count.
        space: a preset of configs/space or a YAML file; the method's own, else the default.
        seed: of the trainings and of what is tried.
        studies: folder of studies and of the presets they find.
        tuned: how the present options were found; not used.
        config: the resolved configuration.
    """
    from recbench import tuning

    if trials < 1:
        raise UsageError(f"--trials {trials}: at least one")
    base = _deciding(config)
    file = space_file(space, name or _own_name(model))
    entries = read(file)

    def make(options: dict[str, Any]) -> Recommender:
        changed = base | {"model": tuning.with_options(base["model"], options)}
        with tempfile.TemporaryDirectory() as scratch:
            written = Path(scratch) / "config.yaml"
            written.write_text(json.dumps(changed))  # JSON is YAML
            made: Recommender = parse(tune, [f"--config={written}"], prog="recbench tune")["model"]
        return made

    study = tuning.Study(
        name=name or _own_name(model),
        model=base["model"],
        space=tuning.read_space(entries, file, known=tuning.options_of(base["model"].get("init_args", {}))),
        folder=studies,
        identity=base | {"space": entries},
    )
    return study.run(make, data, num_trials=trials, trainer=trainer, seed=seed)


def blank(words: Sequence[str]) -> Run:
    """The record, without figures yet, of the run that these options of `fit` ask for."""
    from recbench import fit as runner

    asked = parse(fit, words, prog="recbench fit")
    model, data = asked["model"], asked["data"]
    name = asked["name"] or _own_name(model)
    return runner.blank_record(model, data, config=_deciding(asked["config"]), name=name, seed=asked["seed"])


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the numbers; bars and processes do not."""
    kept = {key: config[key] for key in ("model", "data", "trainer", "seed")}
    data = {key: value for key, value in kept["data"].items() if (key, value) not in LATER.items()}
    trainer = {key: value for key, value in kept["trainer"].items() if key not in ("progress", "workers")}
    return kept | {"data": data, "trainer": trainer}


def _own_name(model: Recommender) -> str:
    return type(model).__module__.rpartition(".")[2]


def restore(run: Path) -> tuple[Recommender, InteractionData]:
    """The trained model of a run folder and its data."""
    file = run / "config.yaml"
    if not run.is_dir():
        others = [file.parent.name for file in run.parent.glob("*/config.yaml")]
        raise DataError(f"{run}: no such run folder{nearest(run.name, others)}")
    if not file.is_file():
        raise DataError(f"{run}: holds no config.yaml, so it is not a run folder; name one of runs/")
    from recbench.fit import load_run

    arguments = parse(fit, [f"--config={file}"], prog="recbench fit")
    model, data = arguments["model"], arguments["data"]
    load_run(run, model, data)
    return model, data


def retrain(record: Path) -> Table:
    """Train a record's configuration anew and show both sets of metrics."""
    from recbench.figures import comparison_table
    from recbench.results import read_run, read_runs

    old = read_run(record)
    if not old.config:
        raise UsageError(f"{record}: a figure quoted from a paper has no configuration to train from")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "config.yaml"
        file.write_text(json.dumps({**old.config, "name": old.model}))  # JSON is YAML
        folders = [f"--runs={scratch}/runs", f"--results={scratch}/results", "--wandb=disabled"]
        fit(**parse(fit, [f"--config={file}", *folders], prog="recbench fit"))
        (new,) = read_runs(Path(scratch) / "results")
    return comparison_table(old, new)
