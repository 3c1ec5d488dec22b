"""experiments/cda4rec_words.py with a model that knows nothing: what it measures, and what stays private."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small import small_data, small_model, taught
from tiny_lm import byte_llama

from recbench.edge.planned import pasts_of
from recbench.edge.ranking_plan import Offer, plan_of
from recbench.models import CDA4Rec

pytest.importorskip("llguidance")
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import cda4rec_words

OFFER = Offer(("jazz", "tea", "books"), sizes=(10, 100), tag_counts=(1, 2), encoders=("sasrec", "surge"))


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> cda4rec_words.Agents:
    data = small_data()
    model = small_model(CDA4Rec, train_encoder="before", sizes=(5, 10), tag_counts=(1, 2))
    assert isinstance(model, CDA4Rec)
    trained = taught(model, tmp_path_factory.mktemp("stages"), data)
    return cda4rec_words.Agents.of(trained, data, byte_llama(tmp_path_factory.mktemp("bytes")))


def test_distances_by_hand() -> None:
    one = plan_of(OFFER, alpha=0.2, weights=[("jazz", 1.0)], size=10, encoder="sasrec", beta=0.5)
    other = plan_of(OFFER, alpha=0.5, weights=[("jazz", 0.5), ("tea", 0.5)], size=10, encoder="surge", beta=0)
    assert cda4rec_words.distance([one], [one]) == ["0.00", "0.00", "1.00", "1.00", "1.00"]
    assert cda4rec_words.distance([one], [other]) == ["0.30", "0.50", "0.50", "1.00", "0.00"]
    assert cda4rec_words.distance([one, one], [one, other]) == ["0.15", "0.25", "0.75", "1.00", "0.50"]


def test_every_writer_has_a_row_and_the_history_is_the_goal(agents: cda4rec_words.Agents) -> None:
    lines = list(cda4rec_words.sample(agents, num_users=3, num_taught=2))
    header, rows = lines[1], [text for text in lines[3:] if text.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {len(row) for row in cells} == {header.count("|") - 1}
    history, template, before, after = cells
    assert history[-5:] == ["0.00", "0.00", "1.00", "1.00", "1.00"]
    assert (history[1], template[1]) == ("0.0%", "100.0%")
    assert (before[0], after[0]) == (f"{agents.name} as it comes", f"{agents.name}, taught")
    assert "lessons from 2 users" in "".join(lines)
    assert "an explanation: " in lines[-1]


def test_what_is_judged_may_be_sent(agents: cda4rec_words.Agents) -> None:
    pasts = pasts_of(agents.some(20))
    for written in (agents.template(pasts), agents.write("", pasts)):
        for past, abstract in zip(pasts, written.texts, strict=True):
            told = past.reveal()
            assert abstract.text
            assert not agents.device.detector.findings(abstract.text, told.items, told.times_s)


def test_lessons_are_of_other_users(agents: cda4rec_words.Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    moment = agents.data.moment
    monkeypatch.setattr(
        agents.data, "moment", lambda users, places: asked.append(users) or moment(users, places)
    )
    users = agents.some(100).users.numpy()
    agents.teach(users, 2)
    assert len(asked[0]) == 2
    assert not set(asked[0]) & set(users)


def test_cases_show_all_that_is_written(agents: cda4rec_words.Agents) -> None:
    text = "\n".join(cda4rec_words.cases(agents, number=2))
    assert text.count("## User ") == 2
    for what in (
        "abstract by the template",
        "may that be sent",
        "plan by rule",
        "recommended",
        "explanation by",
    ):
        assert text.count(f"- {what}") == 2
