"""What SCaLRec's sides do: the cloud says in a vector what it made of words, the device calibrates it.

B users, D width of the item table, P probes.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch

from recbench.edge.brain import Ages, Brain
from recbench.edge.cloud import answer_sound, only
from recbench.edge.messages import Abstract, Embedding, Failure
from recbench.edge.parameters import ScoredCatalog
from recbench.edge.planned import padded, pasts_of
from recbench.nn.calibration import ESTIMATED, places, situation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.edge.abstract import Abstracter
    from recbench.edge.brain import Ranker
    from recbench.edge.messages import Question, Reply
    from recbench.edge.strategist import Meaning, Reader
    from recbench.models.causal import CausalScorer
    from recbench.nn.calibration import Calibrated, Calibration, Situation

Trigger = Literal["doubt", "inconsistency"]


class Speaker:
    """The cloud's handler of abstracts: what it makes of the words is all that it says.

    Args:
        reader: of texts.
        meaning: from texts to the item table's space.
        version: of that space.
    """

    def __init__(self, reader: Reader, meaning: Meaning, *, version: str) -> None:
        self.reader, self.meaning, self.version = reader, meaning, version

    def __call__(self, asked: Sequence[Question], /) -> list[Reply | Failure]:
        """A vector for each."""
        questions = only(Abstract, asked)
        wrong = Failure("an abstract needs a text", retry_after_ms=0.0)
        complaints = [None if question.text else wrong for question in questions]
        return answer_sound(questions, complaints, self._vectors)

    def _vectors(self, asked: list[Abstract]) -> list[Embedding]:
        with torch.inference_mode():
            texts = [question.text for question in asked]
            vectors = self.meaning(self.reader(texts, anew=len(texts) == 1))  # as the strategist does
        return [Embedding(self.version, vector) for vector in vectors.float().cpu().numpy()]


class CalibratedBrain(Brain):
    """Keeps a vector, says how much it is in doubt, and ranks everything by it and by the encoder.

    Args:
        abstracter: the only one that reads the past in order to say something of it.
        encoder: of the history; ranks alone where there is no vector, or none is wanted.
        calibration: of vectors.
        probes: (P,) items by which vectors are compared.
        trigger: what is a need for a fresh vector.
        version: of the item table's space.
    """

    expects: ClassVar[type[Reply]] = Embedding

    def __init__(
        self,
        *,
        abstracter: Abstracter,
        encoder: CausalScorer,
        calibration: Calibration,
        probes: Tensor,
        trigger: Trigger,
        version: str,
    ) -> None:
        self.abstracter, self.encoder, self.calibration = abstracter, encoder, calibration
        self.probes, self.trigger, self.version = probes, trigger, version
        self.ages: Ages | None = None

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:  # noqa: ARG002
        """An abstract each, without the query of the moment, which the vector will outlive."""
        abstracts = self.abstracter.abstract(pasts_of(replace(batch, query=None)))
        return [padded(Abstract("", one.text, 0)) for one in abstracts]

    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        """Whether each is a vector of the item table's width, of numbers."""
        shape = (self.encoder.items.embedding_dim,)
        return [reply.vector.shape == shape and bool(np.isfinite(reply.vector).all()) for reply in replies]

    def alone(self, batch: SequenceBatch) -> CausalScorer:  # noqa: ARG002
        """The encoder, which scores everything."""
        return self.encoder

    def dated(self, ages: Ages) -> Self:
        """The same, which knows how old the vectors are; without ages they are fresh."""
        other = copy.copy(self)
        other.ages = ages
        return other

    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> Ranker:
        """All items by the fused vector."""
        if self.calibration.use == "none":
            return self.encoder
        state = self.encoder.newest_of(batch)
        _, found = self.calibrated(batch, replies, state)
        return ScoredCatalog(found.fused(state) @ self.encoder.item_vectors().T)

    def need(self, batch: SequenceBatch, replies: Sequence[Any]) -> NDArray[np.float64]:
        """(B,) doubt or inconsistency."""
        if self.trigger == "doubt" and self.calibration.use not in ESTIMATED:
            return super().need(batch, replies)
        now, found = self.calibrated(batch, replies, self.encoder.newest_of(batch))
        return needs_of(self.trigger, now, found, self.encoder.items(self.probes)).double().cpu().numpy()

    def calibrated(
        self, batch: SequenceBatch, replies: Sequence[Any], state: Tensor
    ) -> tuple[Situation, Calibrated]:
        """What the vectors that came become, beside the encoder's (B, D) `state`."""
        where = batch.history.device
        semantic = torch.from_numpy(np.stack([reply.vector for reply in replies])).to(where)
        fresh = Ages(np.zeros(len(batch), np.int64), np.zeros(len(batch)))
        lag, seconds = (torch.from_numpy(column).to(where) for column in self.ages or fresh)
        newest = batch.history[:, -self.calibration.num_recent :]
        now = situation(semantic, state, newest, self.encoder.items, lag=lag, seconds=seconds)
        return now, self.calibration(now, self.encoder.items(self.probes))


def needs_of(trigger: Trigger, now: Situation, found: Calibrated, probes: Tensor) -> Tensor:
    """(B,) how much a fresh vector is needed.

    Args:
        trigger: `doubt`, that the old one is reliable; or `inconsistency`, how many places a probe moves on
            average from the old vector's order to the state's (LSC4Rec, KDD 2025, Eq. 11).
        now: the situation.
        found: what came of it.
        probes: (P, D) vectors of items.
    """
    if trigger == "doubt":
        return 1 - found.reliability
    shifts = places(now.semantic @ probes.T) - places(now.state @ probes.T)
    return shifts.abs().float().mean(1)


def ages_between(earlier: SequenceBatch, now: SequenceBatch) -> tuple[Tensor, Tensor]:
    """(B,) interactions and seconds from what was known at one moment to a later one; 0 s without times."""
    lag = (now.history != 0).sum(1) - (earlier.history != 0).sum(1)
    if now.times is None or earlier.times is None:
        return lag, torch.zeros(len(now), device=lag.device)
    return lag, (now.times[:, -1] - earlier.times[:, -1]).double()
