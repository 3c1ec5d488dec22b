"""Recommender: the contract every method keeps, and what the runner may ask of it.

B users, L history, N items, C candidates; item 0 is padding, so score tables have N + 1 columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from lightning import LightningModule

from recbench.errors import DivergedError

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData


class Paper(NamedTuple):
    """Where a method comes from."""

    title: str
    venue: str
    year: int
    url: str


class Ranking(NamedTuple):
    """The answer to a request: (B, k) items, best first, and their scores; 0 where fewer than k may be shown."""

    items: Tensor
    scores: Tensor


class TargetRanks(NamedTuple):
    """(B,) 1-based `rank` of each target, average over ties, inf when not listed; (B,) `ties`, itself included."""

    rank: Tensor
    ties: Tensor


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a method is trained: what a paper says under "implementation details".

    Args:
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay.
        batch_size: users per step.
        max_epochs: epochs at most; a decaying schedule reaches its end there.
        patience: validations without a better NDCG@10 before training stops.
        validate_every: epochs between validations.
        schedule: learning rate after warm-up.
        warmup_steps: steps of linear warm-up.
        clip: largest norm of the gradient; 0 for no clipping.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 256
    max_epochs: int = 100
    patience: int = 10
    validate_every: int = 1
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    clip: float = 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a method's training recipe: a `Trainer.fit`, or a closed form.

    Args:
        name: names the stage's checkpoint.
        module: what is trained.
        data: what it is trained on.
        recipe: how; unused by a closed form.
        solve: where given, called instead of `Trainer.fit`: training by counting or linear algebra.
        trainer: further options of the Lightning Trainer.
    """

    name: str
    module: Recommender
    data: InteractionData
    recipe: Recipe = field(default_factory=Recipe)
    solve: Callable[[], None] | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)
