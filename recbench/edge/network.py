"""A network in virtual time: how long a frame takes and whether it comes, exact and repeatable.

    arrival = sent + rtt + jitter + 8 bytes up / up rate + 8 bytes down / down rate

Nobody sleeps and no clock is read. Every request meets the network at a moment of its own, which seed and
frame decide; so results do not depend on order or batches. Loss is of whole exchanges, as an application sees
it. Imports no torch.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from recbench.edge.dice import throw
from recbench.edge.link import Arrival, Link
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NORMAL = NormalDist()
JITTER_SPREAD = 0.5  # sigma of the logarithm: the 95th percentile is 2.3 times the median


@dataclass(frozen=True, slots=True)
class Conditions:
    """The state of a network for a while.

    Args:
        rtt_ms: there and back, of an empty frame.
        up_mbit: from the device, in 10^6 bits per second; 0 when offline.
        down_mbit: to the device.
        jitter_ms: median of a log-normal delay on top.
        loss_rate: share of the frames lost, in each direction.
    """

    rtt_ms: float = 0.0
    up_mbit: float = math.inf
    down_mbit: float = math.inf
    jitter_ms: float = 0.0
    loss_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rtt_ms", "up_mbit", "down_mbit", "jitter_ms"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value:g}")
        if not 0 <= self.loss_rate <= 1:
            raise ValueError(f"loss_rate must lie in 0..1, got {self.loss_rate:g}")

    def transfer_ms(self, bytes_up: int, bytes_down: int) -> float:
        """Time of an exchange without jitter; infinite when offline."""
        if not (self.up_mbit and self.down_mbit):
            return math.inf
        return self.rtt_ms + 8e-3 * (bytes_up / self.up_mbit + bytes_down / self.down_mbit)


@dataclass(frozen=True, slots=True)
class Trace:
    """Conditions one after another, from the beginning again after the last.

    Args:
        steps: (seconds, conditions) in order.
    """

    steps: tuple[tuple[float, Conditions], ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a trace must have at least one step")
        for seconds, _ in self.steps:
            if not 0 < seconds < math.inf:
                raise ValueError(f"a step must last a positive number of seconds, got {seconds:g}")

    @property
    def seconds(self) -> float:
        """How long one round takes."""
        return math.fsum(seconds for seconds, _ in self.steps)

    def at(self, moment_s: float) -> Conditions:
        """The conditions at a moment of the first or any later round."""
        left = moment_s % self.seconds
        for seconds, conditions in self.steps:
            if left < seconds:
                return conditions
            left -= seconds
        return self.steps[-1][1]  # rounding


_LTE = Conditions(rtt_ms=50, up_mbit=5, down_mbit=20, jitter_ms=5)
_OFF = Conditions(up_mbit=0, down_mbit=0)
PROFILES = {
    "perfect": Trace(((1, Conditions()),)),
    "wifi": Trace(((1, Conditions(rtt_ms=20, up_mbit=20, down_mbit=50, jitter_ms=2)),)),
    "lte": Trace(((1, _LTE),)),
    "3g": Trace(((1, Conditions(rtt_ms=150, up_mbit=0.5, down_mbit=2, jitter_ms=20)),)),
    "edge_of_cell": Trace(
        ((1, Conditions(rtt_ms=300, up_mbit=0.1, down_mbit=0.5, jitter_ms=50, loss_rate=0.05)),)
    ),
    "offline_windows": Trace(((45, _LTE), (15, _OFF), (100, _LTE), (20, _OFF))),  # 35 of 180 s
    "offline": Trace(((1, _OFF),)),
}


def read_trace(name: str) -> Trace:
    """A profile by its name, or a trace from a CSV file.

    The file has a header and the columns `seconds`, `rtt_ms`, `up_mbit`, `down_mbit` and, if wanted,
    `jitter_ms`, `loss_rate`; a row holds for its seconds.

    Raises:
        UsageError: no profile and no file has this name.
        DataError: the file is not such a table.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"network {name!r}: neither a file nor one of {', '.join(PROFILES)}")
    known = [field.name for field in fields(Conditions)]
    steps = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        if missing := [column for column in ("seconds", *known[:3]) if column not in columns]:
            raise DataError(f"{path}:1: no column {missing[0]!r}; needed are seconds, {', '.join(known[:3])}")
        if unknown := [column for column in columns if column not in ("seconds", *known)]:
            raise DataError(f"{path}:1: unknown column {unknown[0]!r}; known are seconds, {', '.join(known)}")
        for row in table:
            try:
                numbers = {column: float(row[column]) for column in columns}
                steps.append((numbers.pop("seconds"), Conditions(**numbers)))
                Trace(tuple(steps[-1:]))
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}:{table.line_num}: {error}; correct the row") from None
    if not steps:
        raise DataError(f"{path}: has no rows; give at least one step")
    return Trace(tuple(steps))


class Network(Link):
    """Puts a trace between a device and a link.

    Args:
        link: what is behind the network.
        trace: its conditions over time.
        seed: decides the moments, losses and jitter.
    """

    def __init__(self, link: Link, trace: Trace, *, seed: int = 0) -> None:
        self.link, self.trace, self.seed = link, trace, seed
        self.varies = len(trace.steps) > 1
        self.is_perfect = all(conditions == Conditions() for _, conditions in trace.steps)

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        """What comes through, and when."""
        if self.is_perfect:
            return self.link.exchange(requests, sent_ms=sent_ms)
        fates = [throw(self.seed, b"network", request, sent_ms) for request in requests]
        states = [self._conditions(request, sent_ms) for request in requests]
        found: list[list[Arrival]] = [[] for _ in requests]
        passing = [
            i
            for i, (fate, now) in enumerate(zip(fates, states, strict=True))
            if now.transfer_ms(0, 0) < math.inf and fate.a >= now.loss_rate
        ]
        if not passing:
            return found
        arrived = self.link.exchange([requests[i] for i in passing], sent_ms=sent_ms)
        for i, arrivals in zip(passing, arrived, strict=True):
            now, fate = states[i], fates[i]
            if fate.b < now.loss_rate:
                continue
            late = _jitter_ms(now, fate.c)
            found[i] = [
                Arrival(frame, at_ms + now.transfer_ms(len(requests[i]), len(frame)) + late)
                for frame, at_ms in arrivals
            ]
        return found

    def _conditions(self, request: bytes, sent_ms: float) -> Conditions:
        if not self.varies:
            return self.trace.steps[0][1]
        begin = throw(self.seed, b"moment", request).a  # the same when the frame is sent again
        return self.trace.at(begin * self.trace.seconds + sent_ms / 1000)


def _jitter_ms(now: Conditions, draw: float) -> float:
    if not now.jitter_ms:
        return 0.0
    inside = min(max(draw, 1e-12), 1 - 1e-12)
    return now.jitter_ms * math.exp(JITTER_SPREAD * _NORMAL.inv_cdf(inside))
