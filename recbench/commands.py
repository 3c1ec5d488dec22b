"""What the commands that build no model from options do; `fit` is in runs.py.

Plain functions: the signature and the docstring are the schema and the help, the return value is printed. No
annotation here is of a module that imports torch: resolving one imports it, and help shall be instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recbench.config import preset_file
from recbench.data.tables.columns import Columns
from recbench.errors import UsageError
from recbench.runs import restore, retrain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from recbench.data.catalog import Catalog


def evaluate(run: Path, *, groups: bool = False) -> Table:
    """Rank every user's test item with a saved run.

    Args:
        run: folder of a finished run, such as runs/demo-sasrec-0-1a2b3c4d.
        groups: tell users with short, medium and long histories apart.
    """
    model, data = restore(run)  # before torch is imported: a misspelt folder is told at once
    from recbench import figures
    from recbench.evaluate import estimates, of_lengths
    from recbench.evaluate import evaluate as rank_targets

    found = rank_targets(model, data)
    title = f"{run.name}: {len(found.users):,} users, {data.protocol}"
    if groups:
        table = figures.group_table(title, of_lengths(found.ranks, data.sequences.lengths[found.users]))
    else:
        table = figures.metric_table(title, estimates(found.ranks))
    table.caption = "\n".join((*data.notes(), *found.notes())) or table.caption
    return table


def recommend(run: Path, *, user: int, k: int = 10) -> Table:
    """Show what a saved run recommends to one user now.

    Args:
        run: folder of a finished run, such as runs/demo-sasrec-0-1a2b3c4d.
        user: index of the user, from 0.
        k: how many items.
    """
    model, data = restore(run)
    _check_request(data.catalog, data.prepared.name, user=user, k=k)
    import numpy as np
    import torch

    from recbench.figures import item_table

    with torch.inference_mode():
        best = model.eval().recommend(data.request(np.array([user]), back=0), k)
    return item_table(data.catalog, best.items[0].tolist(), best.scores[0].tolist())


def serve_cloud(
    *,
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    requests_per_s: float = 100.0,
) -> Iterator[str]:
    """Answer the devices of a saved run until interrupted; of a method with one side, list its candidates.

    Args:
        run: folder of a finished run, such as runs/demo-sasrec-0-1a2b3c4d.
        host: address to listen at; any but this machine's own needs a token.
        port: 0 for any that is free.
        token_file: file with the token that devices must show.
        requests_per_s: more are refused.
    """
    from recbench.edge.http import read_token

    token = read_token(token_file)
    model, data = restore(run)
    from recbench.edge.server import Server, cloud_of

    cloud = cloud_of(model, data.catalog)
    server = Server(cloud, host=host, port=port, token=token, requests_per_s=requests_per_s)
    yield f"cloud of {run.name} at {server.url}"
    server.run()


def device(
    *,
    cloud: str,
    run: Path,
    user: int = 0,
    k: int = 10,
    token_file: Path | None = None,
    deadline_ms: float = 1000.0,
) -> Table:
    """Show what the device of one user recommends now, with the help of a cloud that `serve cloud` runs.

    Args:
        cloud: its address, such as http://127.0.0.1:8000.
        run: folder of the run that the cloud serves.
        user: index of the user, from 0.
        k: how many items.
        token_file: file with the cloud's token, where it wants one.
        deadline_ms: after which the device answers without the cloud.
    """
    from recbench.edge.http import Http, read_token

    token = read_token(token_file)
    model, data = restore(run)
    _check_request(data.catalog, data.prepared.name, user=user, k=k)
    import numpy as np
    import torch

    from recbench.edge.device import Device
    from recbench.figures import item_table
    from recbench.models.collaborative import Collaborative

    if not isinstance(model, Collaborative):
        name = type(model).__name__
        raise UsageError(f"--run {run}: {name} has one side; recbench recommend shows what it recommends")
    policy, tries = model.boundary.policy, model.boundary.num_tries
    with Http(cloud, timeout_ms=deadline_ms / tries, token=token) as link, torch.inference_mode():
        side = Device(model.device_side(), link, policy=policy, deadline_ms=deadline_ms, num_tries=tries)
        answer = side.answer(data.request(np.array([user]), back=0))
        best = answer.recommend(k)
    table = item_table(data.catalog, best.items[0].tolist(), best.scores[0].tolist())
    crossed = side.gate.traffic
    waited = f", {answer.wait_ms[0]:.0f} ms" if answer.source[0] == "cloud" else ""
    said = f"by {answer.source[0]}{waited}; {crossed.bytes_up} bytes up, {crossed.bytes_down} down"
    table.caption = f"{said}; the cloud: {link.problem}" if link.problem else said
    return table


def export(
    run: Path,
    *,
    to: Literal["onnx"] = "onnx",
    int8: bool = False,
    shard: int = 0,
    out: Path | None = None,
    k: int = 10,
    users: int = 1000,
) -> Table:
    """Write what a device needs of a saved run, check it against torch, and time it.

    Args:
        run: folder of a finished run, such as runs/demo-sasrec-0-1a2b3c4d.
        to: format of the file.
        int8: also write matrices as small integers, to a second file.
        shard: write the item table in shards of so many rows beside the file; 0 for all of it in the file.
        out: the file; device.onnx in the run's folder unless given.
        k: how many items it recommends.
        users: how many are compared.
    """
    model, data = restore(run)
    _check_request(data.catalog, data.prepared.name, user=0, k=k)
    if users < 1:
        raise UsageError(f"--users {users}: compare at least one")
    from recbench.export import Form
    from recbench.export import export as write
    from recbench.figures import export_table

    file = out or run / f"device.{to}"
    found = write(model, data, file, form=Form(int8=int8, shard=shard, k=k), num_users=users)
    return export_table(f"{run.name} on the device, one user at a time", found, file, k=k)


def _check_request(catalog: Catalog, name: str, *, user: int, k: int) -> None:
    if not 0 <= user < catalog.num_users:
        raise UsageError(f"--user {user}: {name} has users 0 to {catalog.num_users - 1}")
    if not 1 <= k <= catalog.num_items:
        raise UsageError(f"--k {k}: {name} has {catalog.num_items} items; ask for 1 to {catalog.num_items}")


def bench(
    plan: str,
    *,
    jobs: int = 1,
    retry: bool = False,
    runs: Path = Path("runs"),
    results: Path = Path("leaderboard/results"),
) -> str:
    """Run a matrix of models, data sets and seeds, each in its own process; what has a record is done.

    Args:
        plan: a preset of configs/bench, such as smoke, or a YAML file.
        jobs: runs at once.
        retry: run again what failed, diverged or took too long.
        runs: folder of run folders, logs and locks.
        results: folder of records.
    """
    from recbench.bench import Bench, BenchFailedError, Job, read_plan
    from recbench.bench.live import display
    from recbench.runs import blank

    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one run at a time")
    asked = read_plan(preset_file("bench", plan))
    todo = [Job(cell, blank(cell.words)) for cell in asked.cells]
    runner = Bench(runs, results, num_parallel=jobs, timeout_s=asked.timeout_s, retry=retry)
    with display() as show:
        runner.run(todo, show=show)
    bad = [job for job in todo if job.state != "ok"]
    if bad:
        first = f"{bad[0].cell}: {bad[0].state}, {bad[0].note}"
        raise BenchFailedError(f"{len(bad)} of {len(todo)} runs did not end well; the first is {first}")
    return f"{len(todo)} runs done; recbench leaderboard shows them"


def leaderboard(root: Path = Path("leaderboard")) -> str:
    """Regenerate the tables from the records.

    Args:
        root: folder that holds `results/` and receives the tables.
    """
    from recbench import leaderboard as tables

    return "\n".join(f"wrote {path}" for path in tables.leaderboard(root))


def replay(record: Path, *, train: bool = False) -> str | Table:
    """Recompute a record's metrics from its stored ranks.

    Args:
        record: a record, such as leaderboard/results/demo/sasrec/0-1a2b3c4d.json.
        train: train and evaluate from scratch instead, in a folder that is thrown away.
    """
    from recbench import leaderboard as tables

    return retrain(record) if train else tables.replay(record)


def data_list() -> str:
    """List the data sets."""
    from recbench.data import audit

    return audit.list_text()


def data_prepare(name: str) -> str:
    """Prepare a data set into the cache.

    Args:
        name: a data set, or the path of your own file of sequences.
    """
    from recbench.data import audit

    return audit.prepare_text(name)


def data_check(
    name: str,
    *,
    columns: Columns = Columns(),  # noqa: B008 - immutable
    strict: bool = False,
    save: Path | None = None,
) -> str:
    """Check a data set for leaks, ties, repeats and duplicates; of your own file, say all that is wrong.

    Args:
        name: a data set, or the path of your own table or file of sequences.
        columns: which column of your table holds what; found by their usual names unless declared.
        strict: end with exit code 3 where the data has a fault.
        save: write the settings that use your file, for `recbench fit --data`, to this YAML file.
    """
    from recbench.data import audit

    return audit.check_text(name, columns=columns, strict=strict, save=save)


def data_stats(name: str, *, picture: Path | None = None) -> str:
    """Print the statistics of a data set.

    Args:
        name: a data set, or the path of your own file of sequences.
        picture: draw the lengths of histories and the popularity of items into this SVG file.
    """
    from recbench.data.stats import stats_text

    return stats_text(name, picture=picture)


def weights_get(name: str) -> str:
    """Fetch the weights of a language model, once, into the cache.

    Args:
        name: such as smollm2-135m (recbench weights list), or a hub's owner/name.
    """
    from recbench import weights

    return f"{name} is in {weights.get(name)}"


def weights_list() -> str:
    """List the language models that have short names."""
    from recbench import weights

    return weights.list_text()
