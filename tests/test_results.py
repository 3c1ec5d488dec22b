import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from recbench import results
from recbench.errors import DataError, ResourceError
from recbench.metrics import Ranks
from recbench.results import (
    Estimate,
    Latency,
    Run,
    StageCost,
    config_hash,
    ranks_path,
    read_ranks,
    read_run,
    read_runs,
    write_atomic,
    write_run,
)

USERS = np.array([3, 0, 2])
RANKS = Ranks(np.array([1.0, np.inf, 2.5]), np.array([1, 1, 2]))


def full_run(**changes: object) -> Run:
    """A record with something in every kind of field."""
    fields = {
        "model": "sasrec",
        "data": "beauty",
        "seed": 1,
        "config": {"model": {"dim": 64, "loss": None}, "seed": 1},
        "config_hash": "0123456789abcdef",
        "data_fingerprint": "f" * 64,
        "num_users": 3,
        "metrics": {"hr@10": Estimate(value=2 / 3, low=0.1, high=1.0)},
        "latency": {"device": Latency(p50_ms=1.0, p95_ms=2.0, p99_ms=3.0, num_calls=200)},
        "stages": {"train": StageCost(train_s=1.5, num_epochs=2)},
        "hardware": {"processor": "µ", "cores": 2},
        "note": "line one\nline two",
    }
    return Run.model_validate(fields | changes)


class TestRoundTrip:
    def test_a_record_reads_back_as_it_was(self, tmp_path: Path) -> None:
        assert read_run(write_run(full_run(), tmp_path)) == full_run()

    def test_ranks_read_back_by_user(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path, users=USERS, ranks=RANKS)
        users, ranks = read_ranks(path, read_run(path).ranks_sha256)
        assert users.tolist() == [0, 2, 3]
        assert ranks.rank.tolist() == [np.inf, 2.5, 1.0]
        assert ranks.ties.tolist() == [1, 2, 1]

    def test_the_key_says_where_it_lies(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path, users=USERS, ranks=RANKS)
        assert path == tmp_path / "beauty" / "sasrec" / "1-01234567.json"
        assert ranks_path(path) == tmp_path / "beauty" / "sasrec" / "1-01234567.ranks.parquet"

    def test_what_says_how_to_read_it_is_always_written(self, tmp_path: Path) -> None:
        written = json.loads(write_run(full_run(), tmp_path).read_bytes())
        assert {name: written[name] for name in ("schema_version", "protocol", "status", "origin")} == {
            "schema_version": 1,
            "protocol": "loo-full",
            "status": "ok",
            "origin": "measured",
        }

    def test_equal_records_are_equal_bytes(self, tmp_path: Path) -> None:
        first = write_run(full_run(), tmp_path / "a", users=USERS, ranks=RANKS)
        second = write_run(
            full_run(), tmp_path / "b", users=USERS[::-1], ranks=Ranks(*(r[::-1] for r in RANKS))
        )
        assert first.read_bytes() == second.read_bytes()
        assert ranks_path(first).read_bytes() == ranks_path(second).read_bytes()

    def test_a_diverged_validation_can_be_read_back(self, tmp_path: Path) -> None:
        run = full_run(status="diverged", metrics={}, validation={"hr@10": float("nan")})
        assert np.isnan(read_run(write_run(run, tmp_path)).validation["hr@10"])

    def test_a_metric_is_a_number(self) -> None:
        with pytest.raises(ValidationError, match="finite"):
            Estimate(value=float("nan"))

    def test_read_runs_is_in_path_order(self, tmp_path: Path) -> None:
        for model in ("sasrec", "itemknn"):
            write_run(full_run(model=model), tmp_path, users=USERS, ranks=RANKS)
        assert [run.model for run in read_runs(tmp_path)] == ["itemknn", "sasrec"]

    def test_no_folder_holds_no_records(self, tmp_path: Path) -> None:
        assert read_runs(tmp_path / "none") == []

    def test_a_user_counts_once(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="every user counts once"):
            write_run(full_run(), tmp_path, users=np.array([0, 0, 1]), ranks=RANKS)


class TestConfigHash:
    def test_does_not_depend_on_the_order_of_keys(self) -> None:
        assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}, "f") == config_hash(
            {"b": {"d": 3, "c": 2}, "a": 1}, "f"
        )

    @pytest.mark.parametrize("other", [({"a": 2}, "f"), ({"a": 1}, "g"), ({"a": "1"}, "f"), ({"b": 1}, "f")])
    def test_depends_on_every_value_and_on_the_data(self, other: tuple[dict[str, object], str]) -> None:
        assert config_hash(*other) != config_hash({"a": 1}, "f")

    def test_is_sha256_of_canonical_json(self) -> None:
        # printf '[{"a":1},"f"]' | sha256sum
        assert (
            config_hash({"a": 1}, "f") == "40768fd326efae31eb4f02299938d78af1f810dff5166f1b642575a1f93ead2b"
        )

    def test_is_the_same_in_another_process(self) -> None:
        code = "import recbench.results as r; print(r.config_hash({'b': {'x': 1.5}, 'a': [1, None]}, 'f'))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": "7"},
        )
        assert done.stdout.strip() == config_hash({"a": [1, None], "b": {"x": 1.5}}, "f")


class TestAtomic:
    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failing_write_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        path = tmp_path / "record.json"
        write_atomic(path, b"old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os if step == "fsync" else Path, step, full)
        with pytest.raises(ResourceError) as caught:
            write_atomic(path, b"new")
        assert caught.value.exit_code == 6
        assert str(caught.value).startswith(f"{path}: cannot be written: No space left on device; ")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_interrupt_leaves_no_temporary_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "record.json", b"new")
        assert list(tmp_path.iterdir()) == []

    def test_folders_are_made(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "a" / "b", b"x")
        assert (tmp_path / "a" / "b").read_bytes() == b"x"

    def test_a_file_in_place_of_the_folder_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(ResourceError, match="cannot be written"):
            write_atomic(tmp_path / "a" / "b", b"x")

    def test_without_its_ranks_there_is_no_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise ResourceError("full")

        monkeypatch.setattr(results, "write_atomic", full)
        with pytest.raises(ResourceError):
            write_run(full_run(), tmp_path, users=USERS, ranks=RANKS)
        assert read_runs(tmp_path) == []


def assert_one_line(caught: pytest.ExceptionInfo[DataError], path: Path) -> None:
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class TestDamaged:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"\xff\xfe\x00",
            b"{}",
            b'{"model": "a", "data": "b", "metrics": {"hr@10": {"value": "many"}}}',
            b'{"model": "a", "data": "b", "status": "great"}',
            b'{"model": "a", "data": "b", "hr": 1}',
            b'{"model": "a", "data": "b", "schema_version": 99}',
        ],
        ids=[
            "empty",
            "cut",
            "list",
            "bytes",
            "nothing in it",
            "text",
            "status",
            "unknown key",
            "newer schema",
        ],
    )
    def test_a_damaged_record_is_one_line(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "0-0.json"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_run(path)
        assert_one_line(caught, path)

    def test_every_cut_of_a_record_is_refused(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path)
        content = path.read_bytes()
        for length in range(0, len(content) - 2, 7):
            path.write_bytes(content[:length])
            with pytest.raises(DataError):
                read_run(path)

    def test_a_missing_record(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such record") as caught:
            read_run(tmp_path / "0-0.json")
        assert_one_line(caught, tmp_path / "0-0.json")

    def test_a_folder_is_no_record(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"a record is a \.json file") as caught:
            read_run(tmp_path)
        assert_one_line(caught, tmp_path)

    def test_a_misplaced_record_is_refused(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path)
        moved = path.rename(path.with_name("2-01234567.json"))
        with pytest.raises(
            DataError, match=r"by its content this record is beauty/sasrec/1-01234567\.json"
        ) as caught:
            read_runs(tmp_path)
        assert_one_line(caught, moved)

    def test_missing_ranks(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path, users=USERS, ranks=RANKS)
        ranks_path(path).unlink()
        with pytest.raises(DataError, match="ranks of this record are missing") as caught:
            read_ranks(path, read_run(path).ranks_sha256)
        assert_one_line(caught, ranks_path(path))

    def test_every_changed_byte_of_the_ranks_is_noticed(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path, users=USERS, ranks=RANKS)
        content = ranks_path(path).read_bytes()
        for place in range(0, len(content), 11):
            changed = bytearray(content)
            changed[place] ^= 1
            ranks_path(path).write_bytes(changed)
            with pytest.raises(DataError, match="sha256") as caught:
                read_ranks(path, read_run(path).ranks_sha256)
        assert_one_line(caught, ranks_path(path))

    def test_other_ranks_are_noticed(self, tmp_path: Path) -> None:
        path = write_run(full_run(), tmp_path, users=USERS, ranks=RANKS)
        pl.read_parquet(ranks_path(path)).with_columns(rank=1.0).write_parquet(ranks_path(path))
        with pytest.raises(DataError, match="sha256"):
            read_ranks(path, read_run(path).ranks_sha256)


def test_records_and_leaderboard_import_no_torch() -> None:
    code = "import sys, recbench.results, recbench.leaderboard, recbench.tracking; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"torch", "lightning", "wandb"}.isdisjoint(done.stdout.split())
