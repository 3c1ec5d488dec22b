"""What a graph computes: the device's part of a method, as functions of tensors.

B users, L history, N items, S seen items, C candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from recbench.data.batch import SequenceBatch
from recbench.edge.lists import ScoredList
from recbench.edge.parameters import Personal
from recbench.nn.list_fusion import ListFusion, inconsistency, mix
from recbench.nn.ranking import best_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from recbench.models.base import Scorer

LISTED, LISTED_SCORES = "listed", "listed_scores"


class Net(nn.Module, ABC):
    """A function of tensors with a list of items and their scores as its first two outputs.

    Attributes:
        outputs: their names.

    Args:
        inputs: names of what it is given.
        k: length of the list.
    """

    outputs: ClassVar[tuple[str, ...]] = ("items", "scores")

    def __init__(self, inputs: Sequence[str], *, k: int) -> None:
        super().__init__()
        self.inputs, self.k = tuple(inputs), k

    @abstractmethod
    def longer(self, k: int) -> Net:
        """The same with a list of up to `k` items."""


class DeviceNet(Net):
    """Scores, bars and picks, without a word of the cloud's or with weights that it sent.

    Args:
        model: scores all items.
        names: of the inputs: `history`, then any of `seen`, `times`, `users`, and the places for weights.
        k: how many items.
    """

    def __init__(self, model: Scorer | Personal, names: Sequence[str], *, k: int) -> None:
        super().__init__(names, k=k)
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, k) items and scores, best first."""
        batch, weights = batch_of(dict(zip(self.inputs, inputs, strict=True)))
        if isinstance(self.model, Personal):
            scores = self.model.score(batch, weights)
        else:
            scores = self.model.score(batch)
        best = best_of(scores, self.k, seen=batch.seen)
        return best.items, best.scores

    def longer(self, k: int) -> DeviceNet:
        """The same with a list of up to `k` items."""
        return DeviceNet(self.model, self.inputs, k=k).eval()


class ListNet(Net):
    """Ranks what the cloud listed, and says how much a fresh list is needed and whether to ask for one.

    Args:
        model: scores the candidates.
        names: as for `DeviceNet`, and `listed` and `listed_scores`.
        k: how many items.
        num_items: N, of the catalogue.
        fusion: how the two scores become one.
        alpha: share of the cloud, where the fusion knows one.
        threshold: need from which a device asks; infinity where it is not the need that decides.
    """

    outputs: ClassVar[tuple[str, ...]] = ("items", "scores", "need", "asks")

    def __init__(
        self,
        model: Scorer,
        names: Sequence[str],
        *,
        k: int,
        num_items: int,
        fusion: ListFusion,
        alpha: float,
        threshold: float,
    ) -> None:
        super().__init__(names, k=k)
        self.model, self.num_items = model, num_items
        self.fusion, self.alpha, self.threshold = fusion, alpha, threshold

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, k) items and scores, best first; (B,) need; (B,) whether it reaches the threshold."""
        given = dict(zip(self.inputs, inputs, strict=True))
        listed, theirs = given.pop(LISTED), given.pop(LISTED_SCORES)
        batch, _ = batch_of(given)
        own = self.model.score(batch, listed)
        mixed = mix(self.fusion, listed, theirs, own, alpha=self.alpha)
        best = ScoredList(listed, mixed, self.num_items).recommend(batch, self.k)
        need = inconsistency(listed, own)
        return best.items, best.scores, need.float(), need >= self.threshold

    def longer(self, k: int) -> ListNet:
        """The same with a list of up to `k` items."""
        options = {"fusion": self.fusion, "alpha": self.alpha, "threshold": self.threshold}
        return ListNet(self.model, self.inputs, k=k, num_items=self.num_items, **options).eval()  # type: ignore[arg-type]


def batch_of(given: dict[str, Tensor]) -> tuple[SequenceBatch, dict[str, Tensor]]:
    """The users of a request, and the inputs that are weights."""
    history = given.pop("history")
    nobody = history.new_zeros(len(history))
    seen, times = given.pop("seen", None), given.pop("times", None)
    users = given.pop("users", nobody)
    return SequenceBatch(users, history, nobody, times=times, seen=seen), given
