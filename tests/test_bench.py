"""The bench: what a file asks for, and that one run's misfortune is its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from recbench.bench import Bench, Cell, Job, read_plan
from recbench.bench.live import clock, table
from recbench.bench.progress import last_line, read_progress
from recbench.errors import DataError, UsageError
from recbench.results import Estimate, Run, read_run, read_runs, write_run

if TYPE_CHECKING:
    from pathlib import Path

# what stands for `recbench fit`: the model's name says what becomes of the run
CHILD = """
import os, pathlib, sys, time
kind, seed = sys.argv[1], int(sys.argv[2])
runs, results = (pathlib.Path(word.partition("=")[2]) for word in sys.argv[3:])
with (runs / "starts.txt").open("a") as file:
    file.write(f"{kind} {seed}\\n")
from recbench.results import Estimate, Run, write_run
blank = Run(model=kind, data="town", seed=seed, config_hash="0" * 64)
if kind == "crash":
    print("Traceback: something broke")
    os._exit(3)
if kind == "killed":
    os.kill(os.getpid(), 9)
if kind == "hang":
    time.sleep(600)
if kind == "nan":
    write_run(blank.model_copy(update={"status": "diverged", "note": "the loss became nan"}), results)
    sys.exit(5)
if kind == "slow":
    time.sleep(3)
write_run(blank.model_copy(update={"metrics": {"hr@10": Estimate(value=0.5)}}), results)
"""


def job(kind: str, seed: int = 0) -> Job:
    return Job(Cell(kind, "town", seed), Run(model=kind, data="town", seed=seed, config_hash="0" * 64))


def bench(folder: Path, **options: object) -> Bench:
    (folder / "runs").mkdir(exist_ok=True)

    def command(cell: Cell) -> list[str]:
        return [sys.executable, "-c", CHILD, cell.model, str(cell.seed)]

    return Bench(folder / "runs", folder / "results", command=command, **options)  # type: ignore[arg-type]


def starts(folder: Path) -> list[str]:
    return sorted((folder / "runs" / "starts.txt").read_text().splitlines())


def test_every_run_ends_in_a_record_whatever_befalls_the_others(tmp_path: Path) -> None:
    kinds = ["ok", "crash", "hang", "nan", "killed", "ok"]
    jobs = [job(kind, seed) for seed, kind in enumerate(kinds)]
    bench(tmp_path, num_parallel=2, timeout_s=6.0).run(jobs)
    assert [job.state for job in jobs] == ["ok", "failed", "timeout", "diverged", "failed", "ok"]
    assert jobs[1].note == "exit code 3: Traceback: something broke"
    assert jobs[2].note.startswith("stopped after 0.1 minutes")
    assert jobs[3].note == "the loss became nan"
    assert jobs[4].note == "killed by SIGKILL"
    assert {run.status for run in read_runs(tmp_path / "results")} == {"ok", "failed", "timeout", "diverged"}
    assert len(read_runs(tmp_path / "results")) == len(kinds)


def test_what_has_a_record_is_not_run_again(tmp_path: Path) -> None:
    bench(tmp_path).run([job("ok"), job("crash")])
    again = [job("ok"), job("crash"), job("ok", 1)]
    bench(tmp_path).run(again)
    assert [each.state for each in again] == ["ok", "failed", "ok"]
    assert starts(tmp_path) == ["crash 0", "ok 0", "ok 1"]
    bench(tmp_path, retry=True).run([job("ok"), job("crash")])
    assert starts(tmp_path) == ["crash 0", "crash 0", "ok 0", "ok 1"]


def test_a_record_that_lacks_an_option_which_is_null_now_is_the_runs_own(tmp_path: Path) -> None:
    def run(config: dict[str, object], hash_: str) -> Run:
        metrics = {"hr@10": Estimate(value=0.5)}
        return Run(model="ok", data="town", seed=0, config=config, config_hash=hash_ * 64, metrics=metrics)

    write_run(run({"dim": 8}, "a"), tmp_path / "results")
    write_run(run({"dim": 16}, "b"), tmp_path / "results")
    cell = Cell("ok", "town", 0)
    same = Job(cell, run({"dim": 16, "table": None}, "c").model_copy(update={"metrics": {}}))
    other = Job(cell, run({"dim": 16, "table": "texts"}, "0").model_copy(update={"metrics": {}}))
    bench(tmp_path).run([same, other])
    assert same.record is not None
    assert same.record.config == {"dim": 16}
    assert starts(tmp_path) == ["ok 0"]  # of the other


def test_two_benches_at_once_run_nothing_twice(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); from test_bench import bench, job\n"
        "bench(pathlib.Path(sys.argv[2])).run([job('slow', seed) for seed in range(2)])"
    )
    folder = os.path.dirname(__file__)  # noqa: PTH120
    words = [sys.executable, "-c", script, folder, str(tmp_path)]
    both = [subprocess.Popen(words) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert starts(tmp_path) == ["slow 0", "slow 1"]


def test_a_run_outlives_a_bench_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); from test_bench import bench, job\n"
        "bench(pathlib.Path(sys.argv[2])).run([job('slow')])"
    )
    folder = os.path.dirname(__file__)  # noqa: PTH120
    first = subprocess.Popen([sys.executable, "-c", script, folder, str(tmp_path)])
    until = time.monotonic() + 30
    while not (tmp_path / "runs" / "starts.txt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    todo = [job("slow")]
    seen: list[str] = []
    bench(tmp_path).run(todo, show=lambda jobs: seen.append(jobs[0].state))
    assert seen[0] == "elsewhere"
    assert todo[0].state == "ok"
    assert starts(tmp_path) == ["slow 0"]


def test_what_ends_elsewhere_before_its_turn_is_not_run(tmp_path: Path) -> None:
    mine = job("slow", 1)
    elsewhere = mine.blank.model_copy(update={"metrics": {"hr@10": Estimate(value=0.75)}})
    todo = [job("slow", 0), mine]

    def meanwhile(jobs: object) -> None:  # noqa: ARG001 - what a display is called with
        if not (tmp_path / "results" / f"{mine.blank.key}.json").exists():
            write_run(elsewhere, tmp_path / "results")

    bench(tmp_path).run(todo, show=meanwhile)
    assert starts(tmp_path) == ["slow 0"]
    assert mine.record == elsewhere


def test_the_product_of_a_cell_with_its_options(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(
        "timeout_minutes: 2\noptions: {trainer: cpu, model.recipe.lr: 0.1}\n"
        "cells:\n  - {models: [sasrec, gru4rec], data: [demo], seeds: [0, 1], "
        "options: {model.recipe.lr: 0.2}}\n"
        "  - {models: [sasrec], data: [demo], options: {model.recipe.lr: 0.2}}\n"
    )
    plan = read_plan(file)
    words = ("--trainer=cpu", "--model.recipe.lr=0.2")
    wanted = [(model, seed) for model in ("sasrec", "gru4rec") for seed in (0, 1)]
    assert plan.cells == tuple(Cell(model, "demo", seed, words) for model, seed in wanted)
    assert plan.timeout_s == 120


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("cells: []", DataError, "cells must be a list of at least one"),
        ("cells: [3]", DataError, "cell 1: must be {models"),
        ("sells: []", DataError, "unknown key 'sells'; did you mean cells"),
        ("cells: [{models: [sasrec]}]", DataError, "cell 1: data must be a list"),
        ("cells: [{models: [sasrec], data: [demo], seeds: [-1]}]", DataError, "seeds must be whole numbers"),
        ("cells: [{models: [sasrek], data: [demo]}]", UsageError, "did you mean sasrec"),
        ("cells: [{models: [sasrec], data: [demmo]}]", UsageError, "did you mean demo"),
        ("cells: [{models: [sasrec], data: [demo], options: {seed: 1}}]", UsageError, "seed is decided by"),
        ("cells: [{models: [sasrec], data: [demo]}]\ntimeout_minutes: -1", DataError, "must be 0 or more"),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text(text)
    with pytest.raises(error, match=message):
        read_plan(file)


def test_every_shipped_bench_file_is_right() -> None:
    from recbench import config

    plans = [read_plan(path) for path in sorted((config.folder() / "bench").glob("*.yaml"))]
    assert plans
    assert all(plan.cells for plan in plans)


def test_time_left_follows_from_the_epochs_done(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    (tmp_path / "progress.json").write_text(json.dumps({"epoch": 4, "max_epochs": 10, "seconds": 20.0}))
    assert read_progress(tmp_path) == 30.0
    (tmp_path / "progress.json").write_text('{"epoch": 4')
    assert read_progress(tmp_path) is None


def test_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\nrecbench: no room left\n\n")
    assert last_line(log) == "recbench: no room left"


def test_table_says_what_is_done_and_what_is_left(tmp_path: Path) -> None:
    from rich.console import Console

    jobs = [job("ok"), job("crash"), job("slow")]
    path = write_run(jobs[0].blank.model_copy(update={"metrics": {"hr@10": Estimate(value=0.25)}}), tmp_path)
    jobs[0].settle(read_run(path))
    jobs[1].settle(jobs[1].blank.model_copy(update={"status": "failed", "note": "exit code 3"}))
    jobs[2].state, jobs[2].seconds, jobs[2].eta_s = "running", 61.0, 3600.0
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(table(jobs))
    shown = console.export_text()
    for part in ("3 runs: 1 ok, 1 failed, 1 running", "HR@10 0.2500", "exit code 3", "1:01", "1:00:00"):
        assert part in shown
    assert clock(59.6) == "1:00"
