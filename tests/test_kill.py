"""`recbench fit` as a process that is interrupted, terminated or killed, and then told to go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from small import timeless, world

from recbench import checkpoint

EPOCHS = 40  # long enough to be hit while training, a few seconds in all


class Command:
    """`recbench fit` of a small SASRec, everything below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.words = [
            *("fit", "--model", "sasrec", "--data", str(sequences(folder.parent)), "--name", "small"),
            *(
                "--model.dim",
                "8",
                "--model.num_heads",
                "2",
                "--model.hidden",
                "16",
                "--model.num_layers",
                "1",
            ),
            *("--model.recipe.lr", "0.01", "--model.recipe.batch_size", "32"),
            *("--trainer.max_epochs", str(EPOCHS), "--trainer.threads", "1"),
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        here = {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "RECBENCH_CACHE": str(self.folder.parent / "cache"),
            "OMP_NUM_THREADS": "1",
            "WANDB_ERROR_REPORTING": "false",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "recbench", *self.words, *more],
            cwd=self.folder,
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, *more: str) -> str:
        """Run to the end; returns what was said on stderr."""
        process = self.start(*more)
        _, err = process.communicate()
        assert process.returncode == 0, err
        return err

    def files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"runs/*/{pattern}") if not path.name.startswith("."))

    def wait_for(self, pattern: str, process: subprocess.Popen[str]) -> None:
        """Until such a file exists in the run folder."""
        while not self.files(pattern):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)

    def wait_for_an_epoch(self, process: subprocess.Popen[str]) -> None:
        """Until the state after an epoch is written, or written anew."""
        start = time.time_ns()
        while not any(file.stat().st_mtime_ns > start for file in self.files("stages/train.last.ckpt")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)

    @property
    def record(self) -> dict[str, object]:
        """The one record, without what a clock or a commit in between decides."""
        (path,) = (self.folder / "leaderboard" / "results").rglob("*.json")
        return {key: value for key, value in timeless(path).items() if key != "commit"}


def sequences(folder: Path) -> Path:
    """The small world as a user's own file."""
    file = folder / "town.txt"
    if not file.exists():
        rows = world().interactions.group_by("user", maintain_order=True).all()
        lines = (
            f"{row['user'] + 1} {' '.join(map(str, row['item']))}\n" for row in rows.iter_rows(named=True)
        )
        file.write_text("".join(lines))
    return file


class Unbroken(NamedTuple):
    """A run that nobody disturbed: where, what it found, and how long it took once it had its folder."""

    folder: Path
    record: dict[str, object]
    seconds: float


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    command = Command(tmp_path_factory.mktemp("kill") / "unbroken")
    process = command.start("--wandb", "disabled")
    command.wait_for("config.yaml", process)
    start = time.monotonic()
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    return Unbroken(command.folder, command.record, time.monotonic() - start)


def survives(command: Command, unbroken: Unbroken, *, num_kills: int, share: float, seed: int) -> None:
    """Kill at random moments in the first `share` of what a run takes, resume each time, compare the end."""
    draw = random.Random(seed)
    while num_kills:
        process = command.start("--wandb", "disabled", "--resume")
        command.wait_for("config.yaml", process)
        try:
            process.wait(draw.uniform(0, share) * unbroken.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            num_kills -= 1
        assert process.communicate()[1] == ""  # nothing was found damaged
        for file in [*command.files("stages/*.ckpt"), *command.files("stages/*.previous")]:
            checkpoint.load(file)  # whole, whenever the blow fell
        if process.returncode == 0:  # it was faster: the next blows fall on a new run
            assert command.record == unbroken.record
            command = Command(command.folder.with_name(f"{command.folder.name}-again"))
    assert command.finish("--wandb", "disabled", "--resume") == ""
    assert command.record == unbroken.record
    assert [path.name for path in command.files("stages/*")] == ["train.ckpt"]


def test_three_kills_change_nothing(unbroken: Unbroken) -> None:
    command = Command(unbroken.folder.with_name("killed"))
    survives(command, unbroken, num_kills=3, share=0.5, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_thirty_kills_change_nothing(seed: int, unbroken: Unbroken) -> None:
    command = Command(unbroken.folder.with_name(f"killed{seed}"))
    survives(command, unbroken, num_kills=3, share=1, seed=seed)


def test_a_signal_in_training_is_answered_in_one_line_and_changes_nothing(unbroken: Unbroken) -> None:
    command = Command(unbroken.folder.with_name("stopped"))
    for signum, word, code in ((signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)):
        process = command.start("--resume")  # curves and all, as by default
        command.wait_for_an_epoch(process)
        process.send_signal(signum)
        out, err = process.communicate()
        assert process.returncode == code, err
        assert out == ""
        assert err.startswith(
            f"recbench: {word}; finished epochs are kept, go on with: recbench fit --model "
        )
        assert err.endswith(" --resume\n")
        assert err.count("\n") == 1
        assert not (command.folder / "leaderboard").exists()
    assert command.finish("--resume", "--wandb", "disabled") == ""
    assert command.record == unbroken.record
