"""Runs: `fit` makes one from names and options, `restore` loads one, `retrain` repeats one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recbench.config import nearest
from recbench.errors import DataError, UsageError
from recbench.parse import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.results import Run
    from recbench.training import TrainerOptions


def fit(
    *,
    model: Recommender,
    data: InteractionData,
    trainer: TrainerOptions,
    name: str = "",
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
        trainer=trainer,
        seed=seed,
        wandb=wandb,
        runs=runs,
        results=results,
        resume=resume,
    )
    return record_table(read_run(record), record)


def blank(words: Sequence[str]) -> Run:
    """The record, without figures yet, of the run that these options of `fit` ask for."""
    from recbench import fit as runner

    asked = parse(fit, words, prog="recbench fit")
    model, data = asked["model"], asked["data"]
    return runner.blank_record(
        data, config=_deciding(asked["config"]), name=asked["name"] or _own_name(model), seed=asked["seed"]
    )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the numbers; a progress bar does not."""
    kept = {key: config[key] for key in ("model", "data", "trainer", "seed")}
    return kept | {"trainer": {key: value for key, value in kept["trainer"].items() if key != "progress"}}


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
