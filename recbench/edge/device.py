"""Device: asks as its policy decides, waits no longer than its deadline, and always has a recommendation.

    decide -> ask -> wait -> what came | what the cache has | what the own model says

One object plays the devices of B users at once, each with its own cache entry and its own clock; on a real
device B is 1. Frames that are late, damaged, of another version, or answers to something else, count and
change nothing; late answers are kept for the next time.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recbench.edge.answer import Answer, Part, take
from recbench.edge.brain import Ages
from recbench.edge.cache import Cache, Entry
from recbench.edge.link import Gate
from recbench.edge.messages import Failure, MessageError, Reply, answers, checksum, decode, encode
from recbench.edge.policy import Always, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from recbench.data.batch import SequenceBatch
    from recbench.edge.answer import Source
    from recbench.edge.brain import Brain
    from recbench.edge.link import Arrival, Link, Observer
    from recbench.edge.policy import Policy


class Device:
    """The near side of a link.

    Attributes:
        gate: counts what crosses.
        cache: what it keeps.
        outcomes: what became of the requests and frames so far, by name.

    Args:
        brain: the method's own part.
        link: leads to the cloud.
        policy: when to ask.
        cache: what is known from before.
        deadline_ms: after which the answer is given with what there is; on the link's clock.
        num_tries: how often a question is sent at most, at equal intervals until the deadline.
        observers: watch what leaves.
        session: decides what users are called outside; drawn if not given.
    """

    def __init__(
        self,
        brain: Brain,
        link: Link,
        *,
        policy: Policy | None = None,
        cache: Cache | None = None,
        deadline_ms: float = 1000.0,
        num_tries: int = 1,
        observers: Sequence[Observer] = (),
        session: bytes = b"",
    ) -> None:
        if not 0 < deadline_ms < math.inf:
            raise ValueError(f"deadline_ms must be above 0 and finite, got {deadline_ms:g}")
        if num_tries < 1:
            raise ValueError(f"num_tries must be at least 1, got {num_tries}")
        self.brain, self.policy = brain, policy or Always()
        self.gate = Gate(link, observers=observers)
        self.cache = Cache() if cache is None else cache
        self.deadline_ms, self.num_tries = deadline_ms, num_tries
        self.outcomes: Counter[str] = Counter()
        self._session = session or secrets.token_bytes(16)

    def answer(self, batch: SequenceBatch) -> Answer:
        """Rank for every user, with the cloud's help as far as it is wanted and comes in time."""
        moment = _Moment.of(batch)
        held = self._held(moment)
        state = self._state(batch, moment, held)
        asked = self.policy.decide(state)
        lag_items, lag_s = state.lag_items.copy(), state.lag_s.copy()
        replies: list[Reply | None] = [entry.reply if entry else None for entry in held]
        source: list[Source] = ["device" if entry is None else "cache" for entry in held]
        wait_ms = np.zeros(len(batch))
        if asked.any():
            rows = np.flatnonzero(asked)
            fresh, wait_ms[rows] = self._fetch(take(batch, rows), moment.of_rows(rows))
            for row, reply in zip(rows.tolist(), fresh, strict=True):
                if reply is not None:
                    replies[row], source[row], lag_items[row], lag_s[row] = reply, "cloud", 0, 0
        self.outcomes.update(source)
        parts = self._parts(batch, replies, Ages(lag_items, lag_s))
        return Answer(parts, tuple(source), lag_items, wait_ms, asked, tuple(replies))

    def refresh(self, batch: SequenceBatch) -> None:
        """Ask for every user and keep what comes, without answering anybody."""
        self._fetch(batch, _Moment.of(batch))

    def _held(self, moment: _Moment) -> list[Entry | None]:
        version = self.brain.version
        return [
            self.cache.find(user, version=version, count=count, time_s=time_s)
            for user, count, time_s in moment.each()
        ]

    def _state(self, batch: SequenceBatch, moment: _Moment, held: list[Entry | None]) -> State:
        has = np.array([entry is not None for entry in held])
        entries = [entry for entry in held if entry is not None]
        lag_items, lag_s = np.full(len(held), -1), np.full(len(held), -1.0)
        lag_items[has] = moment.counts[has] - np.array([entry.count for entry in entries], dtype=np.int64)
        lag_s[has] = moment.times_s[has] - np.array([entry.time_s for entry in entries], dtype=np.float64)

        def score() -> NDArray[np.float64]:
            needs = np.full(len(held), np.nan)
            if entries:
                known = take(batch, np.flatnonzero(has))
                brain = self.brain.dated(Ages(lag_items[has], lag_s[has]))
                needs[has] = brain.need(known, [entry.reply for entry in entries])
            return needs

        return State(moment.users, moment.counts, lag_items, lag_s, score)

    def _fetch(self, batch: SequenceBatch, moment: _Moment) -> tuple[list[Reply | None], NDArray[np.float64]]:
        """(B,) the replies that came in time, and how long each user waited for one or for nothing."""
        questions = self.brain.ask(batch, [self._name(user) for user in moment.users.tolist()])
        frames = [encode(question) for question in questions]
        best: list[tuple[float, Reply] | None] = [None] * len(frames)
        for number in range(self.num_tries):
            sent_ms = number * self.deadline_ms / self.num_tries
            still = [i for i, found in enumerate(best) if found is None or found[0] > sent_ms]
            if not still:
                break
            arrived = self.gate.exchange([frames[i] for i in still], moment.users[still], sent_ms=sent_ms)
            for i, found in zip(still, self._accepted([frames[i] for i in still], arrived), strict=True):
                if found is not None and (best[i] is None or found[0] < best[i][0]):  # type: ignore[index]
                    best[i] = found
        return self._kept(best, moment)

    def _kept(
        self, best: list[tuple[float, Reply] | None], moment: _Moment
    ) -> tuple[list[Reply | None], NDArray[np.float64]]:
        """Keep every reply; those past the deadline are of use the next time only."""
        replies: list[Reply | None] = [None] * len(best)
        wait_ms = np.full(len(best), self.deadline_ms)
        for i, (found, (user, count, time_s)) in enumerate(zip(best, moment.each(), strict=True)):
            if found is None:
                self.outcomes["unanswered"] += 1
                continue
            at_ms, reply = found
            self.cache.put(user, Entry(reply, count, time_s))
            if at_ms <= self.deadline_ms:
                replies[i], wait_ms[i] = reply, at_ms
            else:
                self.outcomes["late"] += 1
        return replies, wait_ms

    def _accepted(
        self, frames: list[bytes], arrived: list[list[Arrival]]
    ) -> list[tuple[float, Reply] | None]:
        """The first usable reply to each frame, and when it came."""
        read = [
            (i, arrival.at_ms, reply)
            for i, (frame, arrivals) in enumerate(zip(frames, arrived, strict=True))
            for arrival in arrivals
            if (reply := self._read(arrival.frame, checksum(frame))) is not None
        ]
        usable = self.brain.are_usable([reply for _, _, reply in read]) if read else []
        self.outcomes["unusable"] += len(usable) - sum(usable)
        first: list[tuple[float, Reply] | None] = [None] * len(frames)
        for (i, at_ms, reply), is_usable in zip(read, usable, strict=True):
            old = first[i]
            if is_usable and (old is None or at_ms < old[0]):
                first[i] = (at_ms, reply)
        return first

    def _read(self, frame: bytes, question: int) -> Reply | None:
        """The reply in a frame, unless it is of no use; what was wrong is counted."""
        try:
            message = decode(frame)
        except MessageError:
            self.outcomes["damaged"] += 1
            return None
        if isinstance(message, Failure):
            self.outcomes["failed"] += 1
        elif answers(frame) != question:
            self.outcomes["unasked"] += 1
        elif type(message) is not self.brain.expects:
            self.outcomes["unusable"] += 1
        elif isinstance(message, Reply) and message.version == self.brain.version:
            return message
        else:
            self.outcomes["skewed"] += 1
        return None

    def _parts(self, batch: SequenceBatch, replies: list[Reply | None], ages: Ages) -> tuple[Part, ...]:
        has = np.array([reply is not None for reply in replies])
        known = [reply for reply in replies if reply is not None]
        parts = []
        if len(rows := np.flatnonzero(has)):
            users = take(batch, rows)
            brain = self.brain.dated(Ages(ages.items[rows], ages.seconds[rows]))
            parts.append(Part(rows, users, brain.together(users, known)))
        if len(rows := np.flatnonzero(~has)):
            users = take(batch, rows)
            parts.append(Part(rows, users, self.brain.alone(users)))
        return tuple(parts)

    def _name(self, user: int) -> str:
        return blake2b(user.to_bytes(8, "little"), key=self._session, digest_size=8).hexdigest()


class _Moment(NamedTuple):
    """When B users ask: who, (B,) interactions so far, (B,) unix seconds of the newest, 0 where unknown."""

    users: NDArray[np.int64]
    counts: NDArray[np.int64]
    times_s: NDArray[np.float64]

    @classmethod
    def of(cls, batch: SequenceBatch) -> _Moment:
        """Counted in the history as far as the batch shows it."""
        users = batch.users.cpu().numpy()
        counts = (batch.history != 0).sum(1).cpu().numpy()
        times = np.zeros(len(users)) if batch.times is None else batch.times[:, -1].double().cpu().numpy()
        return cls(users, counts, times)

    def of_rows(self, rows: NDArray[np.int64]) -> _Moment:
        """The same for some of them."""
        return _Moment(self.users[rows], self.counts[rows], self.times_s[rows])

    def each(self) -> zip[tuple[int, int, float]]:
        """User by user."""
        return zip(self.users.tolist(), self.counts.tolist(), self.times_s.tolist(), strict=True)
