"""What a model of one's own is worth: DUET and DCCL beside the base model that they stand on.

    python experiments/personal.py RUN [RUN ...]

Every run is taken apart without training anything: its base as it was trained for all, before any device had
weights of its own; its base as the method left it; the device without a cloud, where it has anything of its
own; and the method as it is meant. Runs over the same users are compared among one another, such as DCCL with
its plain fine-tuning on the device (`dccl_finetune`). Answers are paired bootstraps over users. U users.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from traffic import crossed, pair, times

from recbench import checkpoint, config, runs
from recbench.edge.policy import Always, Never
from recbench.evaluate import evaluate
from recbench.metrics import Difference, per_user
from recbench.models.collaborative import Boundary
from recbench.models.dccl import DCCL
from recbench.models.duet import DUET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender

SHOWN = ("hr@5", "hr@10", "ndcg@10")
TITLES = ("method", "view", *SHOWN, "device ms p50 / p95", "cloud ms p50 / p95", "bytes up / down")
BASE, NOW, ALONE, WHOLE = "base, for all", "base, as it was left", "device alone", "with the cloud"


class Row(NamedTuple):
    """What one view gives.

    Args:
        method: name of the run.
        view: of what.
        users: (U,) who was asked for.
        values: (U, 3) the metrics `SHOWN` of every user.
        costs: cells of the table.
    """

    method: str
    view: str
    users: NDArray[np.int64]
    values: NDArray[np.float64]
    costs: tuple[str, str, str]

    @property
    def name(self) -> str:
        """Method and view."""
        return f"{self.method}, {self.view}"

    def as_markdown(self) -> str:
        """One row of the table."""
        means = [f"{value:.4f}" for value in self.values.mean(axis=0)]
        return f"| {' | '.join((self.method, self.view, *means, *self.costs))} |"


def views(
    name: str, model: DUET | DCCL, data: InteractionData, stages: Path, *, num_calls: int = 300
) -> list[Row]:
    """Those of one run.

    Args:
        name: of the run.
        model: trained.
        data: its data.
        stages: folder of its stages' checkpoints.
        num_calls: requests that are timed.
    """
    first = copy.deepcopy(model.base)
    first.load_state_dict(checkpoint.load(stages / "base-train.ckpt")["weights"])
    found = [row(name, BASE, first, data, num_calls), row(name, NOW, model.base, data, num_calls)]
    if isinstance(model, DCCL):  # a device of DUET has nothing of its own
        model.cross(Boundary(policy=Never()))
        found.append(row(name, ALONE, model, data, num_calls))
    if not isinstance(model, DCCL) or model.rank:
        model.cross(Boundary(policy=Always()))
        found.append(row(name, WHOLE, model, data, num_calls))
    return found


def row(name: str, view: str, model: Recommender, data: InteractionData, num_calls: int) -> Row:
    """Of a model as it is."""
    spent = times(model, data, num_calls=num_calls)
    found = evaluate(model, data)
    size = " / ".join(f"{number:,.0f}" for number in crossed(found))
    costs = (pair(spent.get("device")), pair(spent.get("cloud")), size)
    return Row(name, view, found.users, per_user(found.ranks, SHOWN), costs)


def answers(found: Sequence[Row]) -> Iterator[str]:
    """Which is better, among the views of a run and among what different runs of the same users end at."""
    for one in found:
        for other in found:
            if one.method == other.method and other.view == BASE and one.view != BASE:
                yield difference(one, other)
    ends = [list(own)[-1] for _, own in itertools.groupby(found, key=lambda one: one.method)]
    for one, other in itertools.combinations(ends, 2):
        if np.array_equal(one.users, other.users):
            yield difference(one, other)


def difference(better: Row, worse: Row) -> str:
    """Whether the first is better by NDCG@10."""
    paired = Difference.of(better.values[:, -1], worse.values[:, -1])
    return f"- {better.name} > {worse.name}: {paired}"


def report(found: Sequence[Row]) -> Iterator[str]:
    """The table, and the answers by NDCG@10."""
    yield f"| {' | '.join(TITLES)} |"
    yield "|---" * len(TITLES) + "|"
    yield from (one.as_markdown() for one in found)
    yield "\nNDCG@10, means of paired differences and their 95 % intervals:\n"
    yield from answers(found)


def main() -> None:
    """Print the report of the runs named."""
    parser = argparse.ArgumentParser(description="DUET and DCCL beside the base they stand on.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of DUET or DCCL")
    torch.manual_seed(0)
    found: list[Row] = []
    for folder in parser.parse_args().runs:
        model, data = runs.restore(folder)
        if not isinstance(model, (DUET, DCCL)):
            parser.error(f"{folder} is a run of {type(model).__name__}, neither of DUET nor of DCCL")
        name = config.read(folder / "config.yaml").get("name") or folder.name
        found += views(name, model, data, folder / "stages")
    for line in report(found):
        print(line, flush=True)


if __name__ == "__main__":
    main()
