"""Records -> one row per model and configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from recbench.results import without_nulls

if TYPE_CHECKING:
    from recbench.results import Run

RANKED = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")  # compared by paired tests, the last one orders the rows
DETAIL = ("hr@20", "ndcg@20", "mrr@10", "precision@10")
SHOWN = (*RANKED, *DETAIL)
# rows that differ in one of these never share a table
TABLE = ("data", "protocol", "fingerprint", "num_users")
GROUP = (*TABLE, "model", "recipe")

_TEXTS = ("record", "data", "protocol", "fingerprint", "model", "recipe", "status", "note", "machine")
_COUNTS = ("seed", "num_users", "parameters")


def average_seeds(runs: dict[str, Run]) -> pl.DataFrame:
    """One row per model and configuration, by table and then best first.

    What finished is averaged (`num_seeds`, `seeds`, `records`), what did not is listed (`broken`). Of a seed
    that ended so more than once, as where a later version names an option that is off, the newest counts.

    Args:
        runs: measured records by the path they are linked at.
    """
    by_age = sorted(runs, key=lambda record: runs[record].finished)
    frame = _frame({record: runs[record] for record in by_age})
    frame = frame.unique([*GROUP, "seed", "status"], keep="last", maintain_order=True)
    is_ok = pl.col("status") == "ok"
    numbers = [name for name, dtype in frame.schema.items() if dtype == pl.Float64]
    return (
        frame.sort(*GROUP, "seed", "record")
        .group_by(GROUP, maintain_order=True)
        .agg(
            pl.col("record").filter(is_ok).alias("records"),
            pl.col("seed").filter(is_ok).alias("seeds"),
            pl.col("status").filter(~is_ok).alias("broken"),
            is_ok.sum().alias("num_seeds"),
            pl.col("ndcg@10").filter(is_ok).std().alias("ndcg@10 sd"),
            pl.col(numbers).filter(is_ok).mean(),
            pl.col("parameters", "machine").filter(is_ok).first(),
            pl.col("note").filter(pl.col("note") != "").unique(maintain_order=True).str.join("; "),
        )
        .pipe(_in_order)
    )


def best_configurations(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per model: that of the configuration which was best on validation, never on test."""
    return (
        rows.sort("validation", descending=True, nulls_last=True, maintain_order=True)
        .unique([*TABLE, "model"], keep="first", maintain_order=True)
        .pipe(_in_order)
    )


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort(*TABLE, pl.col("ndcg@10").neg(), "model", "recipe", nulls_last=True)


def _frame(runs: dict[str, Run]) -> pl.DataFrame:
    """One row per record."""
    sides = sorted({side for run in runs.values() for side in run.latency})
    words = sorted({word for run in runs.values() for word in run.served})
    numbers = ["train_s", "users_per_s", "validation", "bytes_up", "bytes_down"]
    numbers += [f"served {word}" for word in words]
    numbers += [f"{side} {percentile}" for side in sides for percentile in ("p50_ms", "p95_ms")]
    numbers += [f"{key}{bound}" for key in SHOWN for bound in ("", " low", " high")]
    schema: dict[str, Any] = dict.fromkeys(_TEXTS, pl.String)
    schema |= dict.fromkeys(_COUNTS, pl.Int64) | dict.fromkeys(numbers, pl.Float64)
    frame = pl.DataFrame([_fields(record, run) for record, run in runs.items()], schema=schema)
    # a run that broke before evaluation counted no users; it belongs where its siblings are
    siblings = pl.col("num_users").max().over("data", "protocol", "fingerprint")
    return frame.with_columns(pl.col("num_users").fill_null(siblings))


def _fields(record: str, run: Run) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "record": record,
        "data": run.data,
        "protocol": run.protocol,
        "fingerprint": run.data_fingerprint,
        "model": run.model,
        "recipe": recipe(run),
        "seed": run.seed,
        "status": run.status,
        "num_users": run.num_users,
        "note": run.note,
        "machine": ", ".join(f"{key} {value}" for key, value in run.hardware.items()),
        "parameters": sum(run.num_parameters.values()) if run.num_parameters else None,
        "train_s": sum(stage.train_s for stage in run.stages.values()) if run.stages else None,
        "users_per_s": run.evaluation_users_per_s,
        "validation": run.validation.get(RANKED[-1]),
        "bytes_up": run.bytes_up,
        "bytes_down": run.bytes_down,
    }
    fields |= {f"served {word}": share for word, share in run.served.items()}
    for side, latency in run.latency.items():
        fields |= {f"{side} p50_ms": latency.p50_ms, f"{side} p95_ms": latency.p95_ms}
    for key in set(SHOWN) & set(run.metrics):
        estimate = run.metrics[key]
        fields |= {key: estimate.value, f"{key} low": estimate.low, f"{key} high": estimate.high}
    return fields


def recipe(run: Run) -> str:
    """The configuration without its seed: records that share it are repetitions of one another."""
    return json.dumps(
        without_nulls({key: value for key, value in run.config.items() if key != "seed"}), sort_keys=True
    )
