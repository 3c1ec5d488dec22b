"""`experiments/traffic.py` on the demo world: what it counts, by hand; what it times, within bounds."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import run_folder, small_data, taught

from recbench.cli import main
from recbench.edge.policy import Always, Never, RandomBudget
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.models import LastItem
from recbench.models.collaborative import Boundary

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
sys.path.insert(0, str(Path(__file__).parent / "edge"))
import traffic
from minimal import Minimal


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], traffic.Row]:
    """A method that asks a third of the time and has what was said two items ago."""
    boundary = Boundary(policy=RandomBudget(budget=0.3), lag=2, deadline_ms=500)
    minimal = Minimal(device="Popularity", num_candidates=20, boundary=boundary)
    model = taught(minimal, tmp_path_factory.mktemp("stages"))
    found = traffic.rows("minimal", model, small_data(), num_calls=200)
    return {(row.method, row.network): row for row in found}


def test_every_network_has_a_row_for_each_way_of_asking(rows: Any) -> None:
    ways = ("minimal", "minimal, always asking")
    assert list(rows) == [(way, network) for way in ways for network in traffic.NETWORKS]


def test_bytes_are_those_of_the_frames(rows: Any) -> None:
    data = small_data()
    lengths = torch.cat([(batch.history != 0).sum(1) for batch in data.targets("test")]).double()
    always = rows["minimal, always asking", "perfect"]
    # head 12, name 2 + 16, items 5 + 4 each, two numbers and a flag 12, checksum 4: see the record's test
    assert always.bytes_up == pytest.approx(51 + 4 * float(lengths.mean()))
    assert always.bytes_down == 204
    assert always.num_users == len(lengths)
    sometimes = rows["minimal", "perfect"]
    assert sometimes.bytes_down == pytest.approx(204 * sometimes.served["cloud"])
    lost = rows["minimal, always asking", "edge_of_cell"]
    assert lost.bytes_up == always.bytes_up  # sent, whether it comes or not
    assert lost.bytes_down == pytest.approx(204 * lost.served["cloud"], rel=0.05)  # some come too late


def test_who_is_served_from_depends_on_policy_and_network(rows: Any) -> None:
    assert rows["minimal, always asking", "perfect"].served == {"cloud": 1, "cache": 0, "device": 0}
    assert rows["minimal", "perfect"].served["cloud"] == pytest.approx(0.3, abs=0.1)
    for row in rows.values():
        assert sum(row.served.values()) == pytest.approx(1)
        assert row.served["device"] == 0  # there is always something in the cache
    away = rows["minimal, always asking", "offline_windows"].served["cloud"]
    assert away == pytest.approx(1 - 35 / 180, abs=0.1)
    assert 0.7 < rows["minimal, always asking", "edge_of_cell"].served["cloud"] < 0.95**2 + 0.07


def test_metrics_are_those_of_an_evaluation(rows: Any, tmp_path: Path) -> None:
    model = taught(Minimal(device="Popularity", num_candidates=20), tmp_path)
    plain = means(evaluate(model, small_data()).ranks)
    found = rows["minimal, always asking", "wifi"].metrics
    assert found == pytest.approx({key: plain[key] for key in ("hr@10", "ndcg@10")})
    old = rows["minimal", "perfect"].metrics
    assert old != pytest.approx(found)  # most of it rests on what was said two items ago


def test_measured_and_modelled_time_are_apart(rows: Any) -> None:
    for (_, network), row in rows.items():
        assert set(row.times) == set(traffic.TIMES)
        parts, whole = row.times, row.times[traffic.BOTH]
        assert parts["device"].p50_ms <= parts[traffic.MEASURED].p50_ms <= whole.p50_ms
        assert parts["network"].p95_ms <= 500  # nobody waits longer than the deadline
        if network == "perfect":
            assert parts["network"].p95_ms == 0
            assert whole == parts[traffic.MEASURED]
    slow = rows["minimal, always asking", "3g"].times
    # there and back 150 ms, jitter of a median of 20, about 100 bytes at .5 and 204 at 2 Mbit/s
    assert slow["network"].p50_ms == pytest.approx(172.5, abs=4)
    assert slow[traffic.BOTH].p50_ms > slow["network"].p50_ms
    assert rows["minimal", "3g"].times["network"].p50_ms == 0  # most do not ask


def test_a_method_of_one_side_asks_nobody(tmp_path: Path) -> None:
    model, data = taught(LastItem(), tmp_path), small_data()
    (row,) = traffic.rows("last_item", model, data, num_calls=200)
    assert (row.network, row.bytes_up, row.bytes_down) == ("any", 0, 0)
    assert row.served == {"cloud": 0, "cache": 0, "device": 1}
    assert set(row.times) == {"device", traffic.MEASURED, traffic.BOTH}
    assert row.metrics["hr@10"] == means(evaluate(model, data).ranks)["hr@10"]


@pytest.mark.parametrize(
    ("boundary", "count"),
    [
        (Boundary(), 1),
        (Boundary(policy=Never()), 1),  # there is no cloud at all
        (Boundary(policy=Never(), lag=2), 2),
        (Boundary(policy=Always(), lag=2), 1),
    ],
)
def test_asking_always_is_shown_where_a_cache_does_without(boundary: Boundary, count: int) -> None:
    found = traffic.ways("it", boundary)
    assert len(found) == count
    assert found["it"] == boundary
    if count == 2:
        asking = found["it, always asking"]
        assert isinstance(asking.policy, Always)
        assert replace(asking, policy=None) == replace(boundary, policy=None)


def test_of_run_folders_it_prints_a_table_or_lines(tmp_path: Path, capsys: Any) -> None:
    folders = [f"--runs={tmp_path}/runs", f"--results={tmp_path}/results", "--wandb=disabled"]
    assert main(["fit", "--model", "popularity", "--data", "demo", "--name", "mine", *folders]) == 0
    folder = str(run_folder(tmp_path))
    capsys.readouterr()
    traffic.main([folder, "--json", "--calls", "200"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["method"], found["data"], found["network"]) == ("mine", "demo", "any")
    assert set(found["ms"]["device"]) == {"p50", "p95"}
    traffic.main([folder, folder, "--calls", "200"])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2
    assert len({line.count("|") for line in table}) == 1
    assert table[2].split(" | ")[-2:] == [f"{found['hr@10']:.4f}", f"{found['ndcg@10']:.4f} |"]
