"""Brain: what a method computes on the device; and Ranker, what can answer a request and be judged.

B users.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from recbench.data.batch import SequenceBatch
    from recbench.edge.messages import Question, Reply
    from recbench.nn.ranking import Ranking, TargetRanks


class Ranker(Protocol):
    """What can answer a request and be judged: a method, or scores that are already there."""

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` items for every user."""

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Where each target comes."""


class Ages(NamedTuple):
    """How old replies are.

    Args:
        items: (B,) interactions since each was asked for; 0 where it has just come.
        seconds: (B,) since then; 0 where the data has no times.
    """

    items: NDArray[np.int64]
    seconds: NDArray[np.float64]


class Brain(ABC):
    """What a method computes on the device; knows no link, no cache and no clock.

    Attributes:
        expects: type of reply that it can use.
        version: of what it shares with the cloud, such as the item table.
    """

    expects: ClassVar[type[Reply]]
    version: str

    @abstractmethod
    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:
        """(B,) what the device of each user says to the cloud; `names` is what users are called outside."""

    @abstractmethod
    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        """Whether each reply, of the expected type and version, makes sense: a cloud may be wrong."""

    @abstractmethod
    def alone(self, batch: SequenceBatch) -> Ranker:
        """Ranks without the cloud."""

    @abstractmethod
    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> Ranker:
        """Ranks with a reply for each of the users, fresh or cached."""

    def dated(self, ages: Ages) -> Self:  # noqa: ARG002
        """The same, for replies of these ages; a method to which age means something keeps them."""
        return self

    def need(self, batch: SequenceBatch, replies: Sequence[Any]) -> NDArray[np.float64]:  # noqa: ARG002
        """(B,) how much a fresh reply is needed in place of these cached ones; higher is more."""
        raise TypeError(
            f"{type(self).__name__} has no measure of need; use a policy that goes without a score"
        )
