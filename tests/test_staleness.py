"""`experiments/staleness.py` on the demo world: how old answers are, what views are, and the figure."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from small import run_folder, small_data, taught

from recbench.bench.plan import read_plan
from recbench.cli import main
from recbench.edge.policy import Never
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.models import LastItem
from recbench.models.collaborative import Boundary

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
sys.path.insert(0, str(Path(__file__).parent / "edge"))
import staleness
from minimal import Minimal

SVG = "{http://www.w3.org/2000/svg}"
DAY = 86_400


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return taught(Minimal(device="Popularity", num_candidates=20), tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def rows(minimal: Any) -> dict[tuple[str, float], staleness.Row]:
    return {(row.kind, row.at): row for row in staleness.rows("minimal", minimal, small_data())}


class TestAges:
    def test_a_lag_leaves_two_interactions(self, batch_of: Any) -> None:
        batch = batch_of([[1], [1, 2, 3], [1, 2, 3, 4, 5]])
        boundary = staleness.Aged(lag=2)
        assert boundary.missing(batch).tolist() == [0, 1, 2]
        assert boundary.earlier(batch).history.tolist() == [
            [0, 0, 0, 0, 1],
            [0, 0, 0, 1, 2],
            [0, 0, 1, 2, 3],
        ]

    def test_days_count_back_from_the_newest_interaction(self, batch_of: Any) -> None:
        batch = batch_of([[1, 2, 3, 4], [5, 6, 7]])
        times = torch.tensor([[1, 2, 8, 9], [0, 7, 8, 9]]) * DAY
        batch = replace(batch, times=times)
        assert staleness.Aged(lag=0, days=1).missing(batch).tolist() == [1, 1]
        assert staleness.Aged(lag=0, days=7).missing(batch).tolist() == [2, 1]  # two are left

    def test_what_they_are_in_fact_is_told(self) -> None:
        lengths = np.concatenate([(b.history != 0).sum(1).numpy() for b in small_data().targets("test")])
        lines = list(staleness.effective_lags(small_data()))
        assert len(lines) == len(staleness.LAGS) - 1
        shares = dict(part.split(": ") for part in lines[-1].partition("in fact ")[2].split(", "))
        assert shares["10"] == f"{(lengths >= 12).mean():.1%}"
        assert shares["3"] == f"{(lengths == 5).mean():.1%}"


class TestViews:
    def test_all_are_there(self, rows: Any) -> None:
        wanted = [("lag", lag) for lag in staleness.LAGS] + [("days", days) for days in staleness.DAYS]
        wanted.append(("alone", 0))
        wanted += [(kind, budget) for kind in ("random", "chosen") for budget in staleness.BUDGETS]
        assert list(rows) == wanted

    def test_fresh_is_what_asking_always_gives(self, rows: Any, minimal: Any) -> None:
        minimal.cross(Boundary())
        wanted = means(evaluate(minimal, small_data()).ranks)["ndcg@10"]
        assert rows["lag", 0].means["ndcg@10"] == pytest.approx(wanted)
        assert rows["lag", 0].change == (0, 0, 0)

    def test_old_is_what_a_lagged_cache_gives(self, rows: Any, minimal: Any) -> None:
        minimal.cross(Boundary(policy=Never(), lag=1))
        wanted = means(evaluate(minimal, small_data()).ranks)["ndcg@10"]
        assert rows["lag", 1].means["ndcg@10"] == pytest.approx(wanted)  # everybody has three items at least
        mean, low, high = rows["lag", 1].change
        assert mean == pytest.approx(wanted - rows["lag", 0].means["ndcg@10"])
        assert low <= mean <= high

    def test_alone_is_the_device(self, rows: Any, minimal: Any) -> None:
        wanted = means(evaluate(minimal.device_side().model, small_data()).ranks)["ndcg@10"]
        assert rows["alone", 0].means["ndcg@10"] == pytest.approx(wanted)

    def test_whichever_ask_is_in_between(self, rows: Any) -> None:
        old, fresh = (rows["lag", lag].means["ndcg@10"] for lag in (staleness.LAG, 0))
        assert rows["random", 0.2].means["ndcg@10"] == pytest.approx(0.8 * old + 0.2 * fresh)

    def test_those_in_need_ask_about_as_often_as_they_may(self, rows: Any) -> None:
        for budget in staleness.BUDGETS:
            assert rows["chosen", budget].asked == pytest.approx(budget, abs=0.1)
        assert rows["lag", 2].asked == 0

    def test_a_method_without_need_has_no_chosen_ones(self, minimal: Any, monkeypatch: Any) -> None:
        brain = type(minimal.device_side())
        monkeypatch.delattr(brain, "need")
        found = staleness.rows("minimal", minimal, small_data())
        assert {row.kind for row in found} == {"lag", "days", "alone", "random"}

    def test_a_method_of_one_side_asks_nobody(self, tmp_path: Path) -> None:
        model = taught(LastItem(), tmp_path)
        (row,) = staleness.rows("last", model, small_data())
        assert (row.kind, row.asked) == ("any", 0)
        assert row.means["hr@10"] == means(evaluate(model, small_data()).ranks)["hr@10"]


class TestFigure:
    def test_a_point_for_every_value(self, rows: Any) -> None:
        alone = staleness.Row("demo", "a <b> & c", "any", 0, 0.0, rows["lag", 0].values)
        root = ElementTree.fromstring(staleness.figure([*rows.values(), alone]))
        num_budgets = len(staleness.BUDGETS) + 2
        # of lags and two ways of asking; and in both halves two level lines, of the device and of the other
        assert len(root.findall(f"{SVG}circle")) == len(staleness.LAGS) + 2 * num_budgets + 2 * 4
        assert "a <b> & c" in [text.text for text in root.findall(f"{SVG}text")]

    def test_higher_is_better_and_older_further_right(self) -> None:
        panel = staleness.Panel("", 70, (0, 10), (0, 10), (0.1, 0.2))
        assert panel.point(0, 0.1) == (70, panel.top + panel.height)
        assert panel.point(10, 0.2) == (70 + panel.width, panel.top)


def test_of_run_folders_it_prints_a_table_or_lines_and_draws(tmp_path: Path, capsys: Any) -> None:
    folders = [f"--runs={tmp_path}/runs", f"--results={tmp_path}/results", "--wandb=disabled"]
    assert main(["fit", "--model", "popularity", "--data", "demo", "--name", "mine", *folders]) == 0
    folder = str(run_folder(tmp_path))
    capsys.readouterr()
    staleness.main([folder, "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["method"], found["data"], found["kind"]) == ("mine", "demo", "any")
    staleness.main([folder, "--figure", str(tmp_path / "it.svg")])
    shown = capsys.readouterr().out.splitlines()
    assert f"| mine | no cloud | 0.000 | {found['hr@10']:.4f} | {found['ndcg@10']:.4f} |  |" in shown
    ElementTree.parse(tmp_path / "it.svg")


def test_the_bench_file_asks_for_runs_that_can_be_told_apart() -> None:
    plan = read_plan(Path(__file__).parents[1] / "configs/bench/staleness.yaml")
    named = [next((w for w in cell.words if w.startswith("--name=")), cell.model) for cell in plan.cells]
    assert len(set(named)) == len(named)
    assert {"scalrec", "cda4rec", "lsc4rec", "duet", "dccl"} <= set(named)
