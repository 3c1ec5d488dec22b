"""What can go wrong on the way or in the cloud, as links around a link; each strikes a share of exchanges.

Which ones is decided by seed and frame, as in `network`: the same faults hit the same requests in every run.
They nest: `Lost(Delayed(link, rate=0.1, delay_ms=500), rate=0.1)`. Imports no torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from recbench.edge.dice import Dice, throw
from recbench.edge.link import Arrival, Link
from recbench.edge.messages import Failure, MessageError, Reply, checksum, decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence


class Fault(Link):
    """Strikes some exchanges of a link and leaves the others as they are.

    Args:
        link: what is struck.
        rate: share of the exchanges, 0 to 1.
        seed: decides which.
    """

    def __init__(self, link: Link, *, rate: float = 1.0, seed: int = 0) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must lie in 0..1, got {rate:g}")
        self.link, self.rate, self.seed = link, rate, seed

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        """What is left of each exchange."""
        fates = [self._fate(request, sent_ms) for request in requests]
        passed = [
            [request] if fate is None else self.leaving(request, fate)
            for request, fate in zip(requests, fates, strict=True)
        ]
        flat = [request for some in passed for request in some]
        arrived = iter(self.link.exchange(flat, sent_ms=sent_ms) if flat else [])
        found = [[arrival for _ in some for arrival in next(arrived)] for some in passed]
        return [
            arrivals if fate is None else self.arriving(request, arrivals, fate, sent_ms)
            for request, arrivals, fate in zip(requests, found, fates, strict=True)
        ]

    def leaving(self, request: bytes, dice: Dice) -> list[bytes]:  # noqa: ARG002 - for those who override
        """What of a struck request goes on to the link."""
        return [request]

    def arriving(
        self,
        request: bytes,  # noqa: ARG002
        arrivals: list[Arrival],
        dice: Dice,  # noqa: ARG002
        sent_ms: float,  # noqa: ARG002
    ) -> list[Arrival]:
        """What of a struck request's answers reaches the device."""
        return arrivals

    def _fate(self, request: bytes, sent_ms: float) -> Dice | None:
        dice = throw(self.seed, type(self).__name__.encode()[:16], request, sent_ms)
        return dice if dice.a < self.rate else None


class Lost(Fault):
    """The request does not reach the cloud, or its answer not the device: each half of the time."""

    def leaving(self, request: bytes, dice: Dice) -> list[bytes]:
        """Nothing, or the request."""
        return [] if dice.b < 0.5 else [request]

    def arriving(self, *_: object) -> list[Arrival]:
        """Nothing."""
        return []


class Delayed(Fault):
    """A slow way or a slow cloud.

    Args:
        link: what is struck.
        delay_ms: how much later the answer comes.
        rate: share of the exchanges, 0 to 1.
        seed: decides which.
    """

    def __init__(self, link: Link, *, delay_ms: float, rate: float = 1.0, seed: int = 0) -> None:
        super().__init__(link, rate=rate, seed=seed)
        if not delay_ms >= 0:
            raise ValueError(f"delay_ms must be 0 or more, got {delay_ms:g}")
        self.delay_ms = delay_ms

    def arriving(
        self,
        request: bytes,  # noqa: ARG002
        arrivals: list[Arrival],
        dice: Dice,  # noqa: ARG002
        sent_ms: float,  # noqa: ARG002
    ) -> list[Arrival]:
        """The same, later."""
        return [Arrival(frame, at_ms + self.delay_ms) for frame, at_ms in arrivals]


class Duplicated(Fault):
    """The request arrives twice, so the cloud answers twice."""

    def leaving(self, request: bytes, dice: Dice) -> list[bytes]:  # noqa: ARG002
        """Twice."""
        return [request, request]


class Reordered(Fault):
    """An answer comes with the next exchange of the link, whosever that is, instead of with its own."""

    def __init__(self, link: Link, *, rate: float = 1.0, seed: int = 0) -> None:
        super().__init__(link, rate=rate, seed=seed)
        self._late: list[Arrival] = []

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        """What was kept back, then what is due unless it is kept back."""
        found = []
        for request, due in zip(requests, self.link.exchange(requests, sent_ms=sent_ms), strict=True):
            kept = [Arrival(frame, sent_ms) for frame, _ in self._late]
            is_struck = self._fate(request, sent_ms) is not None
            self._late = due if is_struck else []
            found.append(kept if is_struck else kept + due)
        return found


class Corrupted(Fault):
    """A bit is flipped or the end is cut off, half of the time of the request, half of its answers."""

    def leaving(self, request: bytes, dice: Dice) -> list[bytes]:
        """The request, damaged or not."""
        return [_damaged(request, dice) if dice.b < 0.5 else request]

    def arriving(
        self,
        request: bytes,  # noqa: ARG002
        arrivals: list[Arrival],
        dice: Dice,
        sent_ms: float,  # noqa: ARG002
    ) -> list[Arrival]:
        """The answers, damaged or not."""
        if dice.b < 0.5:
            return arrivals
        return [Arrival(_damaged(frame, dice), at_ms) for frame, at_ms in arrivals]


class Failing(Fault):
    """The cloud says that it has no answer."""

    def leaving(self, request: bytes, dice: Dice) -> list[bytes]:  # noqa: ARG002
        """Nothing: no model is asked."""
        return []

    def arriving(
        self,
        request: bytes,
        arrivals: list[Arrival],  # noqa: ARG002
        dice: Dice,  # noqa: ARG002
        sent_ms: float,
    ) -> list[Arrival]:
        """A failure."""
        failure = Failure("the cloud is busy", retry_after_ms=1000.0)
        return [Arrival(encode(failure, answers=checksum(request)), sent_ms)]


class Skewed(Fault):
    """The cloud has another version of what both sides share.

    Args:
        link: what is struck.
        version: the one that it says to have.
        rate: share of the exchanges, 0 to 1.
        seed: decides which.
    """

    def __init__(self, link: Link, *, version: str, rate: float = 1.0, seed: int = 0) -> None:
        super().__init__(link, rate=rate, seed=seed)
        self.version = version

    def arriving(
        self,
        request: bytes,
        arrivals: list[Arrival],
        dice: Dice,  # noqa: ARG002
        sent_ms: float,  # noqa: ARG002
    ) -> list[Arrival]:
        """The same content under another version."""
        return [Arrival(self._skewed(frame, checksum(request)), at_ms) for frame, at_ms in arrivals]

    def _skewed(self, frame: bytes, question: int) -> bytes:
        try:
            message = decode(frame)
        except MessageError:  # of a fault further in
            return frame
        if not isinstance(message, Reply):
            return frame
        return encode(replace(message, version=self.version), answers=question)


def _damaged(frame: bytes, dice: Dice) -> bytes:
    """One bit flipped, or cut short at the place that the dice say."""
    place = int(dice.c * len(frame))
    if dice.d < 0.5:
        return frame[:place]
    damaged = bytearray(frame)
    damaged[place] ^= 1 << int(dice.d * 16) % 8
    return bytes(damaged)
