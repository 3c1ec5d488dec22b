"""Run the cells of a plan, each as `recbench fit` in a process of its own.

A crash, hang, NaN or kill of one run leaves the rest alone, and every run ends in a record, be its status ok,
diverged, failed or timeout. The records are the whole state: what has one is done. A run is locked while
its process lives, whoever started it, so that two benches may share a machine, and a bench that was killed
leaves a run that finishes by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from recbench.bench.progress import last_line, read_progress
from recbench.errors import DivergedError, RecbenchError
from recbench.lock import held
from recbench.results import Run, read_run, without_nulls, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from recbench.bench.plan import Cell

State = Literal["queued", "elsewhere", "running", "ok", "diverged", "failed", "timeout"]
OPEN = ("queued", "elsewhere", "running")
WRITES_RECORD = (0, DivergedError.exit_code)
_POLL_S = 0.2
_GRACE_S = 20.0  # between asking a process to end and killing it


class BenchFailedError(RecbenchError):
    """Some runs did not end well; their records say why."""

    exit_code = 1


@dataclass
class Job:
    """One run of a bench and where it stands.

    Args:
        cell: what was asked for.
        blank: its record before it has any figures: what names the run.
        state: queued, running (here or elsewhere), or the status of its record.
        note: why it failed.
        seconds: wall time of its process.
        eta_s: seconds until its epochs are done at most; None where unknown.
        record: with figures, once there is one.
        process: what runs it here.
        started: when, on the monotonic clock.
    """

    cell: Cell
    blank: Run
    state: State = "queued"
    note: str = ""
    seconds: float = 0.0
    eta_s: float | None = None
    record: Run | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started: float = field(default=0.0, repr=False)

    def settle(self, record: Run) -> None:
        """Take over what the record says."""
        self.state, self.note, self.record, self.eta_s = record.status, record.note, record, None


def fit_command(cell: Cell) -> list[str]:
    """`recbench fit` for this cell, in this interpreter."""
    return [sys.executable, "-m", "recbench", "fit", *cell.words, "--resume", "--trainer.progress=false"]


@dataclass(frozen=True)
class Bench:
    """How and where jobs are run.

    Args:
        runs: folder of run folders, logs and locks.
        results: folder of records.
        num_parallel: processes at once.
        timeout_s: seconds a run may take; 0 for no limit.
        retry: run again what has a record that is not ok.
        command: the words of a job's process, without the folders.
    """

    runs: Path
    results: Path
    num_parallel: int = 1
    timeout_s: float = 0.0
    retry: bool = False
    command: Callable[[Cell], list[str]] = fit_command

    def run(self, jobs: Sequence[Job], *, show: Callable[[Sequence[Job]], None] = lambda _: None) -> None:
        """Bring every job to an end, in this order; `show` is called whenever something may have changed."""
        for job in jobs:
            self._look_up(job, retry=self.retry)
        try:
            while any(job.state in OPEN for job in jobs):
                for job in jobs:
                    if job.state == "running":
                        self._watch(job)
                    elif job.state in OPEN and sum(j.state == "running" for j in jobs) < self.num_parallel:
                        self._start(job)
                show(jobs)
                time.sleep(_POLL_S)
        finally:  # what still runs when we are stopped is asked to stop too, and can be resumed
            for job in jobs:
                if job.process is not None and job.process.poll() is None:
                    _stop(job.process, signal.SIGINT)
        show(jobs)

    def record_path(self, job: Job) -> Path:
        """Where the job's record is or will be."""
        return self.results / f"{job.blank.key}.json"

    def log_path(self, job: Job) -> Path:
        """What its process prints."""
        return self.runs / "bench" / f"{job.blank.key.replace('/', '-')}.log"

    def _look_up(self, job: Job, *, retry: bool = False) -> None:
        """A run with a record is done; one that ended badly may be tried again."""
        record = self._record_of(job)
        if record is not None and (record.status == "ok" or not retry):
            job.settle(record)

    def _record_of(self, job: Job) -> Run | None:
        """The job's record; it may be from before an option was known that is null now."""
        path, blank = self.record_path(job), job.blank
        if path.exists():
            return read_run(path)
        wanted = (without_nulls(blank.config), blank.data_fingerprint)
        others = map(read_run, sorted(path.parent.glob(f"{blank.seed}-*.json")))
        return next(
            (run for run in others if (without_nulls(run.config), run.data_fingerprint) == wanted), None
        )

    def _start(self, job: Job) -> None:
        """Start the process, which inherits the lock: it is held as long as either lives."""
        log = self.log_path(job)
        with held(log.with_suffix(".lock")) as lock:
            if lock is None:
                job.state = "elsewhere"
                return
            # it may have ended elsewhere since it was last looked at; how, its record says
            self._look_up(job, retry=self.retry and job.state == "queued")
            if job.state not in OPEN:
                return
            folders = [f"--runs={self.runs}", f"--results={self.results}"]
            with log.open("wb") as output:
                job.process = subprocess.Popen(
                    [*self.command(job.cell), *folders],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on
                    pass_fds=(lock.fileno(),),
                )
        job.state, job.started = "running", time.monotonic()

    def _watch(self, job: Job) -> None:
        """Note how far the process is, and how it ended if it did."""
        assert job.process is not None
        job.seconds = time.monotonic() - job.started
        code = job.process.poll()
        if code is None and self.timeout_s and job.seconds > self.timeout_s:
            _stop(job.process, signal.SIGTERM)
            note = f"stopped after {self.timeout_s / 60:g} minutes; raise timeout_minutes and use --retry"
            self._write_failure(job, "timeout", note)
        elif code is None:
            job.eta_s = read_progress(self.runs / job.blank.key.replace("/", "-") / "stages")
        elif code in WRITES_RECORD and self.record_path(job).exists():
            job.settle(read_run(self.record_path(job)))
        else:
            said = last_line(self.log_path(job)).removeprefix("recbench: ")
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self._write_failure(job, "failed", f"{how}: {said}" if said else how)

    def _write_failure(self, job: Job, status: Literal["failed", "timeout"], note: str) -> None:
        record = job.blank.model_copy(update={"status": status, "note": note})
        write_run(record, self.results)
        job.settle(record)


def _stop(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """End a process and what it started."""
    try:
        os.killpg(process.pid, signum)
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()
