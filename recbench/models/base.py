"""Recommender: the contract every method keeps, and what the runner may ask of it.

B users, L history, N items, C candidates; item 0 is padding, so score tables have N + 1 columns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from lightning import LightningModule
from torch.optim.lr_scheduler import LambdaLR

from recbench.data.samples import Samples  # noqa: TC001 - the command line reads the annotation
from recbench.errors import DivergedError
from recbench.nn.ranking import Ranking as Ranking  # methods import it from here
from recbench.nn.ranking import RankMetrics, TargetRanks, best_of, rank_by_counting, ranks_in_lists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
    from torch import Tensor, nn

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData


def at_least(least: int, **counts: int) -> None:
    """Refuse counts that are too small, by name.

    Raises:
        ValueError: one of `counts` is below `least`.
    """
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")


class Paper(NamedTuple):
    """Where a method comes from."""

    title: str
    venue: str
    year: int
    url: str


@dataclass(frozen=True)
class Recipe:
    """How a method is trained: what a paper says under "implementation details".

    Args:
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay.
        batch_size: samples per step.
        samples: what one is: a user's window, of which every position learns its next item, or each prefix of
            a history on its own, which learns the item after it, or a random segment per user and epoch.
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
    samples: Samples = "positions"
    max_epochs: int = 100
    patience: int = 10
    validate_every: int = 1
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    clip: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, max_epochs=self.max_epochs)
        at_least(1, patience=self.patience, validate_every=self.validate_every)
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr:g}")
        for name in ("weight_decay", "warmup_steps", "clip"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value:g}")


def require_prefixes(recipe: Recipe, why: str) -> None:
    """Refuse samples of which every position learns.

    Raises:
        ValueError: the recipe's samples are not prefixes; `why` ends the message.
    """
    if recipe.samples != "prefixes":
        raise ValueError(f"recipe.samples must be prefixes, got {recipe.samples}: {why}")


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
        seed: added to the run's, so that copies of a method see other batches and draw other masks.
        num_beside: how many of the stages after it need nothing of it nor of one another, so that all of them
            may be trained at once.
    """

    name: str
    module: Recommender
    data: InteractionData
    recipe: Recipe = field(default_factory=Recipe)
    solve: Callable[[], None] | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    num_beside: int = 0

    def of(self, part: str) -> Stage:
        """The same as a stage of a method that holds the trained one as its `part`."""
        return replace(self, name=part if self.name == "train" else f"{part}-{self.name}")


class Recommender(LightningModule, ABC):
    """One method. Subclasses say how to build, how to learn, how to recommend; nothing else.

    Constructing one creates no weights: `build` does, once the catalog is known, so that the seed in force at
    that moment decides them and a checkpoint can be loaded into the same shapes.
    """

    paper: ClassVar[Paper]
    side: ClassVar[str] = "device"  # where `recommend` runs
    recipe_option: ClassVar[str] = "recipe"  # which option of the method the recipe is

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.validation = RankMetrics(("hr@10", "ndcg@10"))

    @property
    def track(self) -> str:
        """Ends the protocol's name where figures must not stand beside others; empty where they may."""
        return ""

    @abstractmethod
    def build(self, catalog: Catalog) -> None:
        """Create the weights for this catalog; called once."""

    def loss(self, batch: SequenceBatch) -> Tensor:  # noqa: ARG002
        """Scalar training loss of one batch; methods in closed form have none."""
        raise TypeError(f"{type(self).__name__} is trained in closed form and has no loss")

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """The training recipe, stage by stage; a later stage may use what an earlier one produced."""
        yield Stage("train", self, data, self.recipe)

    @abstractmethod
    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` items for every user, seen items left out."""

    @abstractmethod
    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Where each target comes among all items; what the evaluator reads."""

    def watched(self, data: InteractionData) -> None:
        """Prepare for an evaluation on `data`: a method that promises something is held to it."""

    def notes(self) -> tuple[str, ...]:
        """What a reader of the record should know of the trained method, a line each."""
        return ()

    def sides(self) -> Mapping[str, nn.Module]:
        """What runs where; most methods run on one side as a whole."""
        return {self.side: self}

    def split_ms(self, total_ms: float) -> Mapping[str, float]:
        """How the `total_ms` of the last `recommend` divide among sides; a network's are modelled, on top."""
        return {self.side: total_ms}

    def usage(self) -> Counter[str]:
        """What requests took beyond computing, summed so far; empty where nothing is ever sent.

        `exchanges`, `bytes_up` and `bytes_down`, and how many requests rest on whose word: `cloud`, `cache`,
        `device`.
        """
        return Counter()

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step; stops the run at the first loss that is no number."""
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            option = f"--model.{self.recipe_option}"
            raise DivergedError(
                f"the loss became {loss.item()} at step {self.global_step}; "
                f"lower {option}.lr (now {self.recipe.lr:g}) or set {option}.clip"
            )
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Rank the validation targets of one batch."""
        self.validation.update(self.target_ranks(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        for key, value in self.validation.compute().items():
            self.log(f"val/{key}", value.float(), prog_bar=True)
        self.validation.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with the recipe's schedule, stepped per batch."""
        recipe = self.recipe
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(optimizer, lambda step: _lr_factor(recipe, step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _lr_factor(recipe: Recipe, step: int, total: int) -> float:
    """Share of the peak learning rate at `step` of `total`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
    match recipe.schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1 - done)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Scorer(Recommender):
    """A method that scores every item, so its ranks are exact."""

    @abstractmethod
    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """(B, N + 1) scores of all items, or (B, C) of the (B, C) `items`; finite, higher is better."""

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Exact ranks among all items, by counting."""
        return rank_by_counting(self.score(batch), batch.target, batch.seen, batch.allowed)

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` items; item 0 and a score of -inf where fewer may be shown."""
        return best_of(self.score(batch), k, seen=batch.seen, allowed=batch.allowed)


class ListRecommender(Recommender):
    """A method that lists some items instead of scoring all; an item that is not listed has no rank."""

    @property
    @abstractmethod
    def list_length(self) -> int:
        """Items of the list that is evaluated."""

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Places in the list, mean over ties, inf where the target is not in it; a seen target may be."""
        asked = batch
        if batch.seen is not None:
            asked = replace(batch, seen=batch.seen.masked_fill(batch.seen == batch.target[:, None], 0))
        found = self.recommend(asked, self.list_length)
        return ranks_in_lists(found.items, found.scores, batch.target)


class DotScorer(Scorer):
    """A scorer whose score is the inner product of a user vector and an item vector."""

    # users whose scores of the whole catalog stay in the cache between product and count
    rows_per_block: ClassVar[int] = 64

    @abstractmethod
    def encode(self, batch: SequenceBatch) -> Tensor:
        """(B, D) user vectors."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """(N + 1, D) item vectors, row 0 padding."""

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """Inner products with all items, or with those named."""
        users, table = self.encode(batch), self.item_vectors()
        if items is None:
            return users @ table.T
        return torch.einsum("bd,bcd->bc", users, table[items])

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Exact ranks, a block of users at a time, so that a block's scores never leave the cache."""
        users, table = self.encode(batch), self.item_vectors().T
        rows = len(users) if users.is_cuda else self.rows_per_block
        blocks = []
        with torch.autocast(users.device.type, enabled=False):  # half precision ties what differs
            users, table = users.float(), table.float()
            for start in range(0, len(users), rows):
                block = slice(start, start + rows)
                seen = None if batch.seen is None else batch.seen[block]
                allowed = None if batch.allowed is None else batch.allowed[block]
                scores = users[block] @ table
                blocks.append(rank_by_counting(scores, batch.target[block], seen, allowed))
        return TargetRanks(*(torch.cat(column) for column in zip(*blocks, strict=True)))
