"""A bench on the terminal: a live table where there is one, else a line for every change."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from recbench.bench.runner import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from recbench.bench.runner import Job

_COLOURS = {"ok": "green", "running": "cyan", "elsewhere": "cyan", "queued": "dim"}


@contextmanager
def display() -> Iterator[Callable[[Sequence[Job]], None]]:
    """A function that shows the jobs as they stand."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=2) as live:
        yield lambda jobs: live.update(table(jobs))


class _Lines:
    """Prints each job when its state has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._known: dict[int, str] = {}

    def __call__(self, jobs: Sequence[Job]) -> None:
        for number, job in enumerate(jobs):
            if self._known.get(number, "queued") != job.state:
                self._known[number] = job.state
                self._console.print(f"{job.cell}: {job.state} {_outcome(job)}".rstrip(), soft_wrap=True)


def table(jobs: Sequence[Job]) -> Table:
    """All jobs: state, time spent, time left at most, outcome; the counts as title."""
    counts = {
        state: sum(job.state == state for job in jobs) for state in dict.fromkeys(j.state for j in jobs)
    }
    title = f"{len(jobs)} runs: {', '.join(f'{number} {state}' for state, number in counts.items())}"
    found = Table("data", "model", "seed", "state", "time", "left", "outcome", title=title)
    for job in jobs:
        colour = _COLOURS.get(job.state, "red")
        left = clock(job.eta_s) if job.state == "running" and job.eta_s is not None else ""
        spent = clock(job.seconds) if job.seconds else ""
        cell = job.cell
        found.add_row(
            cell.data,
            cell.model,
            str(cell.seed),
            f"[{colour}]{job.state}[/{colour}]",
            spent,
            left,
            _outcome(job),
        )
    return found


def clock(seconds: float) -> str:
    """Hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _outcome(job: Job) -> str:
    if job.state in OPEN or job.record is None:
        return ""
    if job.state != "ok":
        return job.note
    return ", ".join(
        f"{label} {job.record.metrics[key].value:.4f}"
        for key, label in (("hr@10", "HR@10"), ("ndcg@10", "NDCG@10"))
        if key in job.record.metrics
    )
