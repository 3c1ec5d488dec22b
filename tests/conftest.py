"""What all tests share: no network, tiny histories made by hand, and a small demo world."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import torch

from recbench.data import synthetic
from recbench.data.batch import SequenceBatch
from recbench.data.module import InteractionData
from recbench.data.prepared import Origin, Prepared, describe
from recbench.nn import losses

if TYPE_CHECKING:
    from collections.abc import Callable

# Workers run beside each other, and threads of several processes on the same cores wait for one another.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start

LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine fails the test, so that no test needs a route by accident."""
    if request.node.get_closest_marker("network"):
        return

    def guarded(method: str) -> Callable[..., Any]:
        genuine = getattr(socket.socket, method)

        def connect(self: socket.socket, address: Any) -> Any:
            is_remote = self.family in (socket.AF_INET, socket.AF_INET6)
            if is_remote and not str(address[0]).startswith(LOOPBACK):
                raise RuntimeError(f"a test without the mark `network` connects to {address}")
            return genuine(self, address)

        return connect

    for method in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, method, guarded(method))


@pytest.fixture
def _has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved products are tested on machines that would not halve them, too."""
    monkeypatch.setattr(losses, "multiplies_bfloat16", lambda _: True)


def prepared_of(histories: list[list[int]]) -> Prepared:
    """A data set of user 0's items, user 1's items, ...; item 1..N are known, N the largest."""
    users = [user for user, items in enumerate(histories) for _ in items]
    items = [item for items in histories for item in items]
    interactions = pl.DataFrame({"user": users, "item": items}, schema={"user": pl.Int32, "item": pl.Int32})
    numbers = range(1, max(items) + 1)
    catalog = pl.DataFrame({"item": numbers, "raw_id": [f"i{number}" for number in numbers]})
    origin = Origin(name="by-hand", about="made by hand", index_seed=0, clock="none", sources={})
    return Prepared("by-hand", interactions, catalog, None, describe(interactions, catalog, None, origin))


@pytest.fixture(scope="session")
def data_of() -> Callable[..., InteractionData]:
    """Makes the data module of some histories: `data_of([[1, 2, 3], ...], max_len=2)`."""

    def make(histories: list[list[int]], **options: Any) -> InteractionData:
        return InteractionData.of(prepared_of(histories), **options)

    return make


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., SequenceBatch]:
    """Makes a batch of some histories: `batch_of([[1, 2], [3]], target=[3, 1], seen=[[1, 2], [3]])`."""

    def padded(rows: list[list[int]]) -> torch.Tensor:
        width = max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0]))
        return torch.tensor([[0] * (width - len(row)) + row for row in rows])

    def make(
        histories: list[list[int]], target: list[int] | None = None, seen: list[list[int]] | None = None
    ) -> SequenceBatch:
        return SequenceBatch(
            users=torch.arange(len(histories)),
            history=padded(histories),
            target=torch.tensor(target or [0] * len(histories)),
            seen=None if seen is None else padded(seen),
        )

    return make


@pytest.fixture(scope="session")
def demo_world() -> synthetic.World:
    """A demo world small enough to train on in a second, with its true probabilities."""
    return synthetic.world(num_users=300, num_items=60, seed=0)


@pytest.fixture
def demo(demo_world: synthetic.World) -> InteractionData:
    """The small demo world, as its preset serves it; new for every test, for it counts its epochs."""
    return InteractionData.of(demo_world.prepared, mask_seen=False)
