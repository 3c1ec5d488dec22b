"""fit(): seed, run the method's stages, evaluate once on test, write the record."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from lightning import seed_everything

from recbench import checkpoint, runtime
from recbench.errors import CheckpointError, DivergedError
from recbench.evaluate import estimates, evaluate, request_latency
from recbench.metrics import means
from recbench.results import Run, StageCost, config_hash, write_atomic, write_run
from recbench.sizes import num_bytes, num_weights
from recbench.tracking import log_record, make_logger
from recbench.training import TrainerOptions, owner_of, prepare_process, train
from recbench.workers import train_beside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch.loggers import Logger

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender

__all__ = ["TrainerOptions", "blank_record", "fit", "load_run", "run_folder"]
log = logging.getLogger(__name__)
WHOLE = "model.ckpt"  # the method after its last stage


def fit(
    model: Recommender,
    data: InteractionData,
    *,
    config: dict[str, Any],
    name: str,
    tuned: dict[str, Any] | None = None,
    trainer: TrainerOptions = TrainerOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    wandb: Literal["offline", "online", "disabled"] = "offline",
    runs: Path = Path("runs"),
    results: Path = Path("leaderboard/results"),
    resume: bool = False,
) -> Path:
    """Train `model` on `data`, evaluate it once on the test targets, write one record.

    Args:
        model: a method, not yet built.
        data: what it is trained and evaluated on.
        config: everything that decides the numbers, as plain containers; hashed and kept with the record.
        name: the method's name on the leaderboard.
        tuned: how the options were found: data, trials, validation metrics; kept on the record.
        trainer: where and how long.
        seed: of weights, order and dropout.
        wandb: where Weights & Biases logs go.
        runs: folder for checkpoints, logs and the resolved config.
        results: folder for records.
        resume: go on with an interrupted run of the same config and seed.

    Returns:
        Path of the record.

    Raises:
        DivergedError: a loss or score is not finite; the record then says so and has no metrics.
    """
    prepare_process(trainer)
    seed_everything(seed, verbose=False)
    record = blank_record(model, data, config=config, name=name, seed=seed)
    record = record.model_copy(update={"tuned": tuned or {}})
    folder = run_folder(runs, record, resume=resume)
    resolved = config | {"name": name, "tuned": tuned}
    write_atomic(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False).encode())
    logger = make_logger(wandb, folder=folder, name=folder.name, config=config)
    model.build(data.catalog)
    try:
        costs = _run_stages(model, data, folder, trainer, seed=seed, resume=resume, logger=logger)
        owner = owner_of("all", model, data)  # a stage may hold a part of the method only
        checkpoint.save({"weights": model.state_dict()}, folder / WHOLE, owner=owner)
        model.to(trainer.device)
        record, path = _judge(model, data, record, costs, results)
    except DivergedError as error:
        record = record.model_copy(update={"status": "diverged", "note": str(error), "finished": _now()})
        write_run(record, results)
        log_record(logger, record)
        raise
    log_record(logger, record)
    return path


def blank_record(
    model: Recommender, data: InteractionData, *, config: dict[str, Any], name: str, seed: int
) -> Run:
    """The record of a run before it has any figures: its name, its conditions, the machine."""
    fingerprint = data.prepared.card.fingerprint
    return Run(
        model=name,
        data=data.prepared.name,
        protocol="-".join(part for part in (data.protocol, model.track) if part),
        seed=seed,
        config=config,
        config_hash=config_hash(config, fingerprint),
        data_fingerprint=fingerprint,
        commit=runtime.commit(),
        versions=runtime.versions(),
        hardware=runtime.hardware(),
    )


def run_folder(runs: Path, record: Run, *, resume: bool) -> Path:
    """`<runs>/<data>-<model>-<seed>-<hash8>`; an earlier run there is moved aside unless it is resumed."""
    folder = runs / record.key.replace("/", "-")
    if folder.exists() and not resume:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(aside)
        log.info("the earlier run of this config and seed was moved to %s", aside)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run_stages(
    model: Recommender,
    data: InteractionData,
    folder: Path,
    trainer: TrainerOptions,
    *,
    seed: int,
    resume: bool,
    logger: Logger | None,
) -> dict[str, StageCost]:
    """Train stage after stage, or those at once that may be; the test targets are out of reach meanwhile."""
    costs = {}
    with data.training():
        stages = iter(model.stages(data))
        for first in stages:
            group = [first]
            while trainer.workers > 1 and len(group) <= first.num_beside:
                seed_everything(seed, verbose=False)
                group.append(next(stages))
            if len(group) > 1:
                train_beside(group, folder / "stages", trainer, seed=seed, resume=resume)
            for stage in group:
                can_load = resume or len(group) > 1
                costs[stage.name] = train(
                    stage, folder / "stages", trainer, seed=seed, resume=can_load, logger=logger
                )
                seed_everything(seed, verbose=False)  # the rest draws alike whether trained or loaded
    return costs


def _judge(
    model: Recommender, data: InteractionData, record: Run, costs: dict[str, StageCost], results: Path
) -> tuple[Run, Path]:
    """Evaluate on validation and, once, on test; measure latency; write the record and its ranks."""
    tested = evaluate(model, data)
    heldout = evaluate(model, data, users="heldout")
    sides = model.sides()
    update: dict[str, Any] = {
        "metrics": estimates(tested.ranks),
        "num_users": len(tested.users),
        "note": "; ".join((*data.notes(), *tested.notes(), *model.notes())),
        "validation": means(evaluate(model, data, split="validation").ranks),
        "stages": costs,
        "latency": request_latency(model, data),
        "evaluation_users_per_s": round(len(tested.users) / tested.seconds, 1),
        "num_parameters": {side: num_weights(module) for side, module in sides.items()},
        "num_bytes": {side: num_bytes(module) for side, module in sides.items()},
        "finished": _now(),
        **_per_request(tested.usage, len(tested.users)),
    }
    if len(heldout.users):
        update["cohorts"] = {"heldout": estimates(heldout.ranks)}
        update["cohort_sizes"] = {"heldout": len(heldout.users)}
    record = record.model_copy(update=update)
    path = write_run(record, results, users=tested.users, ranks=tested.ranks)
    return record, path


def _per_request(usage: Mapping[str, int], num_requests: int) -> dict[str, Any]:
    """What one request takes beyond computing, for the record; nothing where nothing is sent."""
    if not usage:
        return {}
    mean = {key: round(total / num_requests, 4) for key, total in usage.items()}
    crossed = {key: mean.pop(key, 0.0) for key in ("exchanges", "bytes_up", "bytes_down")}
    return {**crossed, "served": mean}


def load_run(folder: Path, model: Recommender, data: InteractionData) -> Recommender:
    """Build `model` for `data` and fill it with the weights of the run in `folder`.

    Raises:
        CheckpointError: the run is not finished, or its weights are not of this model and data.
    """
    file = folder / WHOLE
    if not checkpoint.exists(file):
        raise CheckpointError(f"{folder}: not a finished run; finish it with recbench fit --resume")
    model.build(data.catalog)
    checkpoint.restore(model, file, owner=owner_of("all", model, data))
    model.eval()
    return model


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
