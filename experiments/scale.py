"""How long and in how much memory millions of reviews are prepared: one JSON line per figure.

    python experiments/scale.py                        # 1, 3 and 10 million reviews, beside pandas
    python experiments/scale.py data/prepare-1m        # one of them

A file in Amazon's 2014 layout is generated; then, each in a process of its own on two cores, it is merely
unpacked (the floor), prepared by recbench, and prepared by pandas: read, 5-core, order by user, time and
place in the file, numbers for ids, parquet. pandas reads in chunks, of which it keeps the wanted columns, as
one has to at this size; it is no dependency and left out, with the reason, where it is not installed. Both
must keep the same rows. The peak is the resident memory of the process as the kernel counts it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MILLIONS = {"data/prepare-1m": 1, "data/prepare-3m": 3, "data/prepare-10m": 10}
NUM_CORES = 2
CORE = 5
COLUMNS = ["reviewerID", "asin", "unixReviewTime"]
PARQUET: Any = {"compression": "zstd", "compression_level": 1}
CHUNK = 100_000  # rows of a pandas chunk

Sizes = tuple[int, int, int]


class Spent(NamedTuple):
    """What a process needed, and what it said: users, items and interactions, or nothing."""

    seconds: float
    cpu_s: float
    peak_gib: float
    sizes: list[int]


def unpack(path: Path, _: Path) -> None:
    """The floor: the bytes, and nothing done with them."""
    from isal import igzip

    with igzip.open(path) as file:
        while file.read(1 << 20):
            pass


def with_recbench(path: Path, target: Path) -> Sizes:
    """From the reviews to the prepared tables."""
    from recbench.data.prepared import assemble
    from recbench.data.selection import Selection, narrow
    from recbench.data.source import Source, bare_items
    from recbench.data.sources.amazon import read_2014

    log = read_2014(path)
    kept = narrow(log, Selection(min_user=CORE, min_item=CORE))
    source = Source(kept.interactions, bare_items(kept.interactions), log.clock, {}, notes=kept.notes)
    prepared = assemble("made", "generated reviews", source, index_seed=0)
    prepared.interactions.write_parquet(target / "interactions.parquet", **PARQUET)
    prepared.items.write_parquet(target / "items.parquet", **PARQUET)
    card = prepared.card
    return card.num_users, card.num_items, card.num_interactions


def with_pandas(path: Path, target: Path) -> Sizes:
    """The same, as one writes it with pandas; the parquet is polars', for pandas needs one more package."""
    import pandas as pd
    import polars as pl

    chunks = pd.read_json(path, lines=True, chunksize=CHUNK, dtype=False)  # dtype: ids stay text
    frame = pd.concat([chunk[COLUMNS] for chunk in chunks], ignore_index=True)
    frame.columns = pd.Index(["user", "item", "time"])
    while True:
        users, items = (frame.groupby(name)[name].transform("size") for name in ("user", "item"))
        kept = frame[(users >= CORE) & (items >= CORE)]
        if len(kept) == len(frame):
            break
        frame = kept
    frame = frame.sort_values(["user", "time"], kind="stable")
    user, users = pd.factorize(frame["user"])
    item, items = pd.factorize(frame["item"])
    numbered = pl.DataFrame({"user": user, "item": item + 1, "time": frame["time"].to_numpy()})
    numbered.write_parquet(target / "interactions.parquet", **PARQUET)
    names = pl.DataFrame({"item": range(1, len(items) + 1), "raw_id": items.tolist()})
    names.write_parquet(target / "items.parquet", **PARQUET)
    return len(users), len(items), len(frame)


WORK: dict[str, Callable[[Path, Path], Sizes | None]] = {
    "unpack": unpack,
    "recbench": with_recbench,
    "pandas": with_pandas,
}


def spent(kind: str, path: Path) -> Spent:
    """What one kind of work on `path` needs in a process of its own, the start of Python included."""
    command = [sys.executable, __file__, "--work", kind, str(path)]
    environment = os.environ | {"POLARS_MAX_THREADS": str(NUM_CORES), "OMP_NUM_THREADS": str(NUM_CORES)}
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{kind} on {path} ended with {process.returncode}")
    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20  # macOS counts bytes, Linux KiB
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit, json.loads(said))


def work(kind: str, path: Path) -> None:
    """Do one kind of work here, and say what sizes it gave."""
    with tempfile.TemporaryDirectory() as target:
        sizes = WORK[kind](path, Path(target))
    print(json.dumps(sizes or []))


def figures(name: str, folder: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of one size."""
    path = folder / f"reviews_Made_{MILLIONS[name]}m_5.json.gz"
    maker = Path(__file__).with_name("generate_reviews.py")
    made = [sys.executable, str(maker), str(path), "--millions", str(MILLIONS[name])]
    written = json.loads(subprocess.run(made, check=True, capture_output=True, text=True).stdout)
    floor, ours = spent("unpack", path), spent("recbench", path)
    rest = {"users_items_interactions": ours.sizes, "packed_mb": written["num_packed_bytes"] // 1_000_000}
    rest |= {"bytes_per_row": written["bytes_per_row"], "cpu_s": round(ours.cpu_s, 2)}
    if importlib.util.find_spec("pandas"):
        theirs = spent("pandas", path)
        if theirs.sizes != ours.sizes:
            raise SystemExit(f"{name}: pandas keeps {theirs.sizes}, recbench {ours.sizes}")
        versus, versus_peak = {"pandas": round(theirs.seconds, 1)}, {"pandas": round(theirs.peak_gib, 2)}
    else:
        versus = versus_peak = {"pandas": "left out: not installed, `pip install pandas`"}
    path.unlink()
    seconds = {"name": name, "value": round(ours.seconds, 2), "unit": "s", "versus": versus}
    seconds |= {"floor_ratio": round(ours.seconds / floor.seconds, 2)} | rest
    peak = {"name": f"{name}-peak", "value": round(ours.peak_gib, 2), "unit": "GiB", "versus": versus_peak}
    return [seconds, peak]


def main(names: list[str]) -> None:
    """Print the figures named, or all."""
    if names[:1] == ["--work"]:
        work(names[1], Path(names[2]))
        return
    unknown = set(names) - set(MILLIONS)
    if unknown:
        raise SystemExit(f"unknown figures {sorted(unknown)}; known: {', '.join(MILLIONS)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_CORES])
    with tempfile.TemporaryDirectory() as folder:
        for name in names or MILLIONS:
            for figure in figures(name, Path(folder)):
                print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
