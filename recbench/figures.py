"""Results as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from recbench.data.profile import LENGTH_GROUPS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recbench.data.catalog import Catalog
    from recbench.evaluate import Group
    from recbench.export import Figures
    from recbench.results import Estimate, Run

SHOWN = ("hr@10", "ndcg@10", "precision@10", "mrr@10")


def record_table(run: Run, path: Path) -> Table:
    """What one looks at first in a fresh record, and where it lies."""
    table = metric_table(f"{run.model} on {run.data}, {run.num_users or 0:,} users", run.metrics)
    for side, latency in run.latency.items():
        table.add_row(f"latency, {side}", f"{latency.p50_ms:.2f} ms", f"p95 {latency.p95_ms:.2f} ms")
    for stage, cost in run.stages.items():
        table.add_row(f"stage {stage}", f"{cost.train_s:.1f} s", f"{cost.num_epochs} epochs")
    table.caption = "\n".join(filter(None, (run.note, str(path))))
    return table


def metric_table(title: str, metrics: dict[str, Estimate]) -> Table:
    """The metrics at 10 with their intervals."""
    table = Table("metric", "value", "95 % interval", title=title)
    for key in SHOWN:
        if key in metrics:
            found = metrics[key]
            bounds = "" if found.low is None else f"{found.low:.4f} to {found.high:.4f}"
            table.add_row(key, f"{found.value:.4f}", bounds)
    return table


def group_table(title: str, groups: dict[str, Group]) -> Table:
    """HR and NDCG at 10 of users with histories of different length, with their intervals."""
    table = Table("histories", "users", "hr@10", "ndcg@10", title=title)
    for name, group in groups.items():
        shown = (group.metrics[key] for key in ("hr@10", "ndcg@10"))
        cells = [f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})" for found in shown]
        few = " (few)" if group.is_small else ""
        table.add_row(f"{name}, {LENGTH_GROUPS[name]}", f"{group.num_users:,}{few}", *cells)
    return table


def comparison_table(old: Run, new: Run) -> Table:
    """Every metric of two runs of one configuration."""
    table = Table("metric", "record", "now", "difference", title=f"{old.key}, trained again")
    for key, recorded in old.metrics.items():
        now = new.metrics[key].value
        table.add_row(key, f"{recorded.value:.6f}", f"{now:.6f}", f"{now - recorded.value:+.6f}")
    return table


def item_table(catalog: Catalog, items: Sequence[int], scores: Sequence[float]) -> Table:
    """Recommended items, best first, by the names their source gives them."""
    has_title = "title" in catalog.features
    titles = catalog.titles() if has_title else []
    names = catalog.items["raw_id"].to_list()
    table = Table("", "item", "score", *(["title"] if has_title else []))
    for place, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
        if item:  # 0 where fewer than asked for may be shown
            title = [titles[item - 1]] if has_title else []
            table.add_row(str(place), str(names[item - 1]), f"{score:.3f}", *title)
    return table


def export_table(title: str, forms: Sequence[Figures], file: Path, *, k: int) -> Table:
    """Size, start, time and agreement of the forms of a device's part, and where the file lies."""
    table = Table("", "MB", "cold start", "p50", "p95", f"same top {k}", "shared items", title=title)
    for form in forms:
        cold = "" if form.cold_ms is None else f"{form.cold_ms:.0f} ms"
        times = [f"{spent:.2f} ms" for spent in (form.latency.p50_ms, form.latency.p95_ms)]
        shares = [f"{share:.1%}" for share in (form.agreement, form.overlap)]
        table.add_row(form.name, f"{form.megabytes:.2f}", cold, *times, *shares)
    table.caption = str(file)
    return table
