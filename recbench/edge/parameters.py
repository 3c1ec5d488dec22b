"""What a device does with weights that its cloud sends: check what came, put it to use, rank all items.

B users, N items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from recbench.edge.brain import Brain
from recbench.edge.messages import Parameters
from recbench.nn.ranking import Ranking, TargetRanks, best_of, rank_by_counting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.edge.messages import Reply


class Personal(nn.Module, ABC):
    """A model on a device with places for weights of its user's own; without them it is the same for all."""

    @abstractmethod
    def slots(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one user's weights, by name."""

    @abstractmethod
    def score(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """(B, N + 1) scores of all items, with (B, *shape) weights or with none."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredCatalog:
    """Scores of all items, there already.

    Args:
        scores: (B, N + 1), finite.
    """

    scores: Tensor

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` that may be shown."""
        return best_of(self.scores.clone(), k, seen=batch.seen, allowed=batch.allowed)

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Exact ranks among all items."""
        return rank_by_counting(self.scores, batch.target, batch.seen, batch.allowed)


class PersonalBrain(Brain):
    """Ranks with the weights that came, or with what all users share.

    Subclasses say what the cloud is asked.

    Args:
        model: whose places the weights are for.
        version: of that model and of the catalogue's indices.
    """

    expects: ClassVar[type[Reply]] = Parameters

    def __init__(self, model: Personal, *, version: str) -> None:
        self.model, self.version = model, version

    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        """Whether each has an array for every place and no other, of its shape, all finite."""
        slots = self.model.slots()
        return [fits(reply.tensors, slots) for reply in replies]

    def alone(self, batch: SequenceBatch) -> ScoredCatalog:
        """Scores that need no cloud."""
        return ScoredCatalog(self.model.score(batch, None))

    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> ScoredCatalog:
        """Scores with the weights of each user."""
        return ScoredCatalog(self.model.score(batch, stacked(replies, batch.history.device)))


def stacked(replies: Sequence[Parameters], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """(B, *shape) float32 each; replies must have the same names and shapes."""
    return {
        name: torch.from_numpy(np.stack([reply.tensors[name] for reply in replies]).astype(np.float32)).to(
            device
        )
        for name in replies[0].tensors
    }


def deliveries(weights: Mapping[str, Tensor], *, version: str, half: bool = False) -> list[Parameters]:
    """A reply for each of B users.

    Args:
        weights: (B, *shape) each.
        version: of the model they are for.
        half: send float16 instead of float32.
    """
    dtype = np.float16 if half else np.float32
    arrays = {name: value.float().cpu().numpy().astype(dtype) for name, value in weights.items()}
    num_users = len(next(iter(arrays.values())))
    return [Parameters(version, {name: array[i] for name, array in arrays.items()}) for i in range(num_users)]


def weights_version(catalog: str, *modules: nn.Module) -> str:
    """Twelve hexadecimal digits of a catalogue's version and all weights of some modules."""
    digest = sha256(catalog.encode())
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def fits(tensors: Mapping[str, Any], slots: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the arrays of one user's slots, and nothing else: names, shapes, finite numbers."""
    return tensors.keys() == slots.keys() and all(
        tensors[name].shape == shape
        and tensors[name].dtype in (np.float16, np.float32)
        and bool(np.isfinite(tensors[name]).all())
        for name, shape in slots.items()
    )
