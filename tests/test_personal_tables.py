"""experiments/personal.py on small trained runs: its views are the method's own parts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small import small_data, small_model, taught

from recbench.evaluate import evaluate
from recbench.metrics import per_user
from recbench.models import DCCL, DUET

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import personal


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, personal.Row]:
    found = []
    data = small_data()
    for name, cls, options in (("duet", DUET, {}), ("dccl", DCCL, {"rank": 4}), ("plain", DCCL, {"rank": 0})):
        folder = tmp_path_factory.mktemp(name)
        model = taught(small_model(cls, hidden=4, **options), folder, data)
        assert isinstance(model, (DUET, DCCL))
        found += personal.views(name, model, data, folder, num_calls=200)
        own = per_user(evaluate(model, data).ranks, personal.SHOWN)  # as the last view left the method
        np.testing.assert_array_equal(found[-1].values, own)
    return {row.name: row for row in found}


def test_views_are_what_a_method_has(rows: dict[str, personal.Row]) -> None:
    of = {
        method: [row.view for row in rows.values() if row.method == method]
        for method in ("duet", "dccl", "plain")
    }
    assert of["duet"] == [personal.BASE, personal.NOW, personal.WHOLE]
    assert of["dccl"] == [personal.BASE, personal.NOW, personal.ALONE, personal.WHOLE]
    assert of["plain"] == [personal.BASE, personal.NOW, personal.ALONE]  # it has no cloud


def test_the_base_is_the_one_before_any_device_learnt(rows: dict[str, personal.Row]) -> None:
    for method, moves in (("duet", False), ("dccl", True), ("plain", False)):  # DCCL trains it in its rounds
        first, left = (rows[f"{method}, {view}"].values for view in (personal.BASE, personal.NOW))
        assert np.array_equal(first, left) is not moves


def test_costs_are_those_of_the_sides(rows: dict[str, personal.Row]) -> None:
    device, cloud, size = rows[f"duet, {personal.WHOLE}"].costs
    assert all(float(part) > 0 for cell in (device, cloud) for part in cell.split(" / "))
    assert all(int(part.replace(",", "")) > 0 for part in size.split(" / "))
    assert rows[f"plain, {personal.ALONE}"].costs[2] == "0 / 0"
    assert rows[f"duet, {personal.BASE}"].costs[1:] == ("", "0 / 0")


def test_answers_are_within_a_run_and_among_the_ends(rows: dict[str, personal.Row]) -> None:
    lines = list(personal.answers(list(rows.values())))
    assert len(lines) == 2 + 3 + 2 + 3  # views against their base, and pairs of three ends
    assert any(line.startswith(f"- dccl, {personal.WHOLE} > plain, {personal.ALONE}: ") for line in lines)
    same = personal.difference(rows[f"duet, {personal.NOW}"], rows[f"duet, {personal.BASE}"])
    assert "not separable (+0.0000, +0.0000 to +0.0000)" in same
    assert "nan" not in "\n".join(personal.report(list(rows.values())))
