"""LSC4Rec's tables from trained runs, without training anything: our figures beside the paper's.

    python experiments/lsc4rec.py RUN [RUN ...]

The first run folder is taken apart: every view is the same weights behind another boundary, with another
share of the cloud, a list of another length, or the device as some stage of training left it. Further runs
(another cloud, another device, a stage left out) answer what needs training. Claims L1 to L10 of the paper
are answered by paired bootstraps over users: "yes" or "no" where the 95 % interval of the difference leaves 0
out. What a policy is chosen by comes from validation; the oracle alone looks at the test targets, and is no
method.
U users.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from probing import Probe
from remembering import remember

from recbench import checkpoint, runs
from recbench.edge.policy import Always, Never, Policy, RandomBudget, State, Threshold, threshold_at
from recbench.evaluate import evaluate, request_latency
from recbench.metrics import Difference, per_user
from recbench.models.collaborative import Boundary
from recbench.models.lsc4rec import LSC4Rec
from recbench.models.on_lists import Asked
from recbench.nn.list_fusion import shares

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from recbench.data.module import InteractionData, Split
    from recbench.models.base import Recommender

BUDGETS = (0.05, 0.1, 0.2, 0.4)
LENGTHS = (20, 50)
SHOWN = ("hr@5", "hr@10", "hr@20", "ndcg@10")
LAG = 2
NEAR, NOW = Boundary(policy=Never(), lag=LAG), Boundary(policy=Always(), lag=-1)
# HR@10 as printed, Tables 1 and 4 to 7; those of the small model near real time contradict its precision
PAPER = {
    "beauty": {
        "cloud, real time": 0.0400,
        "cloud, near real time": 0.0200,
        "device, real time": 0.0207,
        "device, near real time": 0.0033,
        "LSC4Rec": 0.0248,
        "reranked only": 0.0238,
        "stage device": 0.0204,
        "stage cooperate": 0.0216,
        "adapted only": 0.0236,
        "stage adapt": 0.0248,
        "lists of 20": 0.0238,
        "lists of 50": 0.0248,
        "random 5%": 0.0209,
        "random 10%": 0.0219,
        "random 20%": 0.0227,
        "random 40%": 0.0274,
        "inconsistency 5%": 0.0240,
        "inconsistency 10%": 0.0254,
        "inconsistency 20%": 0.0263,
        "inconsistency 40%": 0.0305,
    },
    "toys": {
        "cloud, real time": 0.0291,
        "cloud, near real time": 0.0133,
        "device, real time": 0.0148,
        "device, near real time": 0.0030,
        "LSC4Rec": 0.0158,
        "reranked only": 0.0138,
        "stage device": 0.0130,
        "stage cooperate": 0.0136,
        "adapted only": 0.0146,
        "stage adapt": 0.0158,
        "lists of 20": 0.0148,
        "lists of 50": 0.0158,
    },
    "yelp": {
        "cloud, real time": 0.0382,
        "cloud, near real time": 0.0196,
        "device, real time": 0.0159,
        "device, near real time": 0.0044,
        "LSC4Rec": 0.0213,
        "reranked only": 0.0205,
        "stage device": 0.0173,
        "stage cooperate": 0.0202,
        "adapted only": 0.0209,
        "stage adapt": 0.0213,
        "lists of 20": 0.0214,
        "lists of 50": 0.0213,
    },
}


class Row(NamedTuple):
    """What one view of a method gives.

    Args:
        name: of the view.
        values: (U, 4) the metrics `SHOWN` of every user.
        asked: share of the requests that went to the cloud.
        listed: share of the targets that have a rank.
        alpha: share of the cloud in the fusion, NaN where there is none.
    """

    name: str
    values: NDArray[np.float64]
    asked: float = 0.0
    listed: float = 1.0
    alpha: float = float("nan")

    def metric(self, key: str) -> NDArray[np.float64]:
        """(U,) of every user."""
        return self.values[:, SHOWN.index(key)]


class Chosen(Policy):
    """Asks for certain users.

    Args:
        users: these.
    """

    def __init__(self, users: NDArray[np.int64]) -> None:
        self.users = users

    def decide(self, state: State) -> NDArray[np.bool_]:
        """By who it is."""
        return np.isin(state.users, self.users)


@dataclass
class Views:
    """One trained method under all conditions.

    Args:
        model: trained.
        data: its data.
        stages: folder of its stages' checkpoints.
    """

    model: LSC4Rec
    data: InteractionData
    stages: Path

    def __post_init__(self) -> None:
        self.length, self.chosen = self.model.num_listed, float(self.model.alpha)

    def view(
        self,
        name: str,
        boundary: Boundary = NEAR,
        *,
        alpha: float | None = None,
        split: Split = "test",
    ) -> Row:
        """The method as it is, behind `boundary`; `alpha` if not the one that was chosen in training."""
        alpha = self.chosen if alpha is None else alpha
        self.model.alpha.fill_(alpha)
        self.model.cross(boundary)
        found = evaluate(self.model, self.data, split=split)
        asked = found.usage["exchanges"] / len(found.users)
        listed = float(np.isfinite(found.ranks.rank).mean())
        return Row(name, per_user(found.ranks, SHOWN), asked, listed, alpha)

    def alone(self, name: str, model: Recommender) -> Row:
        """A part of the method on its own, over all items."""
        return Row(name, per_user(evaluate(model, self.data).ranks, SHOWN))

    def best_share(self) -> float:
        """The share of the cloud with the highest NDCG@10 on validation, for model and length as they are."""
        tried = shares(self.model.fusion)
        found = [self.view("", alpha=alpha, split="validation").metric("ndcg@10").mean() for alpha in tried]
        return tried[int(np.argmax(found))]

    def threshold(self, budget: float) -> float:
        """By the inconsistency of the validation requests."""
        probe = Probe()
        self.view("", Boundary(policy=probe, lag=LAG), split="validation")
        return threshold_at(np.concatenate(probe.scores), budget)

    def everyone(self) -> NDArray[np.int64]:
        """(U,) users in the order of the rows' values."""
        return evaluate(Asked(self.model.device_model, lag=0), self.data).users


def overall(views: Views) -> list[Row]:
    """Tables 1 and 5: who knows what, and what comes of it."""
    device = views.model.device_model
    return [
        views.view("cloud, real time", NOW, alpha=1.0),
        views.view("cloud, near real time", alpha=1.0),
        views.alone("device, real time", device),
        views.alone("device, near real time", Asked(device, lag=LAG)),
        views.view("reranked only", alpha=0.0),
        views.view("LSC4Rec"),
        views.view("LSC4Rec, always asking", NOW),
    ]


def training(views: Views) -> list[Row]:
    """Table 4: the device as each stage left it, each with the share of the cloud that suits it."""
    device = views.model.device_model
    final = {name: value.clone() for name, value in device.state_dict().items()}
    rows = []
    for name in ("device", "cooperate", "adapt"):
        file = views.stages / f"{name}.ckpt"
        if not checkpoint.exists(file):
            continue
        weights = checkpoint.load(file)["weights"]
        own = {key.removeprefix("model."): value for key, value in weights.items()}
        device.load_state_dict({key: own[key] for key in final})
        rows.append(views.view(f"stage {name}", alpha=views.best_share()))
    device.load_state_dict(final)
    return rows


def requests(views: Views, old: Row, fresh: Row) -> list[Row]:
    """Table 6: who asks, at equal budgets; `random` is the mean of all draws."""
    users, gain = views.everyone(), fresh.metric("ndcg@10") - old.metric("ndcg@10")
    order = np.argsort(-gain, kind="stable")
    worth = order[gain[order] > 0]
    rows = []
    for budget in BUDGETS:
        label = f"{budget:.0%}"
        policy = Threshold(threshold=views.threshold(budget))
        asking = views.view(f"inconsistency {label}", Boundary(policy=policy, lag=LAG))
        drawn = views.view(f"random {label}, a draw", Boundary(policy=RandomBudget(budget=budget), lag=LAG))
        best = Chosen(users[worth[: int(budget * len(users))]])
        oracle = views.view(f"oracle {label}", Boundary(policy=best, lag=LAG))
        rows += [by_chance(f"random {label}", old, fresh, asking.asked), drawn, asking, oracle]
    return rows


def by_chance(name: str, old: Row, fresh: Row, rate: float) -> Row:
    """What asking at random, as often as somebody else did, gives on average over all draws."""
    mixed = (1 - rate) * old.values + rate * fresh.values
    return Row(name, mixed, rate, (1 - rate) * old.listed + rate * fresh.listed, old.alpha)


def lengths(views: Views) -> list[Row]:
    """Table 7: lists of other lengths, each with the share of the cloud that suits it."""
    rows = []
    for length in LENGTHS:
        views.model.num_listed = length
        rows.append(views.view(f"lists of {length}", alpha=views.best_share()))
    views.model.num_listed = views.length
    return rows


def latencies(views: Views) -> dict[str, dict[str, float]]:
    """Median milliseconds of a request by side, with a kept list, and with the cloud asked every time."""
    found = {}
    views.model.alpha.fill_(views.chosen)
    for name, boundary in (("kept list", NEAR), ("always asking", NOW)):
        views.model.cross(boundary)
        sides = request_latency(views.model, views.data)
        found[name] = {side: latency.p50_ms for side, latency in sides.items() if side != "network"}
    alone = request_latency(views.model.device_model, views.data)
    return found | {"device alone": {side: latency.p50_ms for side, latency in alone.items()}}


def table(title: str, rows: Sequence[Row], data: str) -> Iterator[str]:
    """Markdown, the paper's HR@10 in the last column."""
    printed = PAPER.get(data.partition("-")[0], {})
    yield f"\n### {title}\n"
    yield f"| view | {' | '.join(SHOWN)} | listed | asked | cloud's share | HR@10 in the paper |"
    yield "|---" * (len(SHOWN) + 5) + "|"
    for row in rows:
        means = " | ".join(f"{value:.4f}" for value in row.values.mean(axis=0))
        share = "" if np.isnan(row.alpha) else f"{row.alpha:g}"
        paper = f"{printed[row.name]:.4f}" if row.name in printed else ""
        yield f"| {row.name} | {means} | {row.listed:.3f} | {row.asked:.3f} | {share} | {paper} |"


def compared(rows: dict[str, Row], better: str, worse: str, key: str = "ndcg@10") -> str:
    """One sentence of an answer."""
    missing = [name for name in (better, worse) if name not in rows]
    if missing:
        return f"{better} > {worse}: not answered, there is no view {missing[0]}"
    return f"{better} > {worse}, {key}: {Difference.of(rows[better].metric(key), rows[worse].metric(key))}"


def answers(rows: dict[str, Row]) -> Iterator[str]:
    """L1 to L3 and L6 to L9, from the views of one run."""
    claims = {
        "L1 near real time hurts both": [
            ("cloud, real time", "cloud, near real time"),
            ("device, real time", "device, near real time"),
        ],
        "L2 at equal data the cloud is better": [
            ("cloud, real time", "device, real time"),
            ("cloud, near real time", "device, near real time"),
        ],
        "L3 both are better than the cloud near real time": [("LSC4Rec", "cloud, near real time")],
        "L6 both stages > one > none": [
            ("stage adapt", "stage cooperate"),
            ("stage adapt", "adapted only"),
            ("stage cooperate", "stage device"),
            ("adapted only", "stage device"),
        ],
        "L7 fusion > reranking > cloud > device": [
            ("LSC4Rec", "reranked only"),
            ("reranked only", "cloud, near real time"),
            ("cloud, near real time", "device, near real time"),
            ("LSC4Rec", "device, real time"),  # what a strong device makes of all this
        ],
        "L8 inconsistency > random at equal rates": [
            (f"inconsistency {budget:.0%}", f"random {budget:.0%}") for budget in BUDGETS
        ],
    }
    for claim, pairs in claims.items():
        yield f"- **{claim}**"
        yield from (f"  - {compared(rows, better, worse)}" for better, worse in pairs)
    yield "- **L9 short lists at @5, long ones at @20**"
    yield f"  - {compared(rows, 'lists of 20', 'lists of 50', 'hr@5')}"
    yield f"  - {compared(rows, 'lists of 50', 'lists of 20', 'hr@20')}"


def beside(views: Views) -> Iterator[str]:
    """L4 and L5: one more run's gain over its own cloud."""
    cloud, device = (type(part).__name__ for part in (views.model.cloud, views.model.device_model))
    ours, theirs = views.view("LSC4Rec"), views.view("", alpha=1.0)
    gain = Difference.of(ours.metric("ndcg@10"), theirs.metric("ndcg@10"))
    hit = ours.metric("hr@10").mean()
    stages = f"cooperates {views.model.cooperates}, adapts {views.model.adapts}"
    yield f"  - {cloud} and {device}, {stages}: HR@10 {hit:.4f}; better than its cloud, ndcg@10: {gain}"


def adapted_only(others: Sequence[Views]) -> list[Row]:
    """Table 4's third row, from a run whose device never learnt lists."""
    found = [views for views in others if views.model.adapts and not views.model.cooperates]
    return [views.view("adapted only") for views in found[:1]]


def report(views: Views, others: Sequence[Views] = ()) -> Iterator[str]:
    """All tables and answers, line by line.

    Args:
        views: of the run that is taken apart.
        others: of the same data.
    """
    name, costs = views.data.prepared.name, latencies(views)
    for one in (views, *others):
        remember(one.model)
    first = overall(views)
    found = {row.name: row for row in first}
    later = {
        "Stages of training (Table 4)": training(views) + adapted_only(others),
        "Requests (Table 6)": requests(views, found["LSC4Rec"], found["LSC4Rec, always asking"]),
        "Length of the list (Table 7)": lengths(views),
    }
    yield f"## LSC4Rec on {name}, {len(first[0].values):,} users"
    yield from table("Real time and near real time (Tables 1 and 5)", first, name)
    for title, rows in later.items():
        yield from table(title, rows, name)
        found |= {row.name: row for row in rows}
    yield "\n### Claims\n"
    yield from answers(found)
    yield "- **L4, L5 with other clouds and devices**"
    for one in (views, *others):
        yield from beside(one)
    yield "- **L10 cheaper than the cloud, little more than the device**: median ms of a request"
    yield from (f"  - {how}: {sides}" for how, sides in costs.items())


def load(folder: Path) -> Views:
    """A run folder.

    Raises:
        SystemExit: its method is another.
    """
    model, data = runs.restore(folder)
    if not isinstance(model, LSC4Rec):
        raise SystemExit(f"{folder}: a run of {type(model).__name__}; give runs of LSC4Rec")
    return Views(model, data, folder / "stages")


def main() -> None:
    """Print the report of the runs named."""
    parser = argparse.ArgumentParser(description="LSC4Rec's tables from trained runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, the one to be taken apart first")
    first, *others = (load(folder) for folder in parser.parse_args().runs)
    torch.manual_seed(0)
    for line in report(first, others):
        print(line, flush=True)


if __name__ == "__main__":
    main()
