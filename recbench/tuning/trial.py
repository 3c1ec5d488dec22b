"""One trial: a training in a folder that is thrown away, judged by validation, stopped if hopeless."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from lightning import seed_everything
from lightning.pytorch.loggers import Logger

from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.training import MONITOR, TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.trial import Trial

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender


def validation(
    model: Recommender, data: InteractionData, trainer: TrainerOptions, *, seed: int, logger: Logger
) -> dict[str, float]:
    """Train in a folder that is thrown away; metrics of the best epoch."""
    seed_everything(seed, verbose=False)
    data.setup("fit")
    model.build(data.catalog)
    with tempfile.TemporaryDirectory() as scratch, data.training():
        for stage in model.stages(data):
            train(stage, Path(scratch), trainer, seed=seed, resume=False, logger=logger)
        model.to(trainer.device)
        return means(evaluate(model, data, split="validation").ranks)


class TrialLogger(Logger):
    """Hears each epoch's validation as Lightning logs it, and stops a trial that others are ahead of."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self._trial = trial
        self._num_heard = 0

    @property
    def name(self) -> str:
        """Of the logger."""
        return "tune"

    @property
    def version(self) -> int:
        """Number of the trial."""
        return self._trial.number

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The study keeps them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # noqa: ARG002
        """Report the objective.

        Raises:
            TrialPruned: the median of the trials before was better at this epoch.
        """
        if MONITOR not in metrics:
            return
        self._trial.report(float(metrics[MONITOR]), self._num_heard)
        self._num_heard += 1
        if self._trial.should_prune():
            raise optuna.TrialPruned
