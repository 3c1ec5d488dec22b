"""What a request costs, by method and network: milliseconds, bytes, whose word is served, and how good it is.

    python experiments/traffic.py RUN [RUN ...] [--json]

Takes trained run folders of any methods; nothing is trained. A method of two sides is put behind each network
in turn, its policy, deadline and cache as it was trained. Where a cache does part of the work, it is also
shown asking at every request, the cache being there for what does not come. A method of one side asks
nobody: one row, whatever the network.

Computing is measured, here, one request at a time; the network is modelled, in virtual time. They are shown
apart, and their sum under its own name: of requests that the device gives up on it is an upper bound, since
nobody then waits for the cloud's computing. Metrics, bytes and shares are of all test requests, milliseconds
of some hundred.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from remembering import remember

from recbench import config, runs
from recbench.edge.network import PROFILES
from recbench.edge.policy import Always
from recbench.evaluate import evaluate, request_latency
from recbench.metrics import means
from recbench.models.collaborative import Boundary, Collaborative

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recbench.data.module import InteractionData
    from recbench.evaluate import Evaluation
    from recbench.models.base import Recommender
    from recbench.results import Latency

NETWORKS = tuple(name for name in PROFILES if name != "offline")  # where nobody can be asked
ANY = "any"  # network of a method that asks nobody
WORDS = ("cloud", "cache", "device")  # who may be served from
MEASURED, BOTH = "computing", "computing + network"
TIMES = ("device", "cloud", MEASURED, "network", BOTH)
TITLES = (
    *("method", "network", "device ms", "cloud ms", "computing ms", "network ms, modelled"),
    *("measured + modelled ms", "bytes up", "bytes down", "served by cloud / cache / device"),
    *("HR@10", "NDCG@10"),
)


class Row(NamedTuple):
    """One method behind one network.

    Args:
        data: name of the data set.
        method: name of the run, and how it asks if not as it was trained.
        network: a profile, or `any`.
        num_users: test requests.
        times: milliseconds by `TIMES`, as far as there are any; those of the network are modelled.
        bytes_up: per request.
        bytes_down: per request.
        served: share of the requests by whose word.
        metrics: means over the requests.
    """

    data: str
    method: str
    network: str
    num_users: int
    times: dict[str, Latency]
    bytes_up: float
    bytes_down: float
    served: dict[str, float]
    metrics: dict[str, float]

    def as_json(self) -> str:
        """One line."""
        times = {name: {"p50": t.p50_ms, "p95": t.p95_ms} for name, t in self.times.items()}
        rest = {name: value for name, value in self._asdict().items() if name not in ("times", "metrics")}
        return json.dumps(rest | {"ms": times} | self.metrics)

    def as_markdown(self) -> str:
        """One row of the table."""
        spent = [pair(self.times.get(name)) for name in TIMES]
        shares = " / ".join(f"{self.served.get(word, 0):.3f}" for word in WORDS)
        sizes = [f"{self.bytes_up:,.0f}", f"{self.bytes_down:,.0f}"]
        metrics = [f"{value:.4f}" for value in self.metrics.values()]
        return f"| {' | '.join((self.method, self.network, *spent, *sizes, shares, *metrics))} |"


def crossed(found: Evaluation) -> tuple[float, float]:
    """Bytes up and down of a request, means."""
    up, down = (found.usage.get(key, 0) / len(found.users) for key in ("bytes_up", "bytes_down"))
    return up, down


def pair(spent: Latency | None) -> str:
    """Median and 95th percentile; nothing where nothing was timed."""
    return "" if spent is None else f"{spent.p50_ms:.2f} / {spent.p95_ms:.2f}"


def rows(name: str, model: Recommender, data: InteractionData, *, num_calls: int = 300) -> list[Row]:
    """Those of one method.

    Args:
        name: what it is called.
        model: trained; a method of two sides stays behind the last boundary.
        data: its data.
        num_calls: requests that are timed, at least 200.
    """
    if not isinstance(model, Collaborative):
        return [_row(name, ANY, model, data, times(model, data, num_calls=num_calls))]
    behind = {
        (label, network): replace(boundary, network=network)
        for label, boundary in ways(name, model.boundary).items()
        for network in NETWORKS
    }
    spent = {}
    for key, boundary in behind.items():
        model.cross(boundary)
        spent[key] = times(model, data, num_calls=num_calls)
    remember(model)  # all is timed
    found = []
    for (label, network), boundary in behind.items():
        model.cross(boundary)
        found.append(_row(label, network, model, data, spent[label, network]))
    return found


def ways(name: str, boundary: Boundary) -> dict[str, Boundary]:
    """How a method asks: as it was trained, and always where else a cache would do."""
    if boundary.lag < 0 or boundary.policy is None or isinstance(boundary.policy, Always):
        return {name: boundary}
    return {name: boundary, f"{name}, always asking": replace(boundary, policy=Always())}


def times(model: Recommender, data: InteractionData, *, num_calls: int) -> dict[str, Latency]:
    """Of one request: each side's computing and all of it, the network's, and everything."""

    def split(total_ms: float) -> dict[str, float]:
        sides = dict(model.split_ms(total_ms))
        network = sides.get("network", 0.0)
        computing = sum(sides.values()) - network
        return sides | {MEASURED: computing, BOTH: computing + network}

    return request_latency(model, data, num_calls=num_calls, split=split)


def _row(
    name: str, network: str, model: Recommender, data: InteractionData, spent: dict[str, Latency]
) -> Row:
    found = evaluate(model, data)
    num_users, usage = len(found.users), found.usage or {"device": len(found.users)}
    served = {word: usage.get(word, 0) / num_users for word in WORDS}
    metrics = means(found.ranks)
    shown = {key: metrics[key] for key in ("hr@10", "ndcg@10")}
    return Row(data.prepared.name, name, network, num_users, spent, *crossed(found), served, shown)


def table(found: Sequence[Row]) -> Iterator[str]:
    """Markdown, a table for each data set; milliseconds are the median and the 95th percentile."""
    for data in dict.fromkeys(row.data for row in found):
        own = [row for row in found if row.data == data]
        yield f"\n### {data}, {own[0].num_users:,} requests; ms are p50 / p95\n"
        yield f"| {' | '.join(TITLES)} |"
        yield "|---" * len(TITLES) + "|"
        yield from (row.as_markdown() for row in own)


def main(words: Sequence[str] | None = None) -> None:
    """Print the rows of the runs named."""
    parser = argparse.ArgumentParser(description="What a request costs, by method and network.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--json", action="store_true", help="a JSON line per row instead of a table")
    parser.add_argument("--calls", type=int, default=300, help="requests that are timed, at least 200")
    asked = parser.parse_args(words)
    torch.manual_seed(0)
    found = []
    for folder in asked.runs:
        model, data = runs.restore(folder)
        name = config.read(folder / "config.yaml").get("name") or folder.name
        found += rows(name, model, data, num_calls=asked.calls)
    for line in [row.as_json() for row in found] if asked.json else table(found):
        print(line, flush=True)


if __name__ == "__main__":
    main()
