"""Auditor: reads everything that leaves a device, and stops the run where it says what the user took.

It knows what the device knows; the cloud does not. For methods that send histories on purpose it counts
instead, which also shows that it finds what there is to find.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from recbench.edge.leaks import LeakDetector
from recbench.edge.messages import Message, MessageError, decode
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from recbench.data.module import InteractionData


class PrivacyError(RecbenchError):
    """Something of a user was about to leave the device."""

    exit_code = 5


class Auditor:
    """An `Observer` of a gate.

    Attributes:
        frames: how many it has read.
        findings: what it found, by kind of message; where it stops the run, the first alone.

    Args:
        data: whose users and items.
        detector: of what texts give away.
        stops: whether a finding raises.
        canaries: texts that nobody else says, per user; planted in tests to show that the auditor works.
    """

    def __init__(
        self,
        data: InteractionData,
        detector: LeakDetector,
        *,
        stops: bool = True,
        canaries: dict[int, str] | None = None,
    ) -> None:
        self.data, self.detector, self.stops = data, detector, stops
        self.canaries = canaries or {}
        self.frames = 0
        self.findings: Counter[str] = Counter()

    @classmethod
    def of(cls, data: InteractionData, *, groups: Iterable[str] = (), stops: bool = True) -> Auditor:
        """For all users of a data set; names of `groups` may be said."""
        return cls(data, LeakDetector.of(data.catalog, groups=groups), stops=stops)

    def sends(self, frames: Sequence[bytes], users: NDArray[np.int64]) -> None:
        """Read every frame.

        Raises:
            PrivacyError: one says what its user took, when, or who it is.
        """
        for frame, user in zip(frames, users.tolist(), strict=True):
            self.frames += 1
            kind, found = self._read(frame, user)
            if found and self.stops:
                raise PrivacyError(
                    f"{kind} of user {user} was about to leave the device with {found[0]}; "
                    "send something derived from it, or do not call the method private"
                )
            self.findings[kind] += bool(found)

    def _read(self, frame: bytes, user: int) -> tuple[str, list[str]]:
        """The kind of message, and what it gives away."""
        sequences = self.data.sequences
        own = slice(sequences.offsets[user], sequences.offsets[user + 1])
        items = set(sequences.items[own].tolist())
        times = () if self.data.times is None else self.data.times[own].tolist()
        canary = self.canaries.get(user, "")
        found = ["a planted text"] if canary and any(v in frame for v in _spellings(canary)) else []
        try:
            message = decode(frame)
        except MessageError as error:
            return "a frame", [*found, f"what cannot be read ({error})"]
        return type(message).__name__, [*found, *self._of_fields(message, items, times)]

    def _of_fields(self, message: Message, items: Collection[int], times_s: Collection[int]) -> Iterator[str]:
        for field in fields(message):
            value = getattr(message, field.name)
            if isinstance(value, str):
                yield from self.detector.findings(value, items, times_s)
            elif _holds_any(value, items):
                yield f"item numbers of the history in its {field.name}"


def _holds_any(value: object, items: Collection[int]) -> bool:
    """Whether an array of whole numbers has one of `items`."""
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.integer):
        return False
    return bool(np.isin(value, list(items)).any())


def _spellings(text: str) -> tuple[bytes, ...]:
    """As bytes of the usual encodings."""
    return text.encode(), text.encode("utf-16-le"), text.encode().hex().encode()
