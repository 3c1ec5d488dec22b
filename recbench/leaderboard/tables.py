"""Rows -> tables: which columns, in which words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from recbench.leaderboard.cells import NEVER, Cell, Section, Table, duration, estimate, number, size
from recbench.leaderboard.rows import DETAIL, RANKED
from recbench.results import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from recbench.leaderboard.cited import Citation

Row = dict[str, Any]

PROTOCOLS = {
    "loo-full": "leave-one-out by time, all items ranked",
    "loo-full-leaky": "leave-one-out by time, all items ranked; the items' ids tell the targets",
    "loo-5km": "leave-one-out by time, places within 5 km of the last check-in ranked",
    "loo-5km-target": "leave-one-out by time, places within 5 km of the target ranked",
    "top-n-99": "leave-one-out by time, ranked among 99 random items that the user never took",
    "time-full": "cut at one moment for all users, all items ranked",
    "loo-full-lag2": "leave-one-out by time, all items ranked, the cloud lacks the two newest interactions",
}
TITLES = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR", "precision": "Precision"}
LATENCY, TRAFFIC = "ms p50 / p95", "bytes up / down"
FRONT = ("#", "model", "seeds", "HR@10", "NDCG@10", LATENCY, TRAFFIC, "training")


def sections(tables: list[pl.DataFrame], citations: list[Citation]) -> list[Section]:
    """One section per data set in alphabetical order: measured tables first, what others report last."""
    found: dict[str, Section] = {}
    for table in tables:
        data = table["data"][0]
        found.setdefault(data, Section(data)).tables.extend(_measured(table.to_dicts()))
    ours = _best_hits(tables)
    for data, of_data in groupby(sorted(citations, key=_reading_order), key=lambda row: row.data):
        found.setdefault(data, Section(data)).tables.append(_cited(list(of_data), ours))
    return [found[data] for data in sorted(found)]


def summary(found: list[Section]) -> list[tuple[str, Table]]:
    """For a front page: of each data set the main figures under the standard protocol."""
    return [
        (section.data, table.select(*FRONT))
        for section in found
        for table in section.tables
        if table.caption.startswith(f"`{PROTOCOL}`") and not table.is_detail
    ]


def _measured(rows: list[Row]) -> list[Table]:
    """The main table of one data set and protocol, and its details."""
    names = _names(rows)
    main = [[_place(row), name, *_main(row)] for row, name in zip(rows, names, strict=True)]
    detail = [[name, *_detail(row)] for row, name in zip(rows, names, strict=True) if row["num_seeds"]]
    costs = (LATENCY, TRAFFIC, "training", "parameters", "note")
    more = ("NDCG@10 sd over seeds", "served by", "evaluation users/s", "machine", "records")
    tables = [Table(_caption(rows[0]), ("#", "model", "seeds", *map(_title, RANKED), *costs), main)]
    if detail:
        columns = ("model", *map(_title, DETAIL), *more)
        tables.append(Table("Further metrics and provenance", columns, detail, is_detail=True))
    return tables


def _caption(row: Row) -> str:
    """What all rows of a table share."""
    protocol = PROTOCOLS.get(row["protocol"])
    users = f"{row['num_users']:,} users" if row["num_users"] else None
    parts = (protocol, users, f"data `{row['fingerprint'][:8]}`")
    return f"`{row['protocol']}`: {'; '.join(part for part in parts if part)}"


def _title(key: str) -> str:
    name, _, k = key.partition("@")
    return f"{TITLES[name]}@{k}"


def _names(rows: list[Row]) -> list[Cell]:
    """Model names; of several configurations of one model all but the first say how they differ from it."""
    names = [row["model"] for row in rows]
    for model, count in Counter(names).items():
        if count > 1:
            places = [place for place, row in enumerate(rows) if row["model"] == model]
            labels = variants([json.loads(rows[place]["recipe"]) for place in places])
            for place, label in zip(places, labels, strict=True):
                names[place] = f"{model} ({label})" if label else model
    return [Cell(name) for name in names]


def variants(configs: list[dict[str, Any]]) -> list[str]:
    """What each of `configs` has otherwise than the first one: `key=value, ...`; the first has no label.

    A setting that only some have, such as one unknown to older records, is named only where nothing else
    tells them apart.
    """
    first, *others = (dict(_leaves(config)) for config in configs)
    labels = _labels(others, [_changed(first, config, both=True) for config in others])
    if len({"", *labels}) < len(configs):
        labels = _labels(others, [_changed(first, config, both=False) for config in others])
    return ["", *labels]


def _changed(first: dict[str, Any], config: dict[str, Any], *, both: bool) -> list[str]:
    """Settings of another value than the first one's; with `both` only those that both have."""
    keys = first.keys() & config.keys() if both else first.keys() | config.keys()
    return sorted(key for key in keys if repr(first.get(key)) != repr(config.get(key)))


def _labels(configs: list[dict[str, Any]], changed: list[list[str]]) -> list[str]:
    """`key=value, ...` of each, keys by their last word where that is clear."""
    last = {key: key.rpartition(".")[2] for keys in changed for key in keys}
    shared = Counter(last.values())
    shown = {key: key if shared[name] > 1 else name for key, name in last.items()}
    return [
        ", ".join(f"{shown[key]}={config[key]}" if key in config else f"no {shown[key]}" for key in keys)
        for config, keys in zip(configs, changed, strict=True)
    ]


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _place(row: Row) -> Cell:
    return number(row["place"], "{}")


def _main(row: Row) -> list[Cell]:
    """Seeds, ranked metrics, costs, note."""
    metrics = [
        replace(
            _metric(row, key),
            is_best=row[f"{key} best"],
            is_tied=row[f"{key} tied"],
        )
        for key in RANKED
    ]
    return [
        number(row["num_seeds"] or None, "{}"),
        *metrics,
        _latency(row),
        _traffic(row),
        duration(row["train_s"]),
        size(row["parameters"]),
        _note(row),
    ]


def _detail(row: Row) -> list[Cell]:
    """Further metrics, spread over seeds, and where the figures come from."""
    links = [(f"seed {seed}", record) for seed, record in zip(row["seeds"], row["records"], strict=True)]
    return [
        *(_metric(row, key) for key in DETAIL),
        number(row["ndcg@10 sd"], "{:.4f}"),
        _served(row),
        number(row["users_per_s"], "{:,.0f}"),
        Cell(row["machine"] or NEVER),
        Cell(links=tuple(links)),
    ]


def _metric(row: Row, key: str) -> Cell:
    return estimate(row[key], row[f"{key} low"], row[f"{key} high"])


def _latency(row: Row) -> Cell:
    """p50 / p95 of each side that takes part; named where there are several.

    A network that was modelled as taking no time is left out.
    """
    sides = [
        name.removesuffix(" p50_ms") for name in row if name.endswith(" p50_ms") and row[name] is not None
    ]
    sides = [side for side in sides if side != "network" or row["network p95_ms"] > 0]
    if not sides:
        return Cell()
    times = [f"{row[f'{side} p50_ms']:.2f} / {row[f'{side} p95_ms']:.2f}" for side in sides]
    named = [f"{side} {time}" for side, time in zip(sides, times, strict=True)] if len(sides) > 1 else times
    return Cell(", ".join(named), row[f"{sides[0]} p50_ms"])


def _traffic(row: Row) -> Cell:
    """What a request sends to the cloud and gets from it, where there is one."""
    if row["bytes_up"] is None or row["bytes_down"] is None:
        return Cell()
    up, down = row["bytes_up"], row["bytes_down"]
    return Cell(f"{up:,.0f} / {down:,.0f}", up + down)


def _served(row: Row) -> Cell:
    """By whose word requests were answered, where there are two sides."""
    shares = {
        name.removeprefix("served "): share
        for name, share in row.items()
        if name.startswith("served ") and share is not None
    }
    return Cell(", ".join(f"{word} {share:.1%}" for word, share in shares.items()) or NEVER)


def _note(row: Row) -> Cell:
    """The gate's verdict, seeds that did not finish, and the records' own notes."""
    tried = row["num_seeds"] + len(row["broken"])
    broken: Counter[str] = Counter(row["broken"])
    of_all = f"{{}} of {tried} seeds " if tried > 1 else ""
    failures = [of_all.format(count) + status for status, count in sorted(broken.items())]
    return Cell("; ".join(part for part in (row["gate"], *failures, row["note"]) if part))


def _reading_order(row: Citation) -> tuple[Any, ...]:
    """By data set, best first; the rest only makes the order unique."""
    return row.data, -row.metrics.get("hr@10", 0.0), row.model, row.variant, row.source


def _best_hits(tables: list[pl.DataFrame]) -> dict[tuple[str, str, str], float]:
    """Our best HR@10 by data set, protocol and model."""
    best: dict[tuple[str, str, str], float] = {}
    for table in tables:
        for row in table.filter(pl.col("num_seeds") > 0).to_dicts():
            key = row["data"], row["protocol"], row["model"]
            best[key] = max(row["hr@10"], best.get(key, 0.0))
    return best


def _cited(citations: list[Citation], ours: dict[tuple[str, str, str], float]) -> Table:
    """What others report on one data set, with our figure of the same method beside it."""
    caption = "Reported by others (`origin=cited`): not measured here, not ranked"
    columns = ("model", "protocol", *map(_title, RANKED), "our best HR@10", "gap", "source", "note")
    rows = [_citation(row, ours.get((row.data, row.protocol, row.model))) for row in citations]
    return Table(caption, columns, rows, is_cited=True)


def _citation(row: Citation, here: float | None) -> list[Cell]:
    """One quoted row, flagged where its figures cannot be."""
    reported = row.metrics.get("hr@10")
    gap = here / reported - 1 if here is not None and reported and not row.flaws else None
    flaw = f"impossible: {row.flaws[0]}" if row.flaws else ""
    return [
        Cell(f"{row.model} ({row.variant})" if row.variant else row.model),
        Cell(row.protocol),
        *(number(row.metrics.get(key), "{:.4f}") for key in RANKED),
        number(here, "{:.4f}"),
        number(gap, "{:+.1%}"),
        Cell(row.source),
        Cell("; ".join(part for part in (flaw, row.note) if part)),
    ]
