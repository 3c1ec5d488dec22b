"""Trials one after another until a study has as many as it shall have, however often it is stopped.

The first tries the configuration as it is given; what a later one tries is a function of the seed, its number
and the trials before it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from recbench.errors import DivergedError, UsageError
from recbench.tuning.space import described
from recbench.tuning.trial import TrialLogger, validation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from optuna.trial import FrozenTrial, Trial

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.training import TrainerOptions
    from recbench.tuning.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
OBJECTIVE = "ndcg@10"
_BROKEN = "broken"  # marks a trial that a kill cut short
_REFUSED = "refused"  # marks one whose options do not go together, with what the method says of them
_NO_TRIAL = {_BROKEN, _REFUSED}
_PATIENCE = 20  # refused draws per trial before the space is to blame
_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Outcome(NamedTuple):
    """What a study found.

    Args:
        options: the best trial's options, dotted names below `model`.
        validation: its metrics on the validation split.
        given: the objective of the first trial, which tried what was given; None if it did not end well, or
            tried something else since an option was left open.
        num_trials: how many were made, those that were pruned or diverged included.
        num_pruned: how many of them were stopped early because others were ahead.
        num_failed: how many diverged.
        train_s: seconds of all.
    """

    options: dict[str, Any]
    validation: dict[str, float]
    given: float | None
    num_trials: int
    num_pruned: int
    num_failed: int
    train_s: float


def search(
    make: Callable[[dict[str, Any]], Recommender],
    data: InteractionData,
    space: Space,
    *,
    start: Mapping[str, Any],
    journal: Path,
    num_trials: int,
    trainer: TrainerOptions,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Make trials until the study has `num_trials`, those made earlier included.

    Args:
        make: options -> a method, not yet built; what it refuses is drawn anew and counts as no trial.
        data: trained on and validated on.
        space: what is varied.
        start: what the first trial tries, so that a study ends no worse than it began.
        journal: the study's file; made when absent, continued when there.
        num_trials: of the whole study.
        trainer: where and how long a trial trains.
        seed: of the trainings and of what is tried.
        tell: called with a line after every trial.

    Raises:
        DivergedError: no trial ended well.
        UsageError: the method refuses nearly all that is drawn.
    """
    study = _open(journal)
    if not study.trials:
        study.enqueue_trial(dict(start))
    while (number := len(_over(study))) < num_trials:
        trial, model = _draw(study, make, space, seed=seed, limit=_PATIENCE * num_trials)
        _run(study, trial, model, data, trainer, seed=seed)
        tell(_line(study.trials[trial.number], number + 1, num_trials, _best(study)))
    best = _best(study)
    if best is None:
        raise DivergedError(f"{journal}: none of {num_trials} trials ended well; narrow the space, lr first")
    ended = [trial.state for trial in _over(study)]
    return Outcome(
        _options(best),
        {key: round(best.user_attrs["validation"][key], 6) for key in ("hr@10", OBJECTIVE)},
        _given(study, start),
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


def _draw(
    study: optuna.Study,
    make: Callable[[dict[str, Any]], Recommender],
    space: Space,
    *,
    seed: int,
    limit: int,
) -> tuple[Trial, Recommender]:
    """The next trial and its method, after as many draws as it takes that the method accepts one.

    Raises:
        UsageError: more than `limit` were refused.
    """
    while len(refused := _refusals(study)) <= limit:
        # seeded anew for every draw, or a resumed study would draw the first trial's options again
        draw = len(_over(study)) + len(refused)
        study.sampler = optuna.samplers.TPESampler(seed=seed * 10_007 + draw, n_startup_trials=10)
        trial = study.ask(space)
        try:
            return trial, make(_options(trial))
        except UsageError as error:
            trial.set_user_attr(_REFUSED, str(error))
            # not FAIL, from which the sampler would learn nothing and draw much the same again
            study.tell(trial, state=TrialState.PRUNED)
    raise UsageError(
        f"{len(refused)} draws of options were refused, the last: {refused[-1]}; narrow the space"
    )


def _run(
    study: optuna.Study,
    trial: Trial,
    model: Recommender,
    data: InteractionData,
    trainer: TrainerOptions,
    *,
    seed: int,
) -> None:
    """One trial, told to the study however it ends."""
    start = time.perf_counter()
    try:
        found = validation(model, data, trainer, seed=seed, logger=TrialLogger(trial))
        trial.set_user_attr("validation", found)
        outcome: dict[str, Any] = {"values": found[OBJECTIVE]}
    except optuna.TrialPruned:
        outcome = {"state": TrialState.PRUNED}
    except DivergedError:
        outcome = {"state": TrialState.FAIL}
    trial.set_user_attr("seconds", round(time.perf_counter() - start, 2))
    study.tell(trial, **outcome)


def _over(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were made to their end: not those that a kill cut short, nor draws that were refused."""
    return [trial for trial in study.get_trials(states=_OVER) if _NO_TRIAL.isdisjoint(trial.user_attrs)]


def _refusals(study: optuna.Study) -> list[str]:
    """What the method said of options that do not go together."""
    pruned = study.get_trials(states=(TrialState.PRUNED,))  # one killed while it was refused is drawn again
    return [trial.user_attrs[_REFUSED] for trial in pruned if _REFUSED in trial.user_attrs]


def _options(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """What a trial tries; steps of .1 add up to .30000000000000004, and nobody wants to read that."""
    return {
        name: round(value, 12) if isinstance(value, float) else value for name, value in trial.params.items()
    }


def _given(study: optuna.Study, start: Mapping[str, Any]) -> float | None:
    """The objective of the first trial, if it tried `start`."""
    first = _over(study)[0]
    if first.value is None or _options(first) != start:
        return None
    return round(first.value, 6)


def _best(study: optuna.Study) -> FrozenTrial | None:
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return max(done, key=lambda trial: trial.value or 0.0, default=None)


def _line(trial: FrozenTrial, number: int, num_trials: int, best: FrozenTrial | None) -> str:
    """How a trial ended, and the best so far."""
    how = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else trial.state.name.lower()
    top = f"; best {best.value:.4f}" if best else ""
    seconds = trial.user_attrs.get("seconds", 0.0)
    options = described(trial.params)
    return f"trial {number} of {num_trials}: {OBJECTIVE} {how} in {seconds:.0f} s ({options}){top}"
