"""The Run record: what one training and evaluation found, and under which conditions. Imports no torch.

A record is one JSON file, `results/<data>/<model>/<seed>-<hash8>.json`; the per-user ranks lie beside it as
`<seed>-<hash8>.ranks.parquet`. Nothing else in recbench writes numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from recbench.errors import DataError, ResourceError
from recbench.metrics import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1  # raise it when a record of the version before can no longer be read
PROGRESS = "progress.json"  # in a run's folder of stages: how far the present one is
PROTOCOL = "loo-full"  # leave-one-out by time, all items ranked

Status = Literal["ok", "diverged", "failed", "timeout"]
_IDENTITY = ("schema_version", "model", "data", "protocol", "seed", "status", "origin")


class _Frozen(BaseModel):
    # a NaN that JSON cannot hold would be written as null, and the record could never be read again
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Estimate(_Frozen):
    """A mean over users with its 95 % bootstrap interval; a cited figure has none."""

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class Latency(_Frozen):
    """Milliseconds of one `recommend` call at batch 1, after warm-up."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    num_calls: int


class StageCost(_Frozen):
    """What one stage of training took."""

    train_s: float
    num_epochs: int
    best_epoch: int | None = None


class Run(_Frozen):
    """One line of truth: conditions, figures, cost.

    `latency` has the keys `device`, `cloud` and `network` as far as the method has them; compute is measured,
    network time is modelled, and they are never added up here. `num_parameters` and `num_bytes` are per side.
    """

    schema_version: int = SCHEMA
    model: str
    data: str
    protocol: str = PROTOCOL
    seed: int | None = None
    status: Status = "ok"
    origin: Literal["measured", "cited"] = "measured"
    num_users: int | None = None
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    cohorts: dict[str, dict[str, Estimate]] = Field(default_factory=dict)  # e.g. held-out users
    cohort_sizes: dict[str, int] = Field(default_factory=dict)
    validation: dict[str, float] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    config_hash: str = ""
    tuned: dict[str, Any] = Field(default_factory=dict)  # how the options were found
    data_fingerprint: str = ""
    ranks_sha256: str = ""
    stages: dict[str, StageCost] = Field(default_factory=dict)
    latency: dict[str, Latency] = Field(default_factory=dict)
    evaluation_users_per_s: float | None = None
    bytes_up: float | None = None
    bytes_down: float | None = None
    exchanges: float | None = None  # per request, as the bytes
    served: dict[str, float] = Field(default_factory=dict)  # share of requests by whose word
    num_parameters: dict[str, int] = Field(default_factory=dict)
    num_bytes: dict[str, int] = Field(default_factory=dict)
    commit: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    finished: str = ""  # UTC, ISO 8601
    source: str = ""  # of a cited figure: paper, table, and who reports it
    note: str = ""

    @field_validator("schema_version")
    @classmethod
    def _known_schema(cls, version: int) -> int:
        if not 1 <= version <= SCHEMA:
            raise ValueError(f"schema {version} is not known here (1 to {SCHEMA}), a newer recbench reads it")
        return version

    @property
    def key(self) -> str:
        """`<data>/<model>/<seed>-<hash8>`: the record's place below the results folder."""
        return f"{self.data}/{self.model}/{self.seed}-{self.config_hash[:8]}"


def config_hash(config: dict[str, Any], data_fingerprint: str) -> str:
    """sha256 over everything that decides a run's numbers."""
    canonical = json.dumps([config, data_fingerprint], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def without_nulls(config: Any) -> Any:
    """A configuration without what is null: an option that is off is the same as one not known yet."""
    if not isinstance(config, dict):
        return config
    return {key: without_nulls(part) for key, part in config.items() if part is not None}


def write_atomic(path: Path, content: bytes) -> None:
    """Write all of `content` to `path` or nothing: temporary file in the same folder, fsync, rename.

    Raises:
        ResourceError: the disk is full, or the folder may not be written to.
    """
    try:
        _write_atomic(path, content)
    except OSError as error:
        way_out = "free some space or choose another folder, then run again; nothing was changed"
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}; {way_out}") from None


def _write_atomic(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_run(
    run: Run, root: Path, *, users: NDArray[np.int64] | None = None, ranks: Ranks | None = None
) -> Path:
    """Write the record below `root`, its ranks first so that it never lacks them; returns its path."""
    path = root / f"{run.key}.json"
    if ranks is not None:
        assert users is not None, "ranks are stored by user"
        assert len(np.unique(users)) == len(users), "every user counts once"
        frame = pl.DataFrame({"user": users, "rank": ranks.rank, "ties": ranks.ties})
        buffer = io.BytesIO()
        frame.sort("user").write_parquet(buffer, compression="zstd", statistics=False)
        write_atomic(ranks_path(path), buffer.getvalue())
        run = run.model_copy(update={"ranks_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
    write_atomic(path, _dump(run))
    return path


def _dump(run: Run) -> bytes:
    """The record as JSON without its defaults, save those that say how to read it."""
    identity = {name: getattr(run, name) for name in _IDENTITY}
    found = json.loads(run.model_dump_json(exclude_defaults=True))
    return (json.dumps(identity | found, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_run(path: Path) -> Run:
    """Read one record.

    Raises:
        DataError: the file cannot be read, is no JSON, or is not a record of a schema this version knows.
    """
    try:
        return Run.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such record") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; a record is a .json file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path}: {where}: {first['msg']}; restore the record or delete it and rerun"
        ) from None


def read_runs(root: Path) -> list[Run]:
    """Every record below `root`, in path order.

    Raises:
        DataError: a file is no record, or lies where its own data, model, seed and hash do not put it.
    """
    paths = sorted(root.rglob("*.json"))
    runs = [read_run(path) for path in paths]
    for path, run in zip(paths, runs, strict=True):
        if path != root / f"{run.key}.json":
            raise DataError(
                f"{path}: by its content this record is {run.key}.json; move it there or delete it"
            )
    return runs


def ranks_path(record: Path) -> Path:
    """Where the per-user ranks of `record` lie."""
    return record.with_suffix(".ranks.parquet")


def read_ranks(record: Path, sha256: str) -> tuple[NDArray[np.int64], Ranks]:
    """Users and ranks stored beside `record`.

    Raises:
        DataError: the file is missing or its sha256 is not `sha256`.
    """
    path = ranks_path(record)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: the ranks of this record are missing; rerun it to get them") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(
            f"{path}: sha256 {digest[:12]}… is not the record's {sha256[:12]}…; restore it or rerun"
        )
    frame = pl.read_parquet(io.BytesIO(content))
    ranks = Ranks(frame["rank"].to_numpy().astype(np.float64), frame["ties"].to_numpy().astype(np.int64))
    return frame["user"].to_numpy(), ranks
