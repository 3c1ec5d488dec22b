"""Cloud: answers frames with frames; and the handler that makes any method a lister of candidates.

It keeps nothing of what it is told. B users, L history, C candidates.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch

from recbench.data.batch import SequenceBatch
from recbench.edge.messages import (
    Candidates,
    Failure,
    History,
    MessageError,
    Question,
    Reply,
    checksum,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from recbench.models.base import Recommender

MAX_QUESTION = 1 << 20  # bytes
_Asked = TypeVar("_Asked", bound=Question)


class Handler(Protocol):
    """Answers questions of one type."""

    def __call__(self, asked: Sequence[Question], /) -> Sequence[Reply | Failure]:
        """One answer each, in their order."""


class Cloud:
    """The far side of a link.

    Args:
        handlers: who answers which type of question.
    """

    def __init__(self, handlers: Mapping[type[Question], Handler]) -> None:
        self._handlers = dict(handlers)

    def handle(self, frames: Sequence[bytes]) -> list[bytes]:
        """Answer each frame; a frame that cannot be read is answered with a `Failure` of no question."""
        answers: list[bytes] = [b""] * len(frames)
        groups: dict[type[Question], list[tuple[int, Question]]] = defaultdict(list)
        for i, frame in enumerate(frames):
            try:
                message = decode(frame, limit=MAX_QUESTION)
            except MessageError as error:
                answers[i] = encode(Failure(str(error), retry_after_ms=0.0))
                continue
            if isinstance(message, Question) and type(message) in self._handlers:
                groups[type(message)].append((i, message))
            else:
                failure = Failure(f"{type(message).__name__} is not answered here", retry_after_ms=0.0)
                answers[i] = encode(failure, answers=checksum(frame))
        for kind, asked in groups.items():
            replies = self._handlers[kind]([question for _, question in asked])
            for (i, _), reply in zip(asked, replies, strict=True):
                answers[i] = encode(reply, answers=checksum(frames[i]))
        return answers


def answer_sound(
    asked: Sequence[_Asked],
    complaints: Sequence[Failure | None],
    reply: Callable[[list[_Asked]], Sequence[Reply]],
) -> list[Reply | Failure]:
    """An answer to each question, in order: what is wrong with it, or one of the replies to all others.

    Args:
        asked: questions.
        complaints: what is wrong with each; None if nothing is.
        reply: answers as many questions as there are, one at least.
    """
    sound = [question for question, wrong in zip(asked, complaints, strict=True) if wrong is None]
    replies = iter(reply(sound) if sound else ())
    return [next(replies) if wrong is None else wrong for wrong in complaints]


def only(kind: type[_Asked], asked: Sequence[Question]) -> list[_Asked]:
    """The same questions, all of one kind.

    Raises:
        TypeError: one is not.
    """
    questions = [question for question in asked if isinstance(question, kind)]
    if len(questions) < len(asked):
        kinds = ", ".join(sorted({type(question).__name__ for question in asked}))
        raise TypeError(f"only {kind.__name__} is answered here, got {kinds}")
    return questions


def have_unknown(questions: Sequence[History], num_items: int) -> list[bool]:
    """Whether an item of each history is none of 1 to `num_items`."""
    everything = [question.items for question in questions]
    if not questions or _are_known(np.concatenate(everything), num_items):  # as a rule, and quickly
        return [False] * len(questions)
    return [not _are_known(items, num_items) for items in everything]


def _are_known(items: NDArray[np.int32], num_items: int) -> bool:
    return not len(items) or bool(items.min() > 0 and items.max() <= num_items)


class Lister:
    """Answers `History` with the candidates that a method recommends after it.

    Args:
        model: any method that is built and trained, and needs no more than a history.
        num_items: of the catalogue.
        version: of the catalogue's indices.
    """

    def __init__(self, model: Recommender, *, num_items: int, version: str) -> None:
        self.model, self.num_items, self.version = model, num_items, version
        self.device = next(iter(model.state_dict().values())).device

    def __call__(self, asked: Sequence[Question], /) -> list[Reply | Failure]:
        """Lists for all of them, computed as one batch."""
        questions = only(History, asked)
        unknown = have_unknown(questions, self.num_items)
        complaints = [self._complaint(*pair) for pair in zip(questions, unknown, strict=True)]
        return answer_sound(questions, complaints, self._lists)

    def _complaint(self, question: History, has_unknown: bool) -> Failure | None:
        if not 1 <= question.num_items <= self.num_items:
            wanted = f"{question.num_items} candidates of a catalogue of {self.num_items}"
            return Failure(f"{wanted}; ask for 1 to {self.num_items}", retry_after_ms=0.0)
        if has_unknown:
            return Failure(f"a history item is none of 1 to {self.num_items}", retry_after_ms=0.0)
        return None

    def _lists(self, asked: list[History]) -> list[Candidates]:
        wanted = [question.num_items for question in asked]
        with torch.inference_mode():
            best = self.model.eval().recommend(batch_of(asked).to(self.device), max(wanted))
        items = best.items.cpu().numpy().astype(np.int32)
        scores = best.scores.float().cpu().numpy()
        lengths = np.minimum((items != 0).sum(1), wanted).tolist()
        return [
            Candidates(self.version, items[i, :length], scores[i, :length])
            for i, length in enumerate(lengths)
        ]


def batch_of(asked: list[History]) -> SequenceBatch:
    """The users who asked, all that is known of them: (B, L) histories, right-aligned."""
    lengths = np.array([len(question.items) for question in asked])
    width = max(1, int(lengths.max()))
    history = np.zeros((len(asked), width), dtype=np.int64)
    history[np.arange(width) >= width - lengths[:, None]] = np.concatenate([q.items for q in asked])
    seen = history.copy()
    seen[[question.repeats for question in asked]] = 0
    nobody = np.full(len(asked), -1)  # no row of any table of users
    return SequenceBatch(
        users=torch.from_numpy(nobody),
        history=torch.from_numpy(history),
        target=torch.zeros(len(asked), dtype=torch.int64),
        seen=None if all(question.repeats for question in asked) else torch.from_numpy(seen),
    )
