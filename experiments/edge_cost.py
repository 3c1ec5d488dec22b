"""What the boundary itself costs: one JSON line per figure.

    python experiments/edge_cost.py

`edge/exchange`: encode, gate, link, decode, encode, decode of one question of 50 items and its list of 50,
without a model; asked are 100 microseconds. `edge/evaluation`: CPU time of a full evaluation through the
boundary over that of the same computation without one; asked is 1.2. B users, C candidates.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from measuring import line

from recbench import runtime
from recbench.data.module import InteractionData
from recbench.data.synthetic import demo
from recbench.edge import lists
from recbench.edge.brain import Brain
from recbench.edge.cloud import Cloud, Lister
from recbench.edge.link import Gate, InProcess
from recbench.edge.messages import Candidates, History, checksum, decode, encode
from recbench.evaluate import evaluate
from recbench.models import SASRec
from recbench.models.base import Paper, Recipe
from recbench.models.collaborative import Collaborative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measuring import Figure

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.edge.messages import Question, Reply
    from recbench.nn.ranking import TargetRanks

LISTED = 50


class Reranker(Brain):
    """Adds the device's scores to the cloud's."""

    expects: ClassVar[type[Reply]] = Candidates

    def __init__(self, model: SASRec, *, num_items: int, version: str) -> None:
        self.model, self.num_items, self.version = model, num_items, version

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:
        """With the history."""
        return lists.histories(batch, names, num_items=LISTED)

    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        """As lists."""
        return lists.are_usable(replies, num_items=self.num_items)

    def alone(self, batch: SequenceBatch) -> SASRec:  # noqa: ARG002
        """By the device's model."""
        return self.model

    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> lists.ScoredList:
        """By the sum."""
        return self.mixed(batch, *lists.stacked(replies))

    def mixed(self, batch: SequenceBatch, items: torch.Tensor, scores: torch.Tensor) -> lists.ScoredList:
        """The (B, C) sums."""
        return lists.ScoredList(items, scores + self.model.score(batch, items), self.num_items)


class Pair(Collaborative):
    """SASRec as shipped in the cloud, half as wide on the device; untrained, for that costs the same."""

    paper: ClassVar[Paper] = Paper("none", "none", 2026, "")

    def __init__(self) -> None:
        super().__init__(Recipe())
        self.far = SASRec(dim=128, num_layers=2, num_heads=4, hidden=256)
        self.near = SASRec(dim=64, num_layers=2, num_heads=2, hidden=128)

    def build(self, catalog: Catalog) -> None:
        """Both sides."""
        super().build(catalog)
        self.far.build(catalog)
        self.near.build(catalog)

    def sides(self) -> dict[str, torch.nn.Module]:
        """One model each."""
        return {"cloud": self.far, "device": self.near}

    def cloud_side(self) -> Cloud:
        """Lists."""
        return Cloud({History: Lister(self.far, num_items=self.num_items, version=self.version)})

    def device_side(self) -> Reranker:
        """Reranks."""
        return Reranker(self.near, num_items=self.num_items, version=self.version)


class Plain(Pair):
    """The same computation with nothing between its halves."""

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """List, rerank, rank."""
        listed = self.far.recommend(batch, LISTED)
        return self.device_side().mixed(batch, *listed).target_ranks(batch)


def exchange(*, num_calls: int = 5000) -> Figure:
    """Microseconds of one exchange, with each of its parts."""
    items = np.arange(1, LISTED + 1, dtype=np.int32)
    question = History("0123456789abcdef", items, LISTED, repeats=False)
    listed = Candidates("0123456789ab", items, np.linspace(1, 0, LISTED, dtype=np.float32))
    gate = Gate(InProcess(Cloud({History: lambda asked: [listed for _ in asked]}).handle))
    user = np.zeros(1, dtype=np.int64)

    def across() -> object:
        ((arrival,),) = gate.exchange([encode(question)], user)
        return decode(arrival.frame)

    asked = encode(question)
    answer = encode(listed, answers=checksum(asked))
    parts = {
        "encode_question": lambda: encode(question),
        "decode_question": lambda: decode(asked),
        "encode_list": lambda: encode(listed),
        "decode_list": lambda: decode(answer),
    }
    value = _median_us(across, num_calls)
    versus = {name: round(_median_us(part, num_calls), 2) for name, part in parts.items()}
    sizes = {"bytes_up": len(asked), "bytes_down": len(answer)}
    return line("edge/exchange", value, "us", versus=versus, **sizes)


def _median_us(work: Any, num_calls: int) -> float:
    spent = []
    for _ in range(num_calls):
        start = time.perf_counter_ns()
        work()
        spent.append(time.perf_counter_ns() - start)
    return statistics.median(spent) / 1000


def evaluation(*, num_items: int) -> Figure:
    """A world like the demo's with a catalogue of the papers' size, through the boundary and without one."""
    data = InteractionData.of(demo(num_users=2000, num_items=num_items, index_seed=0))
    models: dict[str, Pair] = {"boundary": Pair(), "plain": Plain()}
    for model in models.values():
        torch.manual_seed(0)
        model.build(data.catalog)
    found = {name: evaluate(model, data).ranks for name, model in models.items()}
    assert np.array_equal(found["boundary"].rank, found["plain"].rank), "both compute the same"
    seconds = dict.fromkeys(models, float("inf"))
    for _ in range(10):  # in turns, so that whatever else the machine does meets both
        for name, model in models.items():
            start = time.process_time()
            evaluate(model, data)
            seconds[name] = min(seconds[name], time.process_time() - start)
    versus = {name: round(spent, 4) for name, spent in seconds.items()}
    users = len(found["plain"].rank)
    per_user = 1e6 * (seconds["boundary"] - seconds["plain"]) / users
    ratio = seconds["boundary"] / seconds["plain"]
    sizes = {"users": users, "items": num_items, "us_per_user": round(per_user, 1)}
    return line("edge/evaluation", ratio, "ratio", versus=versus, **sizes)


def main() -> None:
    """Print both figures."""
    torch.set_num_threads(1)
    runtime.keep_freed_memory()
    print(json.dumps(exchange()), flush=True)
    print(json.dumps(evaluation(num_items=12_000)), flush=True)


if __name__ == "__main__":
    main()
