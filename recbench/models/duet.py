"""DUET: the cloud writes part of the device's model for the user at hand (Lv et al., WWW 2023).

A hypernetwork on the cloud reads the items a user took of late and writes weights; the device adds them to
those that all users share, and ranks. Nothing is trained on the device. For an encoder of the history what is
written are two layers above its newest state, for DIN its whole net (see `personal`). A device whose cloud
cannot be reached ranks with the shared weights alone; one whose cloud answered `lag` interactions ago, with
what it wrote then.

What differs from the authors' code. There the maps from the hypernetwork's code to the weights are in plain
lists, in which no optimiser finds them: only a recurrent net before a random projection learns. Here they
learn; `frozen_hyper` leaves them at a random draw, with a deviation of 1 / H, not near 1, which makes weights
that saturate every layer. What is written is added to shared weights and begins at zero, so that DUET begins
as its base model to the last bit; there it is all there is. Activations are between the two layers, not after
both; histories are causal and padding is masked; the cloud reads up to `max_len` items. By `train_base`
the base is trained before, as it is on its own, and stays so, or with the hypernetwork from the start, as in
the paper, or both. B users, L history.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from recbench.edge import lists
from recbench.edge.cloud import Cloud, answer_sound, batch_of, have_unknown, only
from recbench.edge.messages import Failure, History
from recbench.edge.parameters import PersonalBrain, deliveries, weights_version
from recbench.models.base import Paper, Recipe, Stage, at_least, require_prefixes
from recbench.models.causal import CausalScorer  # noqa: TC001 - the command line reads the annotation
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.din import DIN  # noqa: TC001 - the command line reads the annotation
from recbench.models.personal import personal
from recbench.models.sasrec import SASRec
from recbench.nn.hypernetwork import Hypernetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.messages import Parameters, Question, Reply
    from recbench.edge.parameters import Personal

TrainBase = Literal["before", "together", "both"]


class DUET(Collaborative):
    """A hypernetwork on the cloud writes layers of the model on the device (Lv et al., WWW 2023).

    Args:
        base: the device's model; an encoder of the history, or DIN; SASRec when None.
        train_base: before, by its own recipe, and fixed then; together with the hypernetwork; or both.
        hidden: width of the hypernetwork.
        max_len: most recent items that the cloud is shown.
        train_lag: in training the cloud's items end up to so many interactions before the device's, drawn
            for every batch, as they do where weights are used for longer than one request.
        sent_as: number format of the weights that cross.
        frozen_hyper: whether the hypernetwork's last maps stay random, as in the published code.
        boundary: between the sides.
        recipe: how the hypernetwork is trained; its samples must be prefixes.
    """

    paper: ClassVar[Paper] = Paper(
        "DUET: A Tuning-Free Device-Cloud Collaborative Parameters Generation Framework for Efficient "
        "Device Model Generalization",
        "WWW",
        2023,
        "https://arxiv.org/abs/2209.05227",
    )

    def __init__(
        self,
        *,
        base: CausalScorer | DIN | None = None,
        train_base: TrainBase = "before",
        hidden: int = 64,
        max_len: int = 50,
        train_lag: int = 0,
        sent_as: Literal["float32", "float16"] = "float32",
        frozen_hyper: bool = False,
        boundary: Boundary = Boundary(),
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(recipe, boundary=boundary)
        at_least(1, hidden=hidden, max_len=max_len)
        at_least(0, train_lag=train_lag)
        require_prefixes(recipe, "every sample has weights of its own")
        self.base = base or SASRec()
        self.train_base, self.hidden, self.max_len = train_base, hidden, max_len
        self.train_lag, self.sent_as, self.frozen_hyper = train_lag, sent_as, frozen_hyper

    def build(self, catalog: Catalog) -> None:
        """The base with its places on the device, the hypernetwork on the cloud."""
        super().build(catalog)
        self.base.build(catalog)
        self.local = personal(self.base)
        self.hyper = Hypernetwork(
            self.base.items.embedding_dim,
            self.local.slots(),
            hidden=self.hidden,
            is_frozen=self.frozen_hyper,
        )

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """The base as its own stages say, then the hypernetwork, or all at once."""
        if self.train_base != "together":
            yield from (replace(stage, name=f"base-{stage.name}") for stage in self.base.stages(data))
        self.local.requires_grad_(self.train_base != "before")
        yield Stage("train", self, data, self.recipe)
        self.cross(self.boundary)  # the version of the weights is known now

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The base's loss with the weights that are written after each prefix, or after an older one."""
        lag = int(torch.randint(self.train_lag + 1, ())) if self.train_lag else 0
        return self.local.loss(batch, self.write(batch.lagged(lag).history))

    def write(self, history: Tensor) -> dict[str, Tensor]:
        """(B, L) items -> the users' weights, (B, *shape) each."""
        history = history[:, -self.max_len :]
        found: dict[str, Tensor] = self.hyper(self.base.items(history), history != 0)
        return found

    def sides(self) -> dict[str, nn.Module]:
        """The item table is on both."""
        return {"cloud": nn.ModuleList([self.base.items, self.hyper]), "device": self.local}

    def cloud_side(self) -> Cloud:
        """Answers histories with weights."""
        return Cloud({History: _Writer(self, version=self._weights_version())})

    def device_side(self) -> PersonalBrain:
        """Shows the history, ranks with the weights."""
        return _Shows(self.local, version=self._weights_version(), max_len=self.max_len)

    def _weights_version(self) -> str:
        return weights_version(self.version, self.local)


class _Writer:
    """The cloud's handler."""

    def __init__(self, model: DUET, *, version: str) -> None:
        self.write, self.items = model.write, model.base.items.weight
        self.half = model.sent_as == "float16"
        self.version = version

    def __call__(self, asked: Sequence[Question], /) -> list[Reply | Failure]:
        """Weights for all of them, written as one batch."""
        questions, num_items = only(History, asked), len(self.items) - 1
        wrong = Failure(f"an item is none of 1 to {num_items}", 0.0)
        complaints = [wrong if unknown else None for unknown in have_unknown(questions, num_items)]
        return answer_sound(questions, complaints, self._deliveries)

    def _deliveries(self, asked: list[History]) -> list[Parameters]:
        with torch.inference_mode():
            written = self.write(batch_of(asked).to(self.items.device).history)
        return deliveries(written, version=self.version, half=self.half)


class _Shows(PersonalBrain):
    """A device that shows the history as it is."""

    def __init__(self, model: Personal, *, version: str, max_len: int) -> None:
        super().__init__(model, version=version)
        self.max_len = max_len

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:
        """The newest items; no candidates are wanted."""
        return lists.histories(replace(batch, history=batch.history[:, -self.max_len :]), names, num_items=0)
