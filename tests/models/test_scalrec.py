"""SCaLRec: what is cached and how old it is, what comes of it, what is learnt, and what crosses."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small import small_data, taught
from tiny_lm import byte_llama

from recbench.edge.abstract import Abstracted
from recbench.edge.auditor import Auditor, PrivacyError
from recbench.edge.brain import Ages
from recbench.edge.messages import Abstract, Embedding, decode, encode
from recbench.edge.policy import Always, Never, Threshold
from recbench.evaluate import evaluate
from recbench.models import SASRec, SCaLRec
from recbench.models.base import Recipe
from recbench.models.collaborative import Boundary
from recbench.nn.lm_options import LanguageModelOptions
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

SHORT = Recipe(lr=0.01, batch_size=64, samples="prefixes", max_epochs=2)
USERS = np.arange(40)
LAGS = (0, 1, 2, 5)


class Setting(NamedTuple):
    data: InteractionData
    model: SCaLRec
    lm: LanguageModelOptions


def scal(lm: LanguageModelOptions, **options: object) -> SCaLRec:
    encoder = SASRec(dim=16, num_layers=1, hidden=16, recipe=SHORT)
    sizes = {"text_dim": 8, "hidden": 8, "num_probes": 20, "lags": LAGS}
    return SCaLRec(**{"encoder": encoder, "lm": lm, "recipe": SHORT} | sizes | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    lm = LanguageModelOptions(name=byte_llama(tmp_path_factory.mktemp("lm")), max_tokens=128)
    data = small_data()
    model = scal(lm, budget=0.2)
    return Setting(data, taught(model, tmp_path_factory.mktemp("stages"), data), lm)


@pytest.fixture
def batch(setting: Setting) -> SequenceBatch:
    return setting.data.request(USERS)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def behind(setting: Setting, boundary: Boundary) -> SCaLRec:
    model = copy.copy(setting.model)
    model.cross(boundary)
    return model


def vectors(setting: Setting, batch: SequenceBatch) -> Tensor:
    """(B, D) what the cloud would say of what it is told now."""
    asked = setting.model.device_side().ask(batch, [""] * len(batch))
    answers = [decode(frame) for frame in setting.model.cloud_side().handle([encode(q) for q in asked])]
    assert all(isinstance(answer, Embedding) for answer in answers)
    return torch.from_numpy(np.stack([answer.vector for answer in answers]))  # type: ignore[attr-defined]


class TestRanking:
    def test_without_a_network_it_is_the_encoder(self, setting: Setting, batch: SequenceBatch) -> None:
        found = behind(setting, Boundary(policy=Never(), lag=-1)).recommend(batch, 10)
        wanted = setting.model.encoder.recommend(batch, 10)
        assert torch.equal(found.items, wanted.items)
        assert torch.equal(found.scores, wanted.scores)

    @pytest.mark.parametrize("boundary", [Boundary(policy=Never(), lag=0), Boundary(policy=Always(), lag=2)])
    def test_fresh_vectors_are_fused_by_one_share(
        self, boundary: Boundary, setting: Setting, batch: SequenceBatch
    ) -> None:
        model = behind(setting, boundary)
        found = model.recommend(batch, 10)
        state = model.encoder.newest_of(batch)
        share = float(model.calibration.base_share.sigmoid())
        user = share * vectors(setting, batch) + (1 - share) * F.normalize(state, dim=1)
        scores = user * state.norm(dim=1, keepdim=True) @ model.encoder.items.weight.T
        torch.testing.assert_close(found.scores, scores.gather(1, found.items), rtol=1e-4, atol=1e-4)
        assert torch.equal(found.items[:, 0], scores[:, 1:].argmax(1) + 1)

    def test_an_old_vector_is_calibrated_by_what_came_since(
        self, setting: Setting, batch: SequenceBatch
    ) -> None:
        model = behind(setting, Boundary(policy=Never(), lag=2))
        state = model.encoder.newest_of(batch)
        earlier = batch.lagged(2)
        assert batch.times is not None
        assert earlier.times is not None
        seconds = (batch.times[:, -1] - earlier.times[:, -1]).double().numpy()
        brain = model.device_side().dated(Ages(np.full(len(batch), 2), seconds))
        replies = [Embedding(brain.version, vector) for vector in vectors(setting, earlier).numpy()]
        _, calibrated = brain.calibrated(batch, replies, state)
        assert not torch.allclose(calibrated.reliability, torch.ones(len(batch)))
        scores = calibrated.fused(state) @ model.encoder.items.weight.T
        found = model.recommend(batch, 10)
        torch.testing.assert_close(found.scores, scores.gather(1, found.items), rtol=1e-4, atol=1e-4)

    def test_a_vector_that_is_left_out_changes_nothing(
        self, setting: Setting, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(setting.model.calibration, "use", "none")
        model = behind(setting, Boundary(policy=Never(), lag=2))
        assert torch.equal(model.recommend(batch, 10).items, model.encoder.recommend(batch, 10).items)


class TestBudget:
    def test_it_is_kept_on_validation(self, setting: Setting) -> None:
        found = evaluate(setting.model, setting.data, split="validation")
        asked = found.usage["exchanges"] / len(found.users)
        assert 0.1 < asked <= 0.2

    @pytest.mark.parametrize(("budget", "rate"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
    def test_a_threshold_is_found_for_any(self, budget: float, rate: float, setting: Setting) -> None:
        policy = Threshold(threshold=setting.model.threshold(budget))
        model = behind(setting, Boundary(policy=policy, lag=2))
        found = evaluate(model, setting.data, split="validation")
        assert found.usage["exchanges"] / len(found.users) == pytest.approx(rate, abs=0.02)

    def test_those_ask_whose_vectors_are_most_in_doubt(self, setting: Setting) -> None:
        model = behind(setting, Boundary(policy=Threshold(threshold=setting.model.threshold(0.2)), lag=2))
        for batch in setting.data.val_dataloader():
            answer = model.answer(batch)
            needs = setting.model.needs[batch.users].numpy()
            assert (answer.asked == (needs >= float(setting.model.limit) - 1e-6)).all()

    def test_inconsistency_is_how_far_a_probe_moves(self, setting: Setting, batch: SequenceBatch) -> None:
        model = copy.copy(setting.model)
        model.trigger = "inconsistency"
        brain = model.device_side()
        cached = vectors(setting, batch.lagged(2))
        found = brain.need(batch, [Embedding(brain.version, vector) for vector in cached.numpy()])
        table, state = model.encoder.items.weight[model.probes], model.encoder.newest_of(batch)
        theirs, own = (v @ table.T for v in (cached, state))
        for row in range(5):
            first, second = (np.argsort(scores[row].numpy()).tolist() for scores in (theirs, own))
            shifts = [abs(first.index(probe) - second.index(probe)) for probe in range(20)]
            assert found[row] == pytest.approx(sum(shifts) / 20)

    def test_what_has_no_measure_of_need_says_so(self, setting: Setting) -> None:
        with pytest.raises(ValueError, match="stale has no reliability; set trigger to inconsistency"):
            scal(setting.lm, use="stale", budget=0.1)
        model = scal(setting.lm, use="stale")
        model.build(setting.data.catalog)
        with pytest.raises(TypeError, match="no measure of need"):
            model.device_side().need(setting.data.request(USERS), [])


class TestBoundary:
    @pytest.mark.parametrize("vector", [np.ones(3, np.float32), np.full(16, np.nan, np.float32)])
    def test_vectors_that_make_no_sense_are_not_used(
        self, vector: np.ndarray[tuple[int], np.dtype[np.float32]], setting: Setting
    ) -> None:
        good = Embedding("", np.ones(16, np.float32))
        assert setting.model.device_side().are_usable([good, replace(good, vector=vector)]) == [True, False]

    def test_an_abstract_that_says_nothing_is_refused(self, setting: Setting) -> None:
        (answer,) = setting.model.cloud_side().handle([encode(Abstract("", "", 0))])
        assert "needs a text" in str(decode(answer))

    def test_what_comes_alone_is_read_anew(
        self, setting: Setting, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []
        plain = setting.model.lm.embed

        def embed(texts: Sequence[str], *, is_cached: bool = True) -> object:
            read.append(len(texts))
            return plain(texts, is_cached=is_cached)

        vectors(setting, batch)
        monkeypatch.setattr(setting.model.lm, "embed", embed)
        vectors(setting, batch)
        assert read == []  # an evaluation asks the same again and again
        vectors(setting, batch.rows(slice(0, 1)))
        vectors(setting, batch.rows(slice(0, 1)))
        assert read == [1, 1]  # what is timed is what a request costs

    def test_the_query_of_the_moment_is_not_sent(self, setting: Setting, batch: SequenceBatch) -> None:
        assert batch.query
        asked = setting.model.device_side().ask(batch, [""] * len(batch))
        assert {q.query for q in asked if isinstance(q, Abstract)} == {""}

    def test_an_evaluation_is_audited(self, setting: Setting) -> None:
        model = behind(setting, Boundary(policy=Always(), lag=2))
        evaluate(model, setting.data)
        (auditor,) = model.observers
        assert isinstance(auditor, Auditor)
        assert auditor.frames == 2 * len(setting.data.evaluated("test"))

    def test_a_device_that_tells_titles_is_stopped(self, setting: Setting) -> None:
        class Telltale:
            def abstract(self, pasts: Sequence[object]) -> list[Abstracted]:
                titles = setting.data.catalog.titles()
                newest = [past.reveal().items[-1] for past in pasts]  # type: ignore[attr-defined]
                return [Abstracted("", f"likes {titles[item - 1]}") for item in newest]

        model = copy.copy(setting.model)
        model.abstracter = Telltale()  # type: ignore[assignment]
        with pytest.raises(PrivacyError, match="of the title of a history item"):
            evaluate(model, setting.data)


class TestTraining:
    def test_what_is_kept_was_said_so_many_items_earlier(self, setting: Setting) -> None:
        users, positions = setting.data.moments(1)
        moment = setting.data.moment(users[:9], positions[:9])
        assert ((moment.history != 0).sum(1) < max(LAGS) + 2).any()  # for them 2 items are left
        for place, lag in enumerate(LAGS):
            for row in range(9):
                one = moment.rows(slice(row, row + 1))
                possible = min(lag, max(0, int((one.history != 0).sum()) - 2))
                found = setting.model.kept.at(one.users, torch.tensor([place]))
                wanted = vectors(setting, one.lagged(possible))
                torch.testing.assert_close(setting.model.meaning(found), wanted, atol=2e-3, rtol=0)

    def test_the_loss_by_hand(self, setting: Setting) -> None:
        model = setting.model
        batch = next(iter(setting.data.newest(1).batched(16, 0, samples="prefixes").train_dataloader()))
        torch.manual_seed(7)
        drawn = torch.randint(len(LAGS), (16,))
        torch.manual_seed(7)
        found = float(model.loss(batch))
        wanted = np.zeros(3)
        table = model.encoder.items.weight
        for row in range(16):
            one = batch.rows(slice(row, row + 1))
            lag = min(LAGS[drawn[row]], max(0, int((one.history != 0).sum()) - 2))
            old, fresh = (
                model.meaning(model.kept.at(one.users, torch.tensor([k]))) for k in (int(drawn[row]), 0)
            )
            assert one.times is not None
            seconds = (one.times[:, -1] - one.times[:, -1 - lag]).double().numpy()
            state = model.encoder.newest_of(one)
            brain = model.device_side().dated(Ages(np.array([lag]), seconds))
            _, calibrated = brain.calibrated(one, [Embedding("", old[0].numpy())], state)
            logits = model.scale * calibrated.fused(state) @ table.T
            wanted[0] += float(F.cross_entropy(logits[:, 1:], one.target - 1)) / 16
            wanted[1] += (1 - float(calibrated.vector @ fresh.T / fresh.norm())) / 16
            if lag:
                share, target = float(model.calibration.base_share.sigmoid()), int(one.target)
                own = F.normalize(state, dim=1)
                ranks = [
                    int((s[0, 1:] > s[0, target]).sum())
                    for s in ((share * v + (1 - share) * own) @ table.T for v in (old, fresh))
                ]
                rho = float(calibrated.reliability)
                wanted[2] -= np.log(rho if ranks[0] <= ranks[1] else 1 - rho) / 16
        assert found == pytest.approx(wanted @ [1, 0.5, 0.1], rel=1e-3)

    def test_the_encoder_is_left_as_it_was(self, setting: Setting, tmp_path: Path) -> None:
        seen: list[dict[str, Tensor]] = []
        model = scal(setting.lm)
        torch.manual_seed(0)
        model.build(setting.data.catalog)
        with torch.enable_grad():
            for stage in model.stages(setting.data):
                train(stage, tmp_path, TrainerOptions(progress=False), seed=0, resume=False, logger=None)
                seen.append({name: value.clone() for name, value in model.named_parameters()})
        changed = {name for name in seen[-1] if not torch.equal(seen[-1][name], seen[-2][name])}
        assert {name.partition(".")[0] for name in changed} == {"meaning", "scale", "calibration"}
        assert not any("texts" in name for name in model.state_dict())  # kept apart

    def test_without_the_vector_nothing_but_the_encoder_learns(self, setting: Setting) -> None:
        model = scal(setting.lm, use="none", recipe=replace(SHORT, max_epochs=1))
        model.build(setting.data.catalog)
        assert [stage.name for stage in model.stages(setting.data)] == ["read", "device"]

    def test_what_is_held_back_is_not_learnt_by_the_encoder(self, setting: Setting) -> None:
        model = scal(setting.lm, held_back=1)
        model.build(setting.data.catalog)
        stages = model.stages(setting.data)
        next(stages)
        device = next(stages)
        all_of, less = (len(data.train_sequences().items) for data in (setting.data, device.data))
        assert less == all_of - len(setting.data.users("known"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"recipe": Recipe()}, "must be prefixes, got positions"),
            ({"lags": (1, 2)}, "0 among them"),
            ({"trigger": "age"}, "trigger must be one of doubt, inconsistency"),
        ],
    )
    def test_what_does_not_go_together_is_refused(
        self, options: dict[str, object], message: str, setting: Setting
    ) -> None:
        with pytest.raises(ValueError, match=message):
            scal(setting.lm, **options)


def test_it_says_how_good_its_parts_are(setting: Setting) -> None:
    size, cosines, reliability = setting.model.notes()
    assert "calibrated, by" in size
    assert "vectors 2 interactions old, the cosine with fresh ones is 0." in cosines
    assert "calibration error of 0." in reliability
