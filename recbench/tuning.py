"""Tuning on the validation split with Optuna: the same number of trials for every method, resumable.

A study is a journal file below its folder, named after everything that decides its outcome. A trial is one
training, judged by validation NDCG@10; the test targets are out of reach. What a trial tries is a function of
the seed, its number and the trials before it, so that a study that was stopped ends as an unbroken one.
"""

from __future__ import annotations

import copy
import fcntl
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
import yaml
from lightning.pytorch.loggers import Logger
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console

from recbench.errors import DataError, DivergedError, UsageError
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.results import config_hash, write_atomic
from recbench.training import MONITOR, TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender

optuna.logging.set_verbosity(optuna.logging.WARNING)
OBJECTIVE = "ndcg@10"
_BROKEN = "broken"  # marks a trial that a kill cut short
Space = dict[str, "BaseDistribution"]
_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Outcome(NamedTuple):
    """What a study found.

    Args:
        options: the best trial's options, dotted names below `model`.
        validation: its metrics on the validation split.
        num_trials: how many were made, those that were pruned or diverged included.
        num_pruned: how many of them were stopped early because others were ahead.
        num_failed: how many diverged.
        train_s: seconds of all.
    """

    options: dict[str, Any]
    validation: dict[str, float]
    num_trials: int
    num_pruned: int
    num_failed: int
    train_s: float


def read_space(content: Mapping[str, Any], path: Path, *, known: set[str]) -> Space:
    """What may be varied: option -> distribution, for the options that are `known`.

    An entry is `{choices: [...]}`, or `{low: , high: }` with `log: true` or `step:`; integers stay so.

    Raises:
        DataError: an entry is of another form.
        UsageError: none of the options is known.
    """
    space = {}
    for name, entry in content.items():
        try:
            found = _distribution(**entry)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: {name}: {error}; write {{choices: [a, b]}} or {{low: 1, high: 9}}"
            ) from None
        if name in known:
            space[name] = found
    if not space:
        raise UsageError(
            f"{path}: the method has none of the options {', '.join(content)}; give --space FILE"
        )
    return space


def _distribution(
    *,
    choices: list[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    log: bool = False,
) -> BaseDistribution:
    if choices is not None:
        return CategoricalDistribution(choices)
    if low is None or high is None:
        raise ValueError("neither choices nor both low and high")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def options_of(init_args: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of a method's options, such as `dim` and `recipe.lr`."""
    found = set()
    for name, value in init_args.items():
        if isinstance(value, dict):
            found |= options_of(value, f"{prefix}{name}.")
        found.add(f"{prefix}{name}")
    return found


def with_options(model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's configuration with these dotted `options` in place of its own."""
    changed = copy.deepcopy(dict(model))
    for name, value in options.items():
        place = changed["init_args"]
        *parents, last = name.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return changed


@dataclass(frozen=True)
class Study:
    """A search over a method's options.

    Args:
        name: of the method.
        model: its configuration, class and options.
        space: what is varied.
        folder: where the journal and the preset it leads to are kept.
        identity: everything that decides the outcome, as plain containers; names the journal.
    """

    name: str
    model: dict[str, Any]
    space: Space
    folder: Path
    identity: dict[str, Any]

    def run(
        self,
        make: Callable[[dict[str, Any]], Recommender],
        data: InteractionData,
        *,
        num_trials: int,
        trainer: TrainerOptions,
        seed: int,
    ) -> str:
        """Make trials until there are `num_trials`, write the best as a preset, and say what was found.

        Raises:
            DivergedError: no trial ended well.
            UsageError: another process is at this study.
        """
        card = data.prepared.card
        stem = f"{card.name}-{self.name}-{config_hash(self.identity, card.fingerprint)[:8]}"
        with _alone(self.folder / f"{stem}.lock"):
            found = search(
                make,
                data,
                self.space,
                journal=self.folder / f"{stem}.journal",
                num_trials=num_trials,
                trainer=trainer,
                seed=seed,
                tell=partial(Console(stderr=True).print, soft_wrap=True, highlight=False),
            )
        preset = self.folder / f"{stem}.yaml"
        tuned = {"data": card.name, "seed": seed, **found._asdict()}
        del tuned["options"]
        content = with_options(self.model, found.options) | {"tuned": tuned}
        write_atomic(preset, yaml.safe_dump(content, sort_keys=False).encode())
        return (
            f"best of {found.num_trials} trials: validation NDCG@10 {found.validation[OBJECTIVE]:.4f}; "
            f"recbench fit --model {preset} --name {self.name} --data {card.name}"
        )


def search(
    make: Callable[[dict[str, Any]], Recommender],
    data: InteractionData,
    space: Space,
    *,
    journal: Path,
    num_trials: int,
    trainer: TrainerOptions,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Make trials until the study has `num_trials`, those made earlier included.

    Args:
        make: options -> a method, not yet built.
        data: trained on and validated on.
        space: what is varied.
        journal: the study's file; made when absent, continued when there.
        num_trials: of the whole study.
        trainer: where and how long a trial trains.
        seed: of the trainings and of what is tried.
        tell: called with a line after every trial.

    Raises:
        DivergedError: no trial ended well.
    """
    study = _open(journal)
    while (number := _num_over(study)) < num_trials:
        # seeded anew from its number, or a resumed study would draw the first trial's options again
        study.sampler = optuna.samplers.TPESampler(seed=seed * 10_007 + number, n_startup_trials=10)
        trial = study.ask(space)
        _run(study, trial, make, data, trainer, seed=seed)
        tell(_line(study.trials[trial.number], number + 1, num_trials, _best(study)))
    best = _best(study)
    if best is None:
        raise DivergedError(f"{journal}: none of {num_trials} trials ended well; narrow the space, lr first")
    ended = [trial.state for trial in study.trials if _BROKEN not in trial.user_attrs]
    return Outcome(
        best.params,
        {key: round(best.user_attrs["validation"][key], 6) for key in ("hr@10", OBJECTIVE)},
        len(ended),
        ended.count(TrialState.PRUNED),
        ended.count(TrialState.FAIL),
        round(sum(trial.user_attrs.get("seconds", 0.0) for trial in study.trials), 1),
    )


def _open(journal: Path) -> optuna.Study:
    """The study of this journal; a trial that was being made when it was stopped is made again."""
    study = optuna.create_study(
        study_name="tune",
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=3),
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
        optuna.trial.Trial(study, trial._trial_id).set_user_attr(_BROKEN, True)
        study.tell(trial.number, state=TrialState.FAIL)
    return study


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the study's lock.

    Raises:
        UsageError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{lock}: another recbench tune is at this study; wait for it") from None
        yield


def _run(
    study: optuna.Study,
    trial: Trial,
    make: Callable[[dict[str, Any]], Recommender],
    data: InteractionData,
    trainer: TrainerOptions,
    *,
    seed: int,
) -> None:
    """One trial, told to the study however it ends."""
    start = time.perf_counter()
    try:
        found = _validation(make(trial.params), data, trainer, seed=seed, logger=TrialLogger(trial))
        trial.set_user_attr("validation", found)
        outcome: dict[str, Any] = {"values": found[OBJECTIVE]}
    except optuna.TrialPruned:
        outcome = {"state": TrialState.PRUNED}
    except DivergedError:
        outcome = {"state": TrialState.FAIL}
    trial.set_user_attr("seconds", round(time.perf_counter() - start, 2))
    study.tell(trial, **outcome)


def _validation(
    model: Recommender, data: InteractionData, trainer: TrainerOptions, *, seed: int, logger: Logger
) -> dict[str, float]:
    """Train in a folder that is thrown away; metrics of the best epoch."""
    from lightning import seed_everything

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


def _num_over(study: optuna.Study) -> int:
    return sum(trial.state in _OVER and _BROKEN not in trial.user_attrs for trial in study.trials)


def _best(study: optuna.Study) -> FrozenTrial | None:
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return max(done, key=lambda trial: trial.value or 0.0, default=None)


def _line(trial: FrozenTrial, number: int, num_trials: int, best: FrozenTrial | None) -> str:
    """How a trial ended, and the best so far."""
    how = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else trial.state.name.lower()
    options = ", ".join(
        f"{name.removeprefix('recipe.')} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.params.items()
    )
    top = f"; best {best.value:.4f}" if best else ""
    seconds = trial.user_attrs.get("seconds", 0.0)
    return f"trial {number} of {num_trials}: {OBJECTIVE} {how} in {seconds:.0f} s ({options}){top}"
