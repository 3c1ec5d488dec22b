"""Weights & Biases through Lightning's logger: offline unless asked, and never a reason for a run to fail.

The record stays the truth; what is logged here can be read back without a server, by
`wandb leet inspect --summary --json RUN`. Imports lightning and wandb only when a logger is made.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.loggers import Logger, WandbLogger

    from recbench.results import Run

PATIENCE_S = 10.0  # for a key to be typed, and for a server to answer
log = logging.getLogger(__name__)


def make_logger(
    mode: Literal["offline", "online", "disabled"],
    *,
    folder: Path,
    name: str,
    config: dict[str, Any],
    project: str = "recbench",
) -> Logger | None:
    """A logger that has started its run and holds `config`; None when disabled or not installed.

    Args:
        mode: `online` falls back to `offline`, with one line in the log, when there is no key or no route.
        folder: where the run's files go, below `wandb/`; `wandb sync` uploads them later.
        name: the run's name.
        config: the resolved configuration.
        project: the W&B project.
    """
    if mode == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        log.warning("wandb is not installed, so no curves are kept; pip install wandb, or --wandb disabled")
        return None
    try:
        logger = _start(mode, folder=folder, name=name, project=project)
    except (wandb.Error, TimeoutError, OSError) as error:
        if mode == "offline":
            log.warning("wandb cannot start (%s), so no curves are kept", _first_line(error))
            return None
        log.warning(
            "wandb is offline: %s; upload later with: wandb sync %s", _first_line(error), folder / "wandb"
        )
        return make_logger("offline", folder=folder, name=name, config=config, project=project)
    if logger is not None:
        logger.log_hyperparams(config)
    return logger


def _start(
    mode: Literal["offline", "online"], *, folder: Path, name: str, project: str
) -> WandbLogger | None:
    """A logger whose run has begun: a missing key or route shows now, not in training. None past rank 0."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0) != 0:
        return None
    settings = wandb.Settings(
        init_timeout=PATIENCE_S,
        login_timeout=PATIENCE_S,
        silent=True,
        console="off",  # the terminal is the progress bar's
        reinit="create_new",  # a run that an earlier failure left open must not swallow this one's figures
    )
    folder.mkdir(parents=True, exist_ok=True)
    experiment = wandb.init(project=project, name=name, dir=folder, mode=mode, settings=settings)
    experiment.define_metric("trainer/global_step")
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(name=name, save_dir=folder, project=project, log_model=False, experiment=experiment)


def log_record(logger: Logger | None, run: Run) -> None:
    """Put the figures of `run` in the summary and close the W&B run, as failed unless the status is ok."""
    if logger is None:
        return
    experiment = logger.experiment  # type: ignore[attr-defined]
    experiment.summary.update(summary(run))
    experiment.finish(exit_code=0 if run.status == "ok" else 1)


def summary(run: Run) -> dict[str, float | str]:
    """The figures of a record under flat names: `test/hr@10`, `latency/device/p50_ms`, ..."""
    figures: dict[str, float | str | None] = {
        "status": run.status,
        "num_users": run.num_users,
        "evaluation_users_per_s": run.evaluation_users_per_s,
        "bytes_up": run.bytes_up,
        "bytes_down": run.bytes_down,
        "train_s/total": sum(stage.train_s for stage in run.stages.values()),
    }
    for key, estimate in run.metrics.items():
        figures |= {
            f"test/{key}": estimate.value,
            f"test/{key}/low": estimate.low,
            f"test/{key}/high": estimate.high,
        }
    for cohort, metrics in run.cohorts.items():
        figures |= {f"test-{cohort}/{key}": estimate.value for key, estimate in metrics.items()}
    for side, latency in run.latency.items():
        figures |= {f"latency/{side}/{name}": value for name, value in latency if name != "num_calls"}
    figures |= {f"validation/{key}": value for key, value in run.validation.items()}
    figures |= {f"train_s/{name}": stage.train_s for name, stage in run.stages.items()}
    figures |= {f"parameters/{side}": count for side, count in run.num_parameters.items()}
    figures |= {f"bytes/{side}": count for side, count in run.num_bytes.items()}
    return {name: value for name, value in figures.items() if value is not None}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
