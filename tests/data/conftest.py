"""Raw files for the tests: a tiny public data set that is made here, and the real ones where they lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbench.data import public, raw, recipes
from recbench.data.public import DataSet, Golden
from recbench.data.raw import RawFile

TINY = b"1 1 2 3\n2 2 3 4 5\n3 5 1 2 2\n"  # 3 users, 5 items, 11 interactions, one repeat


@pytest.fixture
def raw_root() -> Path:
    """The folder with the real raw files."""
    named = os.environ.get("RECBENCH_RAW", "").split(os.pathsep)[0]
    root = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"needs the real raw files: set RECBENCH_RAW, or put them into {root}")
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no raw folders."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RECBENCH_CACHE", str(folder))
    monkeypatch.delenv("RECBENCH_RAW", raising=False)
    return folder


@pytest.fixture
def tiny(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:  # noqa: ARG001
    """A data set called `tiny`, its raw file `<tmp>/raw/tiny/Tiny.txt` in place, no way to download."""
    sequences = RawFile("tiny", "Tiny.txt", "http://127.0.0.1:9/Tiny.txt", raw.sha256(TINY))
    data_set = DataSet(
        "tiny",
        "made up",
        (sequences,),
        recipes.sequences,
        Golden(3, 5, 11),
        attributes=RawFile("tiny", "Tiny.json"),
        digests=recipes.sequence_digests,
    )
    monkeypatch.setitem(public.DATA_SETS, "tiny", data_set)
    (tmp_path / "raw" / "tiny").mkdir(parents=True)
    (tmp_path / "raw" / "tiny" / "Tiny.txt").write_bytes(TINY)
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "raw"))
    return data_set
