"""experiments/cda4rec.py on a small trained run: its rows are what the method gives under those plans."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small import small_data, small_model, taught

from recbench.evaluate import evaluate
from recbench.metrics import per_user
from recbench.models import CDA4Rec

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import cda4rec

from recbench.edge.abstract import Abstracted, ItemWords, Past, TemplateAbstracter
from recbench.edge.planner import FixedPlanner, RulePlanner
from recbench.edge.privacy import Private


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> cda4rec.Views:
    data = small_data(heldout_rate=0.2)
    options = {"sizes": (5, 10, 20, 50), "tag_counts": (1, 2, 4), "scope": "candidates"}
    model = small_model(CDA4Rec, train_encoder="before", **options)
    assert isinstance(model, CDA4Rec)
    return cda4rec.Views(taught(model, tmp_path_factory.mktemp("stages"), data), data)


def test_views_are_the_method_under_other_plans(views: cda4rec.Views) -> None:
    alone = per_user(evaluate(views.model.encoder, views.data).ranks, cda4rec.SHOWN)
    np.testing.assert_array_equal(views.alone().values, alone)
    whole = views.view("", FixedPlanner(beta=0.0), scope="catalogue")
    np.testing.assert_allclose(whole.values, alone, atol=1e-12)  # all weight on the encoder, all items
    planner = FixedPlanner(beta=0.0, size=5, num_tags=1)
    few, all_of_them = (views.view("", planner, scope=scope) for scope in ("candidates", "catalogue"))
    assert few.metric("hr@10").mean() == few.listed < 1  # of five candidates all are in the first ten
    assert few.bytes_down == pytest.approx(all_of_them.bytes_down + 4 * 5, abs=2)  # some tags are small


def test_what_was_trained_is_left_as_it_was(views: cda4rec.Views) -> None:
    views.view("", FixedPlanner(beta=0.7), scope="catalogue")
    assert (views.model.planner, views.model.scope) == (views.planner, views.scope)


def test_without_abstracts_the_cloud_is_told_the_history() -> None:
    words = ItemWords([(), ("red", "old"), ("blue",), ()], ["", "Lamp", "", ""])
    pasts = [Private(Past([1, 2, 3], [], "a lamp for Ann")), Private(Past([], []))]
    told = cda4rec.Telling(words).abstract(pasts)
    assert told == [Abstracted("a lamp for Ann", "blue; Lamp"), Abstracted("", "")]


def test_another_abstracter_changes_what_the_cloud_reads(views: cda4rec.Views) -> None:
    planner = FixedPlanner(beta=1.0)
    said, told = (
        views.view("", planner, scope="catalogue", abstracter=one)
        for one in (None, cda4rec.Telling(views.model.words))
    )
    assert not np.array_equal(said.values, told.values)
    assert isinstance(views.model.abstracter, TemplateAbstracter)  # as it was


def test_shares_are_chosen_on_validation(views: cda4rec.Views) -> None:
    planner, single, oracle = cda4rec.tuned(views, "catalogue")
    assert isinstance(planner, RulePlanner)
    assert set(planner.betas) <= set(cda4rec.SHARES)
    found = [
        views.view("", FixedPlanner(beta=share), scope="catalogue", split="validation").metric().mean()
        for share in cda4rec.SHARES
    ]
    assert single == pytest.approx(max(found))
    assert oracle >= single


def test_unseen_users_are_asked_for_with_few_items(views: cda4rec.Views) -> None:
    found = {row.name: row for row in cda4rec.unseen(views)}
    assert len(found) == 2 * (len(cda4rec.KNOWN) + 1)
    assert {len(row.values) for row in found.values()} == {30}  # a fifth of 150
    assert not np.array_equal(found["as trained, 1 items"].values, found["as trained, all items"].values)
    model, data = views.model.encoder, views.data.showing(1)
    wanted = per_user(evaluate(model, data, users="heldout").ranks, cda4rec.SHOWN)
    np.testing.assert_array_equal(found["encoder alone, 1 items"].values, wanted)


def test_differences_are_answered() -> None:
    low = cda4rec.Row("low", np.zeros((50, 4)))
    high = cda4rec.Row("high", np.ones((50, 4)))
    assert cda4rec.difference(high, low).startswith("high > low: yes (+1.0000")
    assert cda4rec.difference(low, high).startswith("low > high: no (-1.0000")
    assert "not separable" in cda4rec.difference(low, low)


def test_the_report_prints_every_table(views: cda4rec.Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cda4rec, "SHARES", (0.0, 0.5))
    monkeypatch.setattr(cda4rec, "SIZES", {5: 1, 50: 4})
    lines = "\n".join(cda4rec.report(views))
    for title in (
        "Plans (Table V)",
        "w/o AG",
        "Candidates",
        "by length of the history",
        "Answers",
        "gives away",
        "| cold |",
        "Users that nobody trained on",
        "| lte |",
    ):
        assert title in lines
    assert "v5, SURGE" not in lines  # this device has no graph
    assert "nan" not in lines.lower()
