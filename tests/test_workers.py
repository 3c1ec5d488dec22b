"""Stages trained at once: the numbers of one after the other, and an end to all when one fails."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small import run, run_folder, same, small_data, timeless

from recbench import fit as runner
from recbench.errors import DivergedError, ResourceError
from recbench.models import POD, L3Rec, MultVAE, Popularity
from recbench.models.base import Recipe, Stage
from recbench.nn.item_codes import Random
from recbench.training import TrainerOptions
from recbench.workers import train_beside

if TYPE_CHECKING:
    from collections.abc import Callable

SERIAL = TrainerOptions(threads=1)
AT_ONCE = TrainerOptions(threads=1, workers=2)


def three_locals() -> L3Rec:
    """So that one of them waits for a worker."""
    recipe = Recipe(samples="prefixes", max_epochs=1, batch_size=64)
    sizes: dict[str, Any] = {"dim": 8, "hidden": 16, "num_layers": 1, "num_heads": 2, "max_len": 5}
    local = POD(codes=Random(), recipe=recipe, num_beams=5, **sizes)
    vae = MultVAE(dim=8, hidden=16, recipe=Recipe(max_epochs=1))
    return L3Rec(clusterer=vae, local=local, anchor_step=1, bandwidth=0.7, num_listed=5)


def test_local_models_at_once_are_those_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "request_latency", lambda *_: {})  # of no matter here, and slow
    serial, at_once = three_locals(), three_locals()
    one = run(tmp_path / "serial", serial, trainer=SERIAL)
    trained: list[list[str]] = []

    def beside(stages: list[Stage], *args: Any, **options: Any) -> None:
        trained.append([stage.name for stage in stages])
        train_beside(stages, *args, **options)

    monkeypatch.setattr(runner, "train_beside", beside)
    other = run(tmp_path / "at once", at_once, trainer=AT_ONCE)
    assert trained == [["local-0", "local-1", "local-2"]]
    assert same(dict(at_once.state_dict()), dict(serial.state_dict()))
    assert timeless(other) == timeless(one)
    names = sorted(file.name for file in (run_folder(tmp_path / "at once") / "stages").iterdir())
    assert names == ["cluster.ckpt", "local-0.ckpt", "local-1.ckpt", "local-2.ckpt"]


def fail(error: Exception) -> None:
    raise error


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (partial(fail, DivergedError("the loss became nan")), DivergedError, "^the loss became nan$"),
        (partial(fail, KeyError("lost")), RuntimeError, "(?s)stage bad failed in its process.*KeyError"),
        (kill, ResourceError, "stage bad: its process ended early .killed by SIGKILL"),
    ],
    ids=["diverged", "mistake", "killed"],
)
def test_a_worker_that_fails_ends_the_run_with_its_message(
    how: Callable[[], None], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    data = small_data()
    model = Popularity()
    model.build(data.catalog)
    stages = [Stage("bad", model, data, solve=how), Stage("never", model, data, solve=kill)]
    with pytest.raises(kind, match=message):
        train_beside(stages, tmp_path, TrainerOptions(threads=1), seed=0, resume=False)
    assert list(tmp_path.iterdir()) == []


def hold(lock: Path) -> None:
    """Train for a minute, holding a lock that ends with the process."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lock.with_name("lock.held").touch()
        time.sleep(60)


def train_long(folder: str) -> None:
    """What the process does that is killed below."""
    data, model = small_data(), Popularity()
    model.build(data.catalog)
    stage = Stage("long", model, data, solve=partial(hold, Path(folder) / "lock"))
    train_beside([stage], Path(folder), TrainerOptions(threads=1), seed=0, resume=False)


def test_a_killed_run_takes_its_workers_along(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from test_workers import train_long; train_long(sys.argv[2])"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)])
    while not (tmp_path / "lock.held").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.kill()
    run.wait()
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits for the worker's end: far less than its minute
        assert time.time() - (tmp_path / "lock.held").stat().st_mtime < 45
    assert not (tmp_path / "long.ckpt").exists()


def test_what_is_finished_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = small_data(), Popularity()
    (tmp_path / "done.ckpt").touch()
    monkeypatch.setattr("recbench.workers._started", lambda *_: pytest.fail("trains a finished stage"))
    stages = [Stage("done", model, data)]
    train_beside(stages, tmp_path, AT_ONCE, seed=0, resume=True)


def test_workers_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1"):
        TrainerOptions(workers=0)
