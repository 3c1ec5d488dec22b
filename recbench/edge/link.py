"""Link: the only way across, frames in and frames out. Gate: the device's door, which counts and is watched.

Exchanges come many at a time so that a cloud can compute them as one batch; each is an exchange of its own.
Imports no torch.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray


class Arrival(NamedTuple):
    """A frame that reached the device, and when: milliseconds on the clock that its request began at 0."""

    frame: bytes
    at_ms: float


class Link(ABC):
    """Carries frames to the other side and brings back what comes of each."""

    @abstractmethod
    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        """Send `requests`; what arrives for each: nothing, its answer, several, or somebody else's.

        Args:
            requests: frames, each an exchange of its own.
            sent_ms: when they are sent, on the clock of their requests; later than 0 when sent again.
        """


class InProcess(Link):
    """The cloud is in this process; a frame arrives the moment it is sent.

    Attributes:
        cloud_s: seconds the cloud has computed so far, measured.

    Args:
        handle: answers frames, one by one in their order.
    """

    def __init__(self, handle: Callable[[Sequence[bytes]], list[bytes]]) -> None:
        self.handle = handle
        self.cloud_s = 0.0

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        """The cloud's answers, at once."""
        start = time.perf_counter()
        replies = self.handle(requests)
        self.cloud_s += time.perf_counter() - start
        return [[Arrival(frame, sent_ms)] for frame in replies]


@dataclass(slots=True)
class Traffic:
    """What crossed a gate so far.

    Args:
        exchanges: frames sent.
        bytes_up: of these frames.
        arrivals: frames that came.
        bytes_down: of those frames.
    """

    exchanges: int = 0
    bytes_up: int = 0
    arrivals: int = 0
    bytes_down: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.exchanges - other.exchanges,
            self.bytes_up - other.bytes_up,
            self.arrivals - other.arrivals,
            self.bytes_down - other.bytes_down,
        )


class Observer(Protocol):
    """Sees everything that leaves a device, before it does; raises to stop it."""

    def sends(self, frames: Sequence[bytes], users: NDArray[np.int64]) -> None:
        """Frames on their way out, and whose each is: known on the device, not sent."""


class Gate:
    """The device's end of a link: nothing crosses but through it, so that nothing crosses uncounted.

    Bytes are those of the frames; what a transport adds, such as the headers of HTTP, is not counted.

    Attributes:
        watched_s: seconds that the observers have taken so far, which are no part of a request.

    Args:
        link: what is behind.
        observers: who watches.
    """

    def __init__(self, link: Link, *, observers: Sequence[Observer] = ()) -> None:
        self.link, self.observers = link, tuple(observers)
        self.traffic = Traffic()
        self.watched_s = 0.0

    def exchange(
        self, requests: Sequence[bytes], users: NDArray[np.int64], *, sent_ms: float = 0.0
    ) -> list[list[Arrival]]:
        """As `Link.exchange`, for the `users` that the requests are of."""
        start = time.perf_counter()
        for observer in self.observers:
            observer.sends(requests, users)
        self.watched_s += time.perf_counter() - start
        self.traffic.exchanges += len(requests)
        self.traffic.bytes_up += sum(map(len, requests))
        found = self.link.exchange(requests, sent_ms=sent_ms)
        self.traffic.arrivals += sum(map(len, found))
        self.traffic.bytes_down += sum(len(arrival.frame) for arrivals in found for arrival in arrivals)
        return found
