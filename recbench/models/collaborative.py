"""Collaborative: a method of two sides, and everything that passes between them passes as frames.

Evaluation, validation and latency run the same `Device` and `Cloud` as two processes do: every exchange is
encoded, counted, carried and decoded. Only the devices of a batch are played by one object, and the questions
of a batch reach the cloud together.
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from recbench.edge.auditor import Auditor
from recbench.edge.cache import Cache
from recbench.edge.device import Device
from recbench.edge.link import InProcess, Link, Traffic
from recbench.edge.network import Network, read_trace
from recbench.edge.policy import Policy  # noqa: TC001 - the command line reads the annotation
from recbench.models.base import Ranking, Recipe, Recommender, at_least

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.answer import Answer
    from recbench.edge.brain import Brain
    from recbench.edge.cloud import Cloud
    from recbench.edge.link import Observer
    from recbench.nn.ranking import TargetRanks


@dataclass(frozen=True)
class Boundary:
    """Under which conditions the two sides work together.

    Args:
        network: a profile of `recbench.edge.network`, or a CSV file of conditions.
        policy: when a device asks its cloud; always unless given.
        deadline_ms: of virtual time, after which the device answers with what it has.
        num_tries: how often a question is sent at most.
        lag: the cache holds what the cloud said so many interactions ago; -1 for an empty cache.
        seed: of the network, and of what users are called.
    """

    network: str = "perfect"
    policy: Policy | None = None
    deadline_ms: float = 1000.0
    num_tries: int = 1
    lag: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, num_tries=self.num_tries)
        at_least(-1, lag=self.lag)
        read_trace(self.network)

    def earlier(self, batch: SequenceBatch) -> SequenceBatch:
        """What the cache's answers were asked for with."""
        return batch.lagged(self.lag)


class Collaborative(Recommender):
    """A method whose device asks a cloud.

    A subclass says in `cloud_side` and `device_side` what runs where, each made of its own modules and
    nothing of the other's. `recommend` and `target_ranks` keep no state: what a cache holds is what the cloud
    would have said `lag` interactions ago, so results depend on no order.

    Args:
        recipe: how it is trained.
        boundary: under which conditions it is evaluated.
    """

    is_private: ClassVar[bool] = False  # whether it promises that no history leaves the device

    def __init__(self, recipe: Recipe, *, boundary: Boundary = Boundary()) -> None:
        super().__init__(recipe)
        self.boundary = boundary
        self.observers: tuple[Observer, ...] = ()
        self._sides: tuple[Device, Device, InProcess] | None = None
        self._filling_s = self._cloud_s = self._watched_s = self._wait_ms = 0.0  # of the last answer

    def build(self, catalog: Catalog) -> None:
        """Note what the catalogue's indices mean; subclasses then build their sides."""
        self.num_items = catalog.num_items
        self.version = catalog_version(catalog)

    @abstractmethod
    def sides(self) -> Mapping[str, nn.Module]:
        """The modules of the `cloud` and of the `device`; what both have is in both."""

    @abstractmethod
    def cloud_side(self) -> Cloud:
        """What answers, holding the cloud's modules only."""

    @abstractmethod
    def device_side(self) -> Brain:
        """What ranks, holding the device's modules only."""

    def cross(
        self,
        boundary: Boundary,
        *,
        around: Callable[[Link], Link] = lambda link: link,
        observers: Sequence[Observer] = (),
    ) -> Device:
        """Work under other conditions from now on; nothing is trained again.

        Args:
            boundary: the conditions.
            around: puts more around the link, such as faults.
            observers: watch what leaves the device, besides those of `watched`.

        Returns:
            The device, which counts what crosses.
        """
        self.boundary = boundary
        observers = (*self.observers, *observers)
        cloud = InProcess(self.cloud_side().handle)
        link = around(Network(cloud, read_trace(boundary.network), seed=boundary.seed))
        brain, cache = self.device_side(), Cache()
        session = boundary.seed.to_bytes(16, "little", signed=True)
        device = Device(
            brain,
            link,
            policy=boundary.policy,
            cache=cache,
            deadline_ms=boundary.deadline_ms,
            num_tries=boundary.num_tries,
            observers=observers,
            session=session,
        )
        earlier = Device(brain, InProcess(cloud.handle), cache=cache, observers=observers, session=session)
        self._sides = device, earlier, cloud
        return device

    def watched(self, data: InteractionData) -> None:
        """Have an auditor read all that leaves the devices of the users of `data`, if nothing private may."""
        if self.is_private:
            self.observers = (Auditor.of(data, groups=self.public_words()),)
            self.cross(self.boundary)

    def public_words(self) -> tuple[str, ...]:
        """What a private method may say besides the tags of many items."""
        return ()

    def answer(self, batch: SequenceBatch) -> Answer:
        """What the devices of a batch say, and how they came to it."""
        device, earlier, cloud = self._made()
        start = time.perf_counter()
        device.cache.clear()
        if self.boundary.lag >= 0:
            earlier.refresh(self.boundary.earlier(batch))
        self._filling_s, self._cloud_s = time.perf_counter() - start, cloud.cloud_s
        self._watched_s = device.gate.watched_s
        found = device.answer(batch)
        self._wait_ms = float(found.wait_ms.mean())
        return found

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` items for every user."""
        return self.answer(batch).recommend(k)

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Where each target comes: in the list, or among all items where the device is on its own."""
        return self.answer(batch).target_ranks()

    def split_ms(self, total_ms: float) -> Mapping[str, float]:
        """The cloud's computing apart, and the wait that the network's model adds.

        A lagged cache is free, and so is what observers do: neither is there when a device is asked.
        """
        device, _, cloud = self._made()
        cloud_ms = 1000 * (cloud.cloud_s - self._cloud_s)
        free_ms = 1000 * (self._filling_s + device.gate.watched_s - self._watched_s)
        return {
            "device": total_ms - cloud_ms - free_ms,
            "cloud": cloud_ms,
            "network": self._wait_ms,
        }

    def traffic(self) -> Traffic:
        """What has crossed the boundary so far; what filled a lagged cache is not counted."""
        return replace(self._made()[0].gate.traffic)

    def usage(self) -> Counter[str]:
        """Traffic, and whose word requests rest on."""
        traffic, outcomes = self.traffic(), self._made()[0].outcomes
        found = Counter({source: outcomes[source] for source in ("cloud", "cache", "device")})
        found.update(exchanges=traffic.exchanges, bytes_up=traffic.bytes_up, bytes_down=traffic.bytes_down)
        return found

    def _made(self) -> tuple[Device, Device, InProcess]:
        if self._sides is None:
            self.cross(self.boundary)
        assert self._sides is not None
        return self._sides


def catalog_version(catalog: Catalog) -> str:
    """Twelve hexadecimal digits that say which item every index is."""
    names = "\n".join(map(str, catalog.items["raw_id"].to_list()))
    return hashlib.sha256(names.encode()).hexdigest()[:12]
