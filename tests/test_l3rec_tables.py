"""experiments/l3rec.py: what its answers rest on; fusing a run anew gives what training it so gave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from recbench import cli
from recbench.results import read_ranks, read_runs
from tests.small import world

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import l3rec as tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

OPTIONS = {
    "num_locals": 10,
    "communities": "anchors",
    "fusion": "rrf",
    "damping": 0.0,
    "local_items": False,
    "warm_start": False,
}


def row(ndcg: NDArray[np.float64] | float, *, method: str = "L3Rec", **more: Any) -> tables.Row:
    """1,000 users' NDCG@10, or that of all."""
    values = np.zeros((1000, len(tables.SHOWN)))
    values[:, -1] = ndcg
    protocol, seconds = more.pop("protocol", tables.FULL), more.pop("seconds", {})
    validation = more.pop("validation", float(values.mean()))
    return tables.Row(method, method, protocol, OPTIONS | more, values, validation, seconds, "somewhere")


def hits(share: float) -> NDArray[np.float64]:
    """So many users, evenly spread, have 1, the others 0."""
    return np.diff(np.floor(np.arange(1001) * share))


class TestAnswers:
    def test_a_difference_is_told_by_the_users_it_has(self) -> None:
        assert tables.better(row(hits(0.2)), row(hits(0.1)), "").answer == "yes"
        assert tables.better(row(hits(0.1)), row(hits(0.2)), "").answer == "no"
        assert tables.better(row(hits(0.1)), row(hits(0.101)), "").answer == "not at this scale"
        assert tables.better(row(hits(0.1)), None, "").answer == "not run"

    def test_it_is_stated_with_its_interval(self) -> None:
        found = tables.better(row(0.3), row(0.2), "a > b")
        assert found.why == (
            "a > b, ndcg@10 +0.1000 (+0.1000 to +0.1000), +50.0%; somewhere against somewhere"
        )

    @pytest.mark.parametrize(
        ("parts", "whole"),
        [
            (["yes", "yes"], "yes"),
            (["yes", "no", "not run"], "no"),
            (["yes", "not at this scale"], "not at this scale"),
            (["yes", "not run"], "not run"),
            ([], "not run"),
        ],
    )
    def test_a_claim_holds_if_all_its_parts_do(self, parts: list[tables.Answer], whole: str) -> None:
        assert tables.settled(tables.Finding(part, "") for part in parts) == whole

    def test_the_strongest_is_chosen_on_validation(self) -> None:
        weak, strong = row(0.9, method="POD", validation=0.1), row(0.1, method="POD", validation=0.2)
        sas, unseen = row(0.2, method="SASRec"), row(0.9, method="EASE", validation=np.nan)
        rows = tables.Rows([weak, strong, sas, unseen, row(0.3)])
        assert rows.strongest("POD", tables.FULL) is strong
        assert rows.strongest("", tables.FULL) is sas
        assert rows.strongest("POD", tables.TOP_N) is None

    def test_controls_are_compared_at_the_same_number_of_local_models(self) -> None:
        own = [row(hits(0.2), num_locals=3), row(hits(0.3), num_locals=10)]
        control = row(hits(0.1), num_locals=3, communities="everyone")
        other_recipe = row(hits(0.9), num_locals=10, communities="random", warm_start=True)
        found = tables.claims(tables.Rows([*own, control, other_recipe]), tables.Rows([]))
        (locality,) = found["C7 locality matters beyond an ensemble of equal cost"]
        assert locality.answer == "yes"
        assert locality.why.startswith("q 3, anchors > everyone, ndcg@10 +0.1")

    def test_time_is_that_of_the_longest_local_model_or_of_all(self) -> None:
        seconds = {"cluster": 10.0, "local-0": 30.0, "local-1": 40.0}
        ours, pod = row(0.2, seconds=seconds), row(0.1, method="POD", seconds={"train": 60.0})
        found = tables.claims(tables.Rows([ours, pod]), tables.Rows([]))
        (time,) = found["C3 less training time than POD"]
        assert time.answer == "yes"
        assert time.why.startswith("50 s with a machine per local model, 80 s with one, POD 60 s")

    def test_steadier_is_what_spreads_less_over_the_dampings(self) -> None:
        calm = [row(hits(0.2), fusion="rrf", damping=k) for k in tables.DAMPINGS]
        wild = [row(hits(0.2 + 0.05 * i), fusion="wrrf_cf", damping=k) for i, k in enumerate(tables.DAMPINGS)]
        rows = tables.Rows([*calm, *wild])
        assert tables.steadier(rows, "rrf", "wrrf_cf").answer == "yes"
        assert tables.steadier(rows, "wrrf_cf", "rrf").answer == "no"
        assert tables.steadier(rows, "rrf", "wrrf_lm").answer == "not run"


TINY = ["model.local.dim=8", "model.local.hidden=16", "model.local.num_layers=1", "model.local.num_heads=2"]
TINY += ["model.clusterer.dim=8", "model.clusterer.hidden=16", "model.clusterer.recipe.max_epochs=1"]
TINY += ["model.local.recipe.max_epochs=1", "model.local.recipe.validate_every=1", "model.anchor_step=1"]
TINY += ["model.bandwidth=0.6", "model.num_listed=10", "trainer.threads=1", "wandb=disabled"]


class TestRun:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """Two runs of L3Rec: three local models weighed by skill, and two that are not."""
        folder = tmp_path_factory.mktemp("l3rec")
        rows = world().interactions.group_by("user", maintain_order=True).all().iter_rows(named=True)
        town = folder / "town.txt"
        town.write_text("".join(f"{row['user'] + 1} {' '.join(map(str, row['item']))}\n" for row in rows))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RECBENCH_CACHE", str(folder / "cache"))
            patch.setattr("recbench.fit.request_latency", lambda *_: {})  # of no matter here, and slow
            for options in (["num_locals=3", "fusion=wrrf_lm"], ["num_locals=2", "fusion=rrf"]):
                words = [f"--{option}" for option in [*TINY, *(f"model.{option}" for option in options)]]
                places = [f"--runs={folder / 'runs'}", f"--results={folder / 'results'}"]
                assert cli.main(["fit", "--model", "l3rec", "--data", str(town), *words, *places]) == 0
            yield folder

    def test_fusing_anew_is_what_training_so_gave(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "SIZES", (2, 3))
        torch.manual_seed(0)
        (three,) = (run for run in (folder / "runs").glob("*l3rec*") if len([*run.glob("stages/*")]) == 4)
        trained = tables.load(three)
        records = {
            run.config["model"]["init_args"]["num_locals"]: run for run in read_runs(folder / "results")
        }
        for num_locals, fusion in ((3, "wrrf_lm"), (2, "rrf")):
            run = records[num_locals]
            _, ranks = read_ranks(folder / "results" / f"{run.key}.json", run.ranks_sha256)
            again = trained.fused(fusion, num_locals=num_locals)
            wanted = [run.metrics[key].value for key in tables.SHOWN]
            np.testing.assert_allclose(again.values.mean(0), wanted, rtol=1e-9)
            np.testing.assert_array_equal(again.metric("hr@10"), ranks.rank <= 10)
        text = "\n".join(
            tables.report(tables.recorded(folder / "results", trained.data.prepared.name), [trained], "town")
        )
        for line in (
            "### loo-full, 150 users",
            "| L3Rec, q 2, anchors, RRF, k 0 |",
            "| L3Rec, q 3, anchors, wRRF(LLM), k 60 |",
            "- **C1 L3Rec beats POD and all baselines**: not run",
            "  - not run: L3Rec > POD",
            "RRF > wRRF(CF), ndcg@10",
        ):
            assert line in text
        (again,) = (line for line in text.splitlines() if line.startswith("- **C4"))
        assert again.rpartition(": ")[2] in ("yes", "no", "not at this scale")
