"""A study as the command line makes it: one process at a time, a journal, and the preset it leads to."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from recbench.errors import UsageError
from recbench.lock import held
from recbench.results import config_hash, write_atomic
from recbench.training import prepare_process
from recbench.tuning.journal import OBJECTIVE, search
from recbench.tuning.space import given, holding, with_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.training import TrainerOptions
    from recbench.tuning.space import Space


@dataclass(frozen=True)
class Study:
    """A search over a method's options.

    Args:
        name: of the method.
        model: its configuration, class and options.
        space: what is varied; widened where it does not hold what the configuration says.
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
        """Make trials until there are `num_trials`, the first as configured; the best becomes a preset.

        Raises:
            DivergedError: no trial ended well.
            UsageError: another process is at this study.
        """
        prepare_process(trainer)
        card = data.prepared.card
        start = given(self.model["init_args"], self.space)
        stem = f"{card.name}-{self.name}-{config_hash(self.identity, card.fingerprint)[:8]}"
        with alone(self.folder / f"{stem}.lock"):
            found = search(
                make,
                data,
                holding(self.space, start),
                start=start,
                journal=self.folder / f"{stem}.journal",
                num_trials=num_trials,
                trainer=trainer,
                seed=seed,
                tell=partial(Console(stderr=True).print, soft_wrap=True, highlight=False),
            )
        preset = self.folder / f"{stem}.yaml"
        capped = {
            key: getattr(trainer, key) for key in ("max_epochs", "max_minutes") if getattr(trainer, key)
        }
        tuned = {"data": card.name, "seed": seed, **capped, **found._asdict()}
        content = with_options(self.model, found.options) | {"tuned": tuned}
        write_atomic(preset, yaml.safe_dump(content, sort_keys=False).encode())
        return (
            f"best of {found.num_trials} trials: validation NDCG@10 {found.validation[OBJECTIVE]:.4f}; "
            f"recbench fit --model {preset} --name {self.name} --data {card.name}"
        )


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the study's lock.

    Raises:
        UsageError: another process holds it.
    """
    with held(lock) as file:
        if file is None:
            raise UsageError(f"{lock}: another recbench tune is at this study; wait for it")
        yield
