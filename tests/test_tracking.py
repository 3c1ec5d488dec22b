"""Nothing here reaches out of the machine: the server is always a closed port on loopback."""

import builtins
import json
import logging
import math
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbench.results import Estimate, Latency, Run, StageCost
from recbench.tracking import log_record, make_logger, summary

KEY = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model": {"dim": 64, "loss": None, "layers": [1, 2]}, "seed": 3, "data": "demo"}
RUN = Run(
    model="sasrec",
    data="demo",
    seed=3,
    num_users=1234,
    metrics={
        "hr@10": Estimate(value=0.0871234567891, low=0.0801, high=0.0951),
        "ndcg@10": Estimate(value=1 / 19, low=0.04, high=0.06),
    },
    cohorts={"heldout": {"hr@10": Estimate(value=0.07)}},
    validation={"hr@10": 0.123, "ndcg@10": 0.0707},
    stages={"train": StageCost(train_s=12.5, num_epochs=4), "adapt": StageCost(train_s=0.25, num_epochs=1)},
    latency={
        "device": Latency(p50_ms=1.25, p95_ms=2.5, p99_ms=7.75, num_calls=200),
        "cloud": Latency(p50_ms=20.0, p95_ms=31.0, p99_ms=55.5, num_calls=200),
    },
    evaluation_users_per_s=4321.5,
    bytes_up=300.0,
    bytes_down=2048.0,
    num_parameters={"device": 830_123, "cloud": 134_515_008},
    num_bytes={"device": 3_320_492},
)


@pytest.fixture(autouse=True, scope="module")
def no_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A W&B address where nobody listens, no key, no settings of the user, no error reports."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("WANDB_CONFIG_DIR", str(home / "settings"))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("HOME", str(home))
        yield


def offline_run(folder: Path) -> Path:
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


def inspect(run: Path, *flags: str) -> str:
    """What wandb's own reader finds in an offline run."""
    wandb = Path(sysconfig.get_path("scripts")) / "wandb"
    command = [wandb, "leet", "inspect", *flags, "--json", run]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class TestOffline:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A finished run with five steps of one curve."""
        folder = tmp_path_factory.mktemp("run")
        logger = make_logger("offline", folder=folder, name="demo-sasrec-3", config=CONFIG)
        assert logger is not None
        for step in range(5):
            logger.log_metrics({"train/loss": 1 / (step + 1)}, step=step)
        log_record(logger, RUN)
        return folder

    @pytest.fixture(scope="class")
    def found(self, folder: Path) -> dict[str, object]:
        return json.loads(inspect(offline_run(folder), "--summary"))

    def test_every_figure_of_the_record_reads_back(self, found: dict[str, dict[str, object]]) -> None:
        assert found["summary"].items() >= summary(RUN).items()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("test/hr@10", 0.0871234567891),
            ("test/ndcg@10", 1 / 19),
            ("test/hr@10/low", 0.0801),
            ("test-heldout/hr@10", 0.07),
            ("validation/ndcg@10", 0.0707),
            ("latency/device/p50_ms", 1.25),
            ("latency/cloud/p95_ms", 31.0),
            ("latency/cloud/p99_ms", 55.5),
            ("train_s/total", 12.75),
            ("parameters/cloud", 134_515_008),
            ("bytes/device", 3_320_492),
            ("num_users", 1234),
            ("status", "ok"),
        ],
    )
    def test_under_its_name(self, found: dict[str, dict[str, object]], name: str, value: object) -> None:
        assert found["summary"][name] == value

    def test_every_number_of_the_record_has_a_name(self) -> None:
        numbers = set(summary(RUN).values())
        for part in (RUN.metrics, RUN.stages, RUN.latency):
            for entry in part.values():
                figures = entry.model_dump(exclude={"num_epochs", "best_epoch", "num_calls"})
                assert set(figures.values()) <= numbers
        assert {*RUN.num_parameters.values(), *RUN.num_bytes.values(), *RUN.validation.values()} <= numbers
        assert {RUN.bytes_up, RUN.bytes_down, RUN.evaluation_users_per_s} <= numbers

    def test_the_configuration_is_logged_once_and_whole(self, folder: Path, found: dict[str, object]) -> None:
        assert found["config"] == CONFIG
        records = [json.loads(line) for line in inspect(offline_run(folder)).splitlines()]
        assert [record["config"]["update"] for record in records if record["type"] == "config"] == [CONFIG]

    def test_curves_read_back_step_by_step(self, folder: Path) -> None:
        records = [json.loads(line) for line in inspect(offline_run(folder)).splitlines()]
        curve = [record["history"]["item"] for record in records if record["type"] == "history"]
        assert [(point["trainer/global_step"], point["train/loss"]) for point in curve] == [
            (step, 1 / (step + 1)) for step in range(5)
        ]

    def test_the_run_is_named_and_finished(self, found: dict[str, object]) -> None:
        assert (found["name"], found["project"], found["state"]) == ("demo-sasrec-3", "recbench", "finished")
        assert found["exit_code"] == 0


def test_a_diverged_run_ends_as_failed(tmp_path: Path) -> None:
    logger = make_logger("offline", folder=tmp_path, name="a", config={})
    log_record(logger, Run(model="sasrec", data="demo", seed=0, status="diverged"))
    found = json.loads(inspect(offline_run(tmp_path), "--summary"))
    assert (found["exit_code"], found["summary"]["status"]) == (1, "diverged")


def test_a_run_left_open_does_not_take_the_next_ones_figures(tmp_path: Path) -> None:
    left = make_logger("offline", folder=tmp_path / "left", name="left", config={"seed": 0})
    next_ = make_logger("offline", folder=tmp_path / "next", name="next", config={"seed": 1})
    log_record(next_, RUN)
    log_record(left, Run(model="sasrec", data="demo", seed=0, status="failed"))
    found = [json.loads(inspect(offline_run(tmp_path / name), "--summary")) for name in ("left", "next")]
    assert [run["config"]["seed"] for run in found] == [0, 1]
    assert ["test/hr@10" in run["summary"] for run in found] == [False, True]


class TestFallback:
    def test_online_without_a_key(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="recbench"):
            logger = make_logger("online", folder=tmp_path, name="a", config=CONFIG)
        log_record(logger, RUN)
        (message,) = [entry.getMessage() for entry in caplog.records if entry.name == "recbench.tracking"]
        assert message.startswith("wandb is offline: No API key")
        assert message.endswith(f"upload later with: wandb sync {tmp_path / 'wandb'}")
        assert "\n" not in message
        assert (
            json.loads(inspect(offline_run(tmp_path), "--summary"))["summary"]["test/hr@10"]
            == 0.0871234567891
        )

    def test_online_without_a_route(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        started = time.monotonic()
        with caplog.at_level(logging.WARNING, logger="recbench"):
            logger = make_logger("online", folder=tmp_path, name="a", config=CONFIG)
        assert time.monotonic() - started < 20
        log_record(logger, RUN)
        messages = [entry.getMessage() for entry in caplog.records if entry.name == "recbench.tracking"]
        assert [message.startswith("wandb is offline: ") for message in messages] == [True]
        found = json.loads(inspect(offline_run(tmp_path), "--summary"))
        assert found["summary"].items() >= summary(RUN).items()
        assert found["config"] == CONFIG
        holders = [
            path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
        ]
        assert holders == []
        assert not any(KEY in entry.getMessage() for entry in caplog.records)


class TestWithout:
    def test_disabled_is_no_logger_and_no_file(self, tmp_path: Path) -> None:
        assert make_logger("disabled", folder=tmp_path, name="a", config={}) is None
        assert list(tmp_path.iterdir()) == []

    def test_wandb_not_installed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed = builtins.__import__

        def missing(name: str, *args: object, **kwargs: object) -> object:
            if name == "wandb":
                raise ImportError(name)
            return installed(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        with caplog.at_level(logging.WARNING, logger="recbench"):
            assert make_logger("offline", folder=tmp_path, name="a", config={}) is None
        assert "wandb is not installed" in caplog.text

    def test_a_record_without_a_logger_goes_nowhere(self) -> None:
        log_record(None, RUN)


def test_the_terminal_stays_quiet(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from recbench.tracking import *; from recbench.results import Run\n"
        f"logger = make_logger('offline', folder=Path({str(tmp_path)!r}), name='a', config={{}})\n"
        "logger.log_metrics({'train/loss': 1.0}, step=0)\n"
        "log_record(logger, Run(model='m', data='d', seed=0))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout + done.stderr == ""


def test_absent_figures_are_left_out() -> None:
    figures = summary(Run(model="popularity", data="demo", seed=0))
    assert figures == {"status": "ok", "train_s/total": 0}
    assert not any(isinstance(value, float) and math.isnan(value) for value in figures.values())
