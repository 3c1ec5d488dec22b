"""L3Rec's tables and claims, without training anything.

    python experiments/l3rec.py beauty [--results leaderboard/results] [--runs RUN ...]

What was trained apart comes from records. What is only another way of fusing the same local models comes from
run folders of L3Rec: every local model is asked once, then its list is fused in all ways, with all dampings,
and with the lists of the first 3, 5, 10, ... local models alone (anchors are chosen one after the other, so
those are the models of a run of 3, 5, 10, ...). A run of q models around anchors, and one of each control,
answer everything but the top-N claim, which needs records of `--data.num_negatives 99`.

Claims C1 to C7 are answered by paired bootstraps over users: "yes" or "no" where the 95 % interval of the
difference in NDCG@10 leaves 0 out, "not at this scale" where it does not, "not run" where something is
missing. Which of several settings speaks for a method is decided on validation.
U users, q local models.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from recbench import runs
from recbench.config import read
from recbench.evaluate import evaluate
from recbench.metrics import Difference, bootstrap_means, interval, per_user
from recbench.models.l3rec import L3Rec
from recbench.results import read_ranks, read_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.models.l3rec import LocalFusion
    from recbench.results import Run

Answer = Literal["yes", "no", "not at this scale", "not run"]
_WEAKEST: tuple[Answer, ...] = ("no", "not run", "not at this scale", "yes")  # of a claim's parts, it decides

SHOWN = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
SIZES = (3, 5, 10, 20, 40)
DAMPINGS = (0.0, 1.0, 5.0, 20.0, 60.0)
FUSIONS: dict[LocalFusion, str] = {
    "wrrf_lm": "wRRF(LLM)",
    "rrf": "RRF",
    "wrrf_cf": "wRRF(CF)",
    "count": "Count",
}  # best first, by Table 6
FULL, TOP_N = "loo-full", "top-n-99"
# HR@10 as printed in Tables 3 and 4, with item ids that leak
PAPER = {
    (FULL, "beauty"): {"L3Rec": 0.0837, "POD": 0.0688, "P5": 0.0659},
    (FULL, "sports"): {"L3Rec": 0.0646, "POD": 0.0576, "P5": 0.0361},
    (FULL, "toys"): {"L3Rec": 0.0767, "POD": 0.0742, "P5": 0.0709},
    (TOP_N, "beauty"): {"L3Rec": 0.2970, "L3Rec UI": 0.3012, "POD": 0.2670},
    (TOP_N, "sports"): {"L3Rec": 0.3088, "L3Rec UI": 0.3519, "POD": 0.2873},
    (TOP_N, "toys"): {"L3Rec": 0.2282, "L3Rec UI": 0.2185, "POD": 0.2082},
}


class Row(NamedTuple):
    """What one setting of a method gives, mean over its seeds.

    Args:
        method: its class.
        name: what tells it from other rows.
        protocol: under which it was evaluated.
        options: of the method.
        values: (U, 4) the metrics `SHOWN` of every user.
        validation: NDCG@10; NaN where it was not looked at.
        seconds: of training, by stage.
        source: the records, or the run that was fused anew.
    """

    method: str
    name: str
    protocol: str
    options: dict[str, Any]
    values: NDArray[np.float64]
    validation: float
    seconds: dict[str, float]
    source: str

    def metric(self, key: str) -> NDArray[np.float64]:
        """(U,) of every user."""
        return self.values[:, SHOWN.index(key)]

    @property
    def local_s(self) -> list[float]:
        """Seconds of each local model."""
        return [seconds for stage, seconds in self.seconds.items() if stage.startswith("local-")]

    @property
    def shared_s(self) -> float:
        """Seconds of what comes before them."""
        return sum(self.seconds.values()) - sum(self.local_s)


class Finding(NamedTuple):
    """The answer to a part of a claim, and what it rests on."""

    answer: Answer
    why: str


def better(one: Row | None, other: Row | None, what: str, key: str = "ndcg@10") -> Finding:
    """Whether the first is: the mean paired difference and its 95 % interval."""
    if one is None or other is None:
        return Finding("not run", what)
    mean, low, high = Difference.of(one.metric(key), other.metric(key))
    gain = mean / max(other.metric(key).mean(), 1e-12)
    said = f"{what}, {key} {mean:+.4f} ({low:+.4f} to {high:+.4f}), {gain:+.1%}"
    return Finding(_sign(low, high), f"{said}; {one.source} against {other.source}")


def _sign(low: float, high: float) -> Answer:
    return "yes" if low > 0 else "no" if high < 0 else "not at this scale"


def settled(findings: Iterable[Finding]) -> Answer:
    """A claim holds if all its parts do."""
    return min((finding.answer for finding in findings), key=_WEAKEST.index, default="not run")


def recorded(results: Path, data: str) -> list[Row]:
    """A row per setting that was measured on `data`; seeds of one setting are one row."""
    found = [
        run for run in read_runs(results) if (run.data, run.status, run.origin) == (data, "ok", "measured")
    ]

    def setting(run: Run) -> str:
        return json.dumps([run.protocol, run.model, run.config | {"seed": 0}], sort_keys=True)

    ordered = sorted(found, key=lambda run: (setting(run), run.seed or 0))
    return [_row(results, list(seeds)) for _, seeds in groupby(ordered, key=setting)]


def _row(results: Path, seeds: list[Run]) -> Row:
    first = seeds[0]
    model = first.config["model"]
    kind, options = model["class_path"].rpartition(".")[2], model.get("init_args", {})
    stored = [read_ranks(results / f"{run.key}.json", run.ranks_sha256)[1] for run in seeds]
    return Row(
        kind,
        _name(options) if kind == "L3Rec" else first.model,
        first.protocol,
        options,
        np.mean([per_user(ranks, SHOWN) for ranks in stored], axis=0),
        float(np.mean([run.validation["ndcg@10"] for run in seeds])),
        {stage: float(np.mean([run.stages[stage].train_s for run in seeds])) for stage in first.stages},
        ", ".join(run.key for run in seeds),
    )


def _name(options: dict[str, Any]) -> str:
    """What sets one L3Rec apart."""
    variant = " UI" if options["local_items"] else ""
    warm = ", warm start" if options["warm_start"] else ""
    fusion = f"{FUSIONS[options['fusion']]}, k {options['damping']:g}"
    return f"L3Rec{variant}, q {options['num_locals']}, {options['communities']}, {fusion}{warm}"


class Trained:
    """A trained L3Rec whose local models are asked once and fused again and again.

    Args:
        model: trained.
        data: its data.
        options: of the model.
        source: which run it is.
    """

    def __init__(self, model: L3Rec, data: InteractionData, options: dict[str, Any], source: str) -> None:
        self.model, self.data, self.options, self.source = model, data, options, source
        self.protocol = "-".join(filter(None, (data.protocol, model.track)))
        self._weights = model.weights.clone()
        if not model.skill.any():
            model.note_skill(data)
        plain = model.lists
        known: dict[bytes, Tensor] = {}

        def lists(batch: SequenceBatch, length: int) -> Tensor:
            key = batch.users.numpy().tobytes() + batch.history.numpy().tobytes()
            if key not in known:
                known[key] = plain(batch, length)
            return known[key]

        model.lists = lists  # type: ignore[method-assign]

    def fused(
        self, fusion: LocalFusion = "rrf", damping: float = 0.0, *, num_locals: int | None = None
    ) -> Row:
        """The same local models, or the first `num_locals` of them, fused in another way."""
        num_locals = num_locals or self.model.num_locals
        self.model.fusion, self.model.damping = fusion, damping
        self.model.weights.copy_(self._weights)
        self.model.weights[:, num_locals:] = 0
        found = evaluate(self.model, self.data)
        options = self.options | {"fusion": fusion, "damping": damping, "num_locals": num_locals}
        values = per_user(found.ranks, SHOWN)[np.argsort(found.users)]
        return Row(
            "L3Rec", _name(options), self.protocol, options, values, np.nan, {}, f"{self.source}, fused"
        )


def load(folder: Path) -> Trained:
    """A run folder.

    Raises:
        SystemExit: its method is another.
    """
    model, data = runs.restore(folder)
    if not isinstance(model, L3Rec):
        raise SystemExit(f"{folder}: a run of {type(model).__name__}; give runs of L3Rec")
    return Trained(model, data, read(folder / "config.yaml")["model"]["init_args"], folder.name)


class Rows:
    """All rows, and how to find one.

    Args:
        rows: those of records first.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def strongest(self, method: str, protocol: str, **options: Any) -> Row | None:
        """The row of `method` with these options that is best on validation; of any but ours where empty."""
        found = [
            row
            for row in self.rows
            if row.protocol == protocol
            and (row.method == method if method else row.method not in ("L3Rec", "POD"))
            and not np.isnan(row.validation)
            and all(row.options[name] == value for name, value in options.items())
        ]
        return max(found, key=lambda row: row.validation, default=None)

    def like(self, row: Row | None, **options: Any) -> Row | None:
        """The row that differs from `row` in these options alone."""
        if row is None:
            return None
        wanted = row.options | options
        same = (
            other
            for other in self.rows
            if (other.method, other.protocol, other.options) == (row.method, row.protocol, wanted)
        )
        return next(same, None)


def size_rows(trained: Trained) -> list[Row]:
    """The first 3, 5, 10, ... local models, and all."""
    q = trained.model.num_locals
    return [trained.fused(num_locals=size) for size in sorted({size for size in SIZES if size < q} | {q})]


def fusion_rows(trained: Trained) -> list[Row]:
    """Table 6 and Fig. 5: every way of fusing with every damping; counting has none."""
    return [
        trained.fused(fusion, damping)
        for fusion in FUSIONS
        for damping in (DAMPINGS if fusion != "count" else DAMPINGS[:1])
    ]


def table(title: str, rows: Sequence[Row], data: str) -> Iterator[str]:
    """Markdown, best last; the paper's HR@10 where it has the row."""
    yield f"\n### {title}\n"
    heads = (
        "method",
        *SHOWN,
        "s before",
        "s of local models, serial",
        "parallel",
        "HR@10 in the paper",
        "from",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in sorted(rows, key=lambda row: float(row.metric("ndcg@10").mean())):
        low, high = interval(bootstrap_means(row.values))
        means = [
            f"{mean:.4f} ({lowest:.4f} to {highest:.4f})"
            for mean, lowest, highest in zip(row.values.mean(0), low, high, strict=True)
        ]
        times = [f"{seconds:,.0f}" if seconds else "" for seconds in _times(row)]
        printed = PAPER.get((row.protocol.removesuffix("-leaky"), data), {}).get(_in_paper(row))
        cells = (row.name, *means, *times, "" if printed is None else f"{printed:.4f}", row.source)
        yield f"| {' | '.join(cells)} |"


def _times(row: Row) -> tuple[float, float, float]:
    """Seconds before the local models, of them one after the other, and of the longest."""
    return row.shared_s, sum(row.local_s), max(row.local_s, default=0.0)


def _in_paper(row: Row) -> str:
    """Under which name the paper has this row."""
    if row.method != "L3Rec":
        return row.method
    wanted = {"num_locals": 10, "communities": "anchors", "fusion": "rrf", "damping": 0.0}
    if any(row.options[name] != value for name, value in wanted.items()):
        return ""
    return "L3Rec UI" if row.options["local_items"] else "L3Rec"


def seconds_of_locals(rows: Sequence[Row]) -> Iterator[str]:
    """Training seconds of each local model, by record."""
    yield "\n### Training seconds of each local model\n"
    for row in rows:
        if row.local_s:
            each = ", ".join(f"{seconds:,.0f}" for seconds in row.local_s)
            total = f"serial {sum(row.local_s):,.0f}, longest {max(row.local_s):,.0f}"
            yield f"- {row.name} ({row.source}): {each}; {total}"


def claims(rows: Rows, fused: Rows, *, protocol: str = FULL) -> dict[str, list[Finding]]:
    """C1 to C7, each with its parts.

    Args:
        rows: of records, and those of runs with fewer local models.
        fused: one run in all ways of fusing.
        protocol: of all but the top-N claim.
    """
    ours = rows.strongest("L3Rec", protocol, communities="anchors", local_items=False, fusion="rrf")
    pod, others = rows.strongest("POD", protocol), rows.strongest("", protocol)
    three, five, ten, twenty, forty = (rows.like(ours, num_locals=size) for size in (3, 5, 10, 20, 40))
    return {
        "C1 L3Rec beats POD and all baselines": [
            better(ours, pod, "L3Rec > POD"),
            better(ours, others, f"L3Rec > the strongest other, {others.name if others else 'none'}"),
        ],
        "C2 UI beats U beats POD in top-N": _top_n(rows),
        "C3 less training time than POD": [_faster(ours, pod)],
        "C4 wRRF(LLM) > RRF > wRRF(CF) > Count": _fusions(fused),
        "C5 more local models help": [
            better(five, three, "5 > 3 local models"),
            better(ten, five, "10 > 5"),
        ],
        "C5 and there is a plateau past 20": [_plateau(twenty, forty)],
        "C6 damping 0 is best": [
            better(_way(fused, "rrf", 0.0), _way(fused, "rrf", damping), f"k 0 > k {damping:g}")
            for damping in DAMPINGS[1:]
        ],
        "C6 and RRF is steadier than wRRF": [
            steadier(fused, "rrf", other) for other in ("wrrf_cf", "wrrf_lm")
        ],
        "C7 locality matters beyond an ensemble of equal cost": _locality(rows, ours),
    }


def _top_n(rows: Rows) -> list[Finding]:
    wide = rows.strongest("L3Rec", TOP_N, communities="anchors", local_items=False)
    narrow = rows.strongest("L3Rec", TOP_N, communities="anchors", local_items=True)
    return [better(narrow, wide, "UI > U"), better(wide, rows.strongest("POD", TOP_N), "U > POD")]


def _faster(ours: Row | None, pod: Row | None) -> Finding:
    if ours is None or pod is None or not ours.local_s:
        return Finding("not run", "seconds of L3Rec and of POD")
    before, serial, longest = _times(ours)
    alone = sum(pod.seconds.values())
    said = f"{before + longest:,.0f} s with a machine per local model, {before + serial:,.0f} s with one"
    verdict: Answer = "yes" if before + longest < alone else "no"
    return Finding(verdict, f"{said}, POD {alone:,.0f} s; {ours.source} against {pod.source}")


def _way(fused: Rows, fusion: str, damping: float) -> Row | None:
    same = (row for row in fused.rows if (row.options["fusion"], row.options["damping"]) == (fusion, damping))
    return next(same, None)


def _fusions(fused: Rows) -> list[Finding]:
    names = list(FUSIONS)
    return [
        better(_way(fused, one, 0.0), _way(fused, other, 0.0), f"{FUSIONS[one]} > {FUSIONS[other]}")
        for one, other in pairwise(names)
    ]


def _plateau(twenty: Row | None, forty: Row | None) -> Finding:
    """Whether the interval of what 40 add to 20 stays within 1 % of what 20 have."""
    if twenty is None or forty is None:
        return Finding("not run", "20 and 40 local models")
    pairs = forty.metric("ndcg@10") - twenty.metric("ndcg@10")
    low, high = (float(bound[0]) for bound in interval(bootstrap_means(pairs[:, None])))
    least = 0.01 * twenty.metric("ndcg@10").mean()
    verdict: Answer = "no" if low > least else "yes" if high < least else "not at this scale"
    return Finding(verdict, f"40 - 20 local models, ndcg@10 {pairs.mean():+.4f} ({low:+.4f} to {high:+.4f})")


def steadier(fused: Rows, one: LocalFusion, other: LocalFusion) -> Finding:
    """Whether NDCG@10 of the first way of fusing spreads less over the dampings."""
    what = f"spread over k of {FUSIONS[one]} < that of {FUSIONS[other]}"
    ways = [[_way(fused, fusion, damping) for damping in DAMPINGS] for fusion in (one, other)]
    columns = [row.metric("ndcg@10") for rows in ways for row in rows if row is not None]
    if len(columns) < 2 * len(DAMPINGS):
        return Finding("not run", what)
    values = np.stack(columns, axis=1)
    first, second = np.split(np.concatenate([values.mean(0)[None], bootstrap_means(values)]), 2, axis=1)
    wider = np.ptp(second, axis=1) - np.ptp(first, axis=1)
    low, high = (float(bound[0]) for bound in interval(wider[1:, None]))
    return Finding(_sign(low, high), f"{what}, by {wider[0]:+.5f} ({low:+.5f} to {high:+.5f})")


def _locality(rows: Rows, ours: Row | None) -> list[Finding]:
    """Anchors against both controls, for every number of local models that has them."""
    found = []
    for size in SIZES:
        own = rows.like(ours, num_locals=size)
        for control in ("everyone", "random"):
            other = rows.like(ours, num_locals=size, communities=control)
            if own is not None and other is not None:
                found.append(better(own, other, f"q {size}, anchors > {control}"))
    return found or [Finding("not run", "anchors beside everyone and random, all else equal")]


def report(
    records: Sequence[Row], trained: Sequence[Trained], data: str, *, protocol: str = FULL
) -> Iterator[str]:
    """All tables and answers, line by line.

    Args:
        records: of the data set.
        trained: runs of L3Rec on it; the first is fused in all ways.
        data: its name.
        protocol: of the claims.
    """
    ours = [row for row in records if row.method in ("L3Rec", "POD", "P5", "MultVAE")]
    sized = [row for one in trained for row in size_rows(one)]
    fused = [row for one in trained[:1] for row in fusion_rows(one)]
    yield f"## L3Rec on {data}"
    for protocol in sorted({row.protocol for row in ours}):
        under = [row for row in ours if row.protocol == protocol]
        strong = Rows(records).strongest("", protocol)
        if strong is not None and all(strong is not row for row in under):
            under.append(strong)
        yield from table(f"{protocol}, {len(under[0].values):,} users", under, data)
    yield from seconds_of_locals(ours)
    if sized:
        yield from table("The first local models of one run", sized, data)
        yield from table("Ways of fusing the same lists (Table 6, Fig. 5)", fused, data)
    yield f"\n### Claims, {protocol}\n"
    for claim, findings in claims(Rows([*records, *sized]), Rows(fused), protocol=protocol).items():
        yield f"- **{claim}**: {settled(findings)}"
        yield from (f"  - {finding.answer}: {finding.why}" for finding in findings)


def main() -> None:
    """Print the report of a data set."""
    parser = argparse.ArgumentParser(description="L3Rec's tables and claims, from records and runs.")
    parser.add_argument("data", help="data set of the records, such as beauty")
    parser.add_argument("--results", type=Path, default=Path("leaderboard/results"), help="records")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="run folders of L3Rec")
    parser.add_argument("--protocol", default=FULL, help=f"of the claims, such as {FULL}-leaky")
    asked = parser.parse_args()
    records, trained = recorded(asked.results, asked.data), [load(folder) for folder in asked.runs]
    for line in report(records, trained, asked.data, protocol=asked.protocol):
        print(line, flush=True)


if __name__ == "__main__":
    main()
