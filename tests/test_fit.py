"""From a method and data to a record: what stands on it, where it lies, and what the curves say."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import torch
from small import RECIPE, at_step, interrupt, run, run_folder, small_data, small_model, steps_per_epoch

from recbench import checkpoint, leaderboard, runtime
from recbench.errors import CheckpointError, ResourceError
from recbench.evaluate import estimates, evaluate
from recbench.fit import load_run
from recbench.metrics import KEYS
from recbench.models import GRU4Rec, Popularity, SASRec
from recbench.results import Run, read_run, read_runs
from recbench.tracking import summary
from recbench.training import TrainerOptions

if TYPE_CHECKING:
    from recbench.models.base import Recommender

USERS, ITEMS = 150, 60
DIM, HIDDEN, LAYERS, PLACES = 8, 16, 1, 50  # of `small_model(SASRec)`


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where SASRec was trained for four epochs, a fifth of the users held out."""
    folder = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        run(folder, small_model(SASRec), small_data(heldout_rate=0.2), wandb="offline")
    return folder


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    (found,) = (folder / "results").rglob("*.json")
    return found


@pytest.fixture(scope="module")
def record(path: Path) -> Run:
    return read_run(path)


@pytest.mark.parametrize(("has", "told"), [(False, ["trainer.precision bf16-mixed"]), (True, [])])
def test_emulated_bfloat16_is_told_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has: bool,
    told: list[str],
) -> None:
    monkeypatch.setattr(runtime, "multiplies_bfloat16", lambda _="cpu": has)
    run(tmp_path, Popularity(), small_data(), trainer=TrainerOptions(precision="bf16-mixed", progress=False))
    heard = [line.partition(":")[0] for line in caplog.messages if "bfloat16" in line]
    assert heard == told


class TestRecord:
    def test_says_what_was_run(self, record: Run) -> None:
        card = small_data().prepared.card
        assert (record.model, record.data, record.seed) == ("sasrec", card.name, 0)
        assert (record.status, record.origin, record.protocol) == ("ok", "measured", "loo-full")
        assert record.config == {"model": "SASRec", "seed": 0}
        assert record.data_fingerprint == card.fingerprint
        assert record.versions == runtime.versions()
        assert record.hardware.items() >= {"threads": 1, "processor": runtime.hardware()["processor"]}.items()
        assert record.finished.endswith("+00:00")

    def test_says_by_which_protocol_and_who_was_left_out(self, tmp_path: Path) -> None:
        data = small_data(split="global_time", reach_km=0.5)
        found = read_run(run(tmp_path, Popularity(), data))
        assert found.protocol == "time-0.5km"
        assert found.num_users == len(data.evaluated("test")) < USERS
        cut, _, missing, beyond = found.note.split("; ")
        assert cut.startswith("validation from 20")
        assert missing == f"{USERS - found.num_users} of 150 users have no test target and are not evaluated"
        assert beyond.endswith("% of the targets are out of reach and count as misses")

    def test_has_every_metric_inside_its_interval(self, record: Run) -> None:
        assert set(record.metrics) == set(KEYS)
        assert len(KEYS) == 16
        for estimate in record.metrics.values():
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1

    def test_every_user_counts_once_and_heldout_ones_apart(self, record: Run) -> None:
        assert record.num_users == USERS * 0.8
        assert record.cohort_sizes == {"heldout": USERS * 0.2}
        assert set(record.cohorts["heldout"]) == set(KEYS)

    def test_has_validation_metrics(self, record: Run) -> None:
        assert set(record.validation) == set(KEYS)

    def test_latency_is_of_enough_calls(self, record: Run) -> None:
        (found,) = record.latency.values()
        assert list(record.latency) == ["device"]
        assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms
        assert found.num_calls >= 200
        assert record.evaluation_users_per_s > 0

    def test_parameters_and_bytes_are_counted(self, record: Run) -> None:
        norm = 2 * DIM
        attention = DIM * 3 * DIM + 3 * DIM + DIM * DIM + DIM
        forward = DIM * HIDDEN + HIDDEN + HIDDEN * DIM + DIM
        by_hand = (ITEMS + 1 + PLACES) * DIM + norm + LAYERS * (2 * norm + attention + forward) + norm
        assert record.num_parameters == {"device": by_hand}
        assert record.num_bytes == {"device": 4 * by_hand}  # float32, no buffers

    def test_stages_have_their_cost(self, record: Run) -> None:
        assert list(record.stages) == ["train"]
        train = record.stages["train"]
        assert train.num_epochs == RECIPE.max_epochs
        assert 1 <= train.best_epoch <= train.num_epochs
        assert train.train_s > 0

    def test_ranks_lie_beside_it_one_row_per_user(self, path: Path, record: Run) -> None:
        ranks = pl.read_parquet(path.with_suffix(".ranks.parquet"))
        assert ranks["user"].to_list() == small_data(heldout_rate=0.2).users("known").tolist()
        assert ranks["rank"].is_between(1, ITEMS).all()
        hits = (ranks["rank"] <= 10).mean()
        assert record.metrics["hr@10"].value == pytest.approx(hits, abs=1e-12)

    def test_replays(self, path: Path) -> None:
        assert leaderboard.replay(path).endswith("every metric is what the stored ranks give")

    def test_the_saved_run_gives_the_recorded_metrics(self, folder: Path, record: Run) -> None:
        data = small_data(heldout_rate=0.2)
        model = load_run(run_folder(folder), small_model(SASRec), data)
        assert estimates(evaluate(model, data).ranks) == record.metrics


class TestCurves:
    @pytest.fixture(scope="class")
    def log(self, folder: Path) -> Path:
        (found,) = (run_folder(folder) / "wandb").glob("offline-run-*")
        return found

    def test_the_summary_holds_the_record(self, log: Path, record: Run) -> None:
        found = json.loads(inspect(log, "--summary"))
        assert found["exit_code"] == 0
        assert found["config"] == record.config
        assert found["summary"].items() >= summary(record).items()
        for key, estimate in record.metrics.items():
            assert found["summary"][f"test/{key}"] == estimate.value

    def test_every_epoch_has_its_loss_and_its_validation(self, log: Path) -> None:
        lines = [json.loads(line) for line in inspect(log).splitlines()]
        points = [line["history"]["item"] for line in lines if line["type"] == "history"]
        for name in ("train/loss", "val/ndcg@10", "val/hr@10"):
            curve = {point["epoch"]: point[name] for point in points if name in point}
            assert list(curve) == list(range(RECIPE.max_epochs)), name
            assert all(np.isfinite(list(curve.values())))

    def test_the_best_validation_is_the_recorded_one(self, log: Path, record: Run) -> None:
        lines = [json.loads(line) for line in inspect(log).splitlines()]
        points = [line["history"]["item"] for line in lines if line["type"] == "history"]
        curve = {point["epoch"] + 1: point["val/ndcg@10"] for point in points if "val/ndcg@10" in point}
        best = record.stages["train"].best_epoch
        assert curve[best] == max(curve.values())
        assert curve[best] == pytest.approx(record.validation["ndcg@10"], abs=1e-6)  # logged as float32


def inspect(log: Path, *flags: str) -> str:
    """What wandb's own reader finds in an offline run."""
    command = [Path(sysconfig.get_path("scripts")) / "wandb", "leet", "inspect", *flags, "--json", log]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class TestRunFolder:
    def test_an_earlier_run_is_moved_aside(self, tmp_path: Path) -> None:
        run(tmp_path, Popularity())
        first = run_folder(tmp_path)
        (first / "note.txt").write_text("mine")
        run(tmp_path, Popularity())
        run(tmp_path, Popularity())
        names = sorted(folder.name for folder in first.parent.iterdir())
        assert names == [first.name, f"{first.name}.1", f"{first.name}.2"]
        assert (first.parent / f"{first.name}.1" / "note.txt").read_text() == "mine"
        assert not (first / "note.txt").exists()

    def test_a_resumed_one_stays(self, tmp_path: Path) -> None:
        run(tmp_path, Popularity())
        (run_folder(tmp_path) / "note.txt").write_text("mine")
        run(tmp_path, Popularity(), resume=True)
        assert (run_folder(tmp_path) / "note.txt").exists()

    def test_resume_of_a_run_that_never_was_is_a_run(self, tmp_path: Path) -> None:
        assert read_run(run(tmp_path, Popularity(), resume=True)).status == "ok"

    def test_seeds_do_not_share_a_folder(self, tmp_path: Path) -> None:
        run(tmp_path, Popularity(), seed=0)
        run(tmp_path, Popularity(), seed=1)
        assert len(list((tmp_path / "runs").iterdir())) == 2
        assert [found.seed for found in read_runs(tmp_path / "results")] == [0, 1]


class TestLoadRun:
    def test_an_unfinished_run_has_nothing_to_load(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, at_step(small_model(SASRec), steps_per_epoch() + 1, interrupt))
        with pytest.raises(CheckpointError, match="not a finished run; finish it with"):
            load_run(run_folder(tmp_path), small_model(SASRec), small_data())

    @pytest.mark.parametrize(
        ("model", "index_seed"),
        [(small_model(GRU4Rec), 0), (small_model(SASRec, num_layers=2), 0), (small_model(SASRec), 1)],
        ids=["method", "size", "data"],
    )
    def test_what_it_was_not_trained_for_is_refused(
        self, model: Recommender, index_seed: int, folder: Path
    ) -> None:
        with pytest.raises(CheckpointError, match="not the weights of this method and data"):
            load_run(run_folder(folder), model, small_data(index_seed=index_seed))

    def test_a_damaged_one_is_refused(self, tmp_path: Path) -> None:
        run(tmp_path, Popularity())
        file = run_folder(tmp_path) / "model.ckpt"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match="cut short"):
            load_run(run_folder(tmp_path), Popularity(), small_data())


def test_a_disk_that_fills_up_in_training_leaves_a_run_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = small_model(SASRec)
    run(tmp_path / "unbroken", unbroken)
    written: list[Path] = []
    write = checkpoint.write_atomic

    def filling(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) > 4:
            raise ResourceError(f"{path}: cannot be written: No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", filling)
        with pytest.raises(ResourceError, match="--resume goes on from the last whole epoch"):
            run(tmp_path / "full", small_model(SASRec))
    assert not (tmp_path / "full" / "results").exists()
    resumed = small_model(SASRec)
    run(tmp_path / "full", resumed, resume=True)
    for name, weights in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weights)


def test_threads_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    run(tmp_path, Popularity())
    assert asked == [1]
