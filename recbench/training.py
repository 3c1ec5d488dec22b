"""One stage of training: Lightning's Trainer with an exact resume, or a closed form.

Resuming gives the numbers of an unbroken run: the data module saves which epoch comes next, its permutation
is a function of (seed, epoch), and every step draws from a generator seeded by (seed, step).
"""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from recbench import checkpoint, runtime
from recbench.results import PROGRESS, StageCost, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning import LightningModule
    from lightning.pytorch.loggers import Logger

    from recbench.data.module import InteractionData
    from recbench.models.base import Stage

log = logging.getLogger(__name__)

MONITOR = "val/ndcg@10"


@dataclass(frozen=True)
class TrainerOptions:
    """Where and how long to train.

    Args:
        accelerator: cpu, gpu, or auto.
        precision: Lightning's word for the number format, such as 32-true or bf16-mixed.
        threads: processor threads; 0 leaves them as they are.
        workers: stages that need nothing of one another, such as L3Rec's local models, are trained by so many
            processes at once, each with `threads` threads, or its share of what there are. The numbers stay.
        max_epochs: cap on every stage's epochs; 0 for the recipe's own.
        max_minutes: stop each stage after the epoch in which so many minutes have passed, once it has been
            validated; 0 for no limit.
        deterministic: refuse operations whose result may differ between two runs.
        progress: show a progress bar where there is a terminal.
    """

    accelerator: str = "cpu"
    precision: str = "32-true"
    threads: int = 0
    workers: int = 1
    max_epochs: int = 0
    max_minutes: float = 0.0
    deterministic: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1 process, got {self.workers}")

    @property
    def device(self) -> torch.device:
        """Where evaluation runs: where training did."""
        on_gpu = self.accelerator in ("gpu", "cuda") or (
            self.accelerator == "auto" and torch.cuda.is_available()
        )
        return torch.device("cuda" if on_gpu else "cpu")


def prepare_process(options: TrainerOptions) -> None:
    """Threads and allocator of this process, and a warning of a precision that is slow on its machine."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if "bf16" in options.precision and not runtime.multiplies_bfloat16(options.device.type):
        log.warning(
            "trainer.precision %s: this %s emulates bfloat16, many times slower; 32-true is fast here",
            options.precision,
            "processor" if options.device.type == "cpu" else "GPU",
        )
    runtime.keep_freed_memory()


def train(
    stage: Stage, folder: Path, options: TrainerOptions, *, seed: int, resume: bool, logger: Logger | None
) -> StageCost:
    """Train one stage and leave its best weights in `<folder>/<stage>.ckpt` and in the module.

    A finished stage is loaded instead of trained when `resume` is set; a broken one goes on from its last
    whole epoch.
    """
    finished = folder / f"{stage.name}.ckpt"
    owner = owner_of(stage.name, stage.module, stage.data)
    if resume and finished.exists():
        cost = StageCost(**checkpoint.restore(stage.module, finished, owner=owner)["cost"])
    else:
        if stage.solve is not None:
            cost = _timed(stage.solve)
        else:
            cost = _train_by_gradient(
                stage, folder, options, seed=seed + stage.seed, resume=resume, logger=logger
            )
        content = {"weights": stage.module.state_dict(), "cost": cost.model_dump()}
        checkpoint.save(content, finished, owner=owner)
    for leftover in (folder / f"{stage.name}.last.ckpt", folder / f"{stage.name}.best.ckpt"):
        checkpoint.remove(leftover)
    (folder / PROGRESS).unlink(missing_ok=True)
    return cost


def owner_of(name: str, module: LightningModule, data: InteractionData) -> str:
    """What the checkpoints of stage `name` belong to: weights of the same shapes may mean other items."""
    card = data.prepared.card
    return f"{type(module).__name__}, stage {name}, data {card.name} {card.fingerprint[:12]}"


def _timed(solve: Callable[[], None]) -> StageCost:
    start = time.perf_counter()
    solve()
    return StageCost(train_s=round(time.perf_counter() - start, 2), num_epochs=0)


def _train_by_gradient(
    stage: Stage, folder: Path, options: TrainerOptions, *, seed: int, resume: bool, logger: Logger | None
) -> StageCost:
    recipe = stage.recipe
    owner = owner_of(stage.name, stage.module, stage.data)
    keeper = KeepBest(
        folder, stage.name, owner=owner, patience=recipe.patience, max_seconds=options.max_minutes * 60
    )
    can_resume = resume and checkpoint.exists(keeper.last)
    if can_resume and checkpoint.exists(keeper.best):
        checkpoint.load(keeper.best, owner=keeper.owner)  # tell of damage now, not after training
    with _quiet():
        trainer = _trainer(stage, folder, options, callbacks=[StepSeed(seed), keeper], logger=logger)
        data = stage.data.batched(recipe.batch_size, seed, samples=recipe.samples)
        try:
            trainer.fit(stage.module, datamodule=data, ckpt_path=str(keeper.last) if can_resume else None)
        except SystemExit:  # what Lightning makes of Ctrl-C, with later ones ignored
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
    checkpoint.restore(stage.module, keeper.best, owner=keeper.owner)
    return keeper.cost


def _trainer(
    stage: Stage, folder: Path, options: TrainerOptions, *, callbacks: list[Callback], logger: Logger | None
) -> Trainer:
    """Lightning's Trainer for the stage's recipe, under the run's options."""
    recipe = stage.recipe
    show = options.progress and sys.stderr.isatty()
    max_epochs = min(filter(None, (recipe.max_epochs, options.max_epochs)))
    settings: dict[str, Any] = {
        "max_epochs": max_epochs,
        "gradient_clip_val": recipe.clip or None,
        "check_val_every_n_epoch": min(recipe.validate_every, max_epochs),  # once at least
    }
    return Trainer(
        **settings | dict(stage.trainer),
        logger=logger or False,
        callbacks=[*callbacks, Bar(refresh_rate=10)] if show else callbacks,
        plugins=[checkpoint.CheckedIO(f"{owner_of(stage.name, stage.module, stage.data)}, unfinished")],
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,  # type: ignore[arg-type]
        deterministic=options.deterministic,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=show,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


class StepSeed(Callback):
    """Seed before each step from (seed, step): a resumed run draws what an unbroken one would."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Reseed."""
        mixed = int(np.random.SeedSequence([self.seed, trainer.global_step]).generate_state(1, np.uint64)[0])
        torch.manual_seed(mixed)
        np.random.seed(mixed % 2**32)
        random.seed(mixed)


class KeepBest(Callback):
    """After every validation: keep the best weights, write what a resume needs, stop when nothing improves.

    Args:
        folder: where checkpoints go.
        name: the stage's name, first part of the file names.
        owner: what the weights belong to.
        patience: validations without improvement before training stops.
        max_seconds: training time after which it stops at an epoch's end; 0 for no limit.
    """

    def __init__(
        self, folder: Path, name: str, *, owner: str, patience: int, max_seconds: float = 0.0
    ) -> None:
        self.last = folder / f"{name}.last.ckpt"
        self.best = folder / f"{name}.best.ckpt"
        self.owner = f"{owner}, best so far"
        self.patience = patience
        self.max_seconds = max_seconds
        self.best_value = -np.inf
        self.best_epoch = 0
        self.num_epochs = 0
        self.num_stale = 0
        self._seconds_before = 0.0
        self._start = 0.0

    @property
    def seconds(self) -> float:
        """Training time, validation included, over all parts of a resumed run."""
        return self._seconds_before + time.perf_counter() - self._start

    @property
    def cost(self) -> StageCost:
        """What goes on the record."""
        return StageCost(
            train_s=round(self.seconds, 2), num_epochs=self.num_epochs, best_epoch=self.best_epoch
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs to know."""
        return {
            "best_value": float(self.best_value),
            "best_epoch": self.best_epoch,
            "num_epochs": self.num_epochs,
            "num_stale": self.num_stale,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best_value = state_dict["best_value"]
        self.best_epoch = state_dict["best_epoch"]
        self.num_epochs = state_dict["num_epochs"]
        self.num_stale = state_dict["num_stale"]
        self._seconds_before = state_dict["seconds"]

    def on_fit_start(self, *_: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """A run that was killed after its last epoch has nothing left to train."""
        trainer.should_stop |= self._is_done

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the epoch that ended; validation ran inside it."""
        self.num_epochs = trainer.current_epoch + 1
        if self.num_epochs % (trainer.check_val_every_n_epoch or 1) == 0:
            self._judge(float(trainer.callback_metrics[MONITOR]), pl_module)
        trainer.should_stop |= self._is_done
        trainer.save_checkpoint(self.last)
        progress = {"epoch": self.num_epochs, "max_epochs": trainer.max_epochs, "seconds": self.seconds}
        write_atomic(self.last.with_name(PROGRESS), json.dumps(progress).encode())

    @property
    def _is_done(self) -> bool:
        is_late = self.best_epoch > 0 and 0 < self.max_seconds <= self.seconds  # not before there is a best
        return is_late or self.num_stale >= self.patience

    def _judge(self, value: float, module: LightningModule) -> None:
        if value > self.best_value:
            self.best_value, self.best_epoch, self.num_stale = value, self.num_epochs, 0
            checkpoint.save({"weights": module.state_dict()}, self.best, owner=self.owner)
        else:
            self.num_stale += 1


class Bar(TQDMProgressBar):
    """Epoch, batch, loss and validation; no run number."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands at the right of the bar."""
        return {
            name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"
        }


class _quiet(warnings.catch_warnings):  # noqa: N801 - a context manager, used like a function
    """Silences Lightning's advice on workers and step counts: our loaders gather whole batches."""

    def __enter__(self) -> None:
        super().__enter__()
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
