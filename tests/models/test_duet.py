"""DUET: what is written, what becomes of it on the device, and what crosses."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from small import RECIPE, small_data, small_model

from recbench.edge.cloud import batch_of
from recbench.edge.device import Device
from recbench.edge.link import InProcess
from recbench.edge.messages import Failure, History, Parameters, decode, encode
from recbench.edge.policy import Never
from recbench.models import DIN, DUET, HSTU, GRU4Rec, SASRec
from recbench.models.base import Recipe
from recbench.models.collaborative import Boundary
from recbench.nn.hypernetwork import Hypernetwork, newest_recurrent_state
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from recbench.data.batch import SequenceBatch

USERS = np.arange(30)
BASES = (SASRec, GRU4Rec, HSTU, DIN)
DIM = 8
NUM_WEIGHTS = 2 * (DIM * DIM + DIM)
SHORT = Recipe(lr=0.01, batch_size=64, max_epochs=1, samples="prefixes")


def built(base: type[Any] = SASRec, **options: Any) -> DUET:
    torch.manual_seed(0)
    model = DUET(base=small_model(base), **{"hidden": 6, "recipe": SHORT} | options)
    model.build(small_data().catalog)
    return model.eval()


def busy(base: type[Any] = SASRec, **options: Any) -> DUET:
    """A hypernetwork that has something to say."""
    model = built(base, **options)
    with torch.no_grad():
        model.hyper.write.weight.normal_()
    return model


def requests(**options: Any) -> SequenceBatch:
    return small_data(**options).request(USERS)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class TestStepZero:
    @pytest.mark.parametrize("base", BASES)
    def test_is_the_base_to_the_last_bit(self, base: type[Any]) -> None:
        model, batch = built(base), requests()
        written = model.write(batch.history)
        assert all(not value.any() for value in written.values())
        torch.testing.assert_close(
            model.local.score(batch, written),
            model.base.score(batch),
            rtol=0,
            atol=0 if base is not DIN else 1e-6,
        )
        found, wanted = model.recommend(batch, 10), model.base.recommend(batch, 10)
        assert torch.equal(found.items, wanted.items)

    def test_has_the_loss_of_the_base(self) -> None:
        model = built(recipe=SHORT)
        model.base.recipe = SHORT  # prefixes: the newest position learns
        batch = small_data().request(USERS, back=3)
        torch.testing.assert_close(model.loss(batch), model.base.loss(batch), rtol=0, atol=0)

    def test_is_not_the_base_where_the_last_maps_are_random(self) -> None:
        model, batch = built(frozen_hyper=True), requests()
        assert not torch.equal(model.local.score(batch, model.write(batch.history)), model.base.score(batch))


class TestOnTheDevice:
    @pytest.mark.parametrize("base", BASES)
    def test_weights_of_many_users_are_each_added_to_a_model_of_its_own(self, base: type[Any]) -> None:
        model, batch = busy(base), requests()
        weights = model.write(batch.history)
        found = model.local.score(batch, weights)
        assert not torch.allclose(found, model.base.score(batch))
        for i in range(5):
            own = copy.deepcopy(model.local)
            for name, value in weights.items():
                layer, _, kind = name.partition(".")
                module = (
                    own.base.get_submodule(layer.replace("-", "."))
                    if base is DIN
                    else own.get_submodule(layer)
                )
                parameter = getattr(module, kind)
                parameter += value[i].view_as(parameter)
            torch.testing.assert_close(found[i : i + 1], own.score(batch.rows(slice(i, i + 1)), None))

    def test_loss_of_many_users_is_the_mean_of_each_alone(self) -> None:
        model, batch = busy(), small_data().request(USERS, back=3)
        losses = [model.loss(batch.rows(slice(i, i + 1))) for i in range(len(USERS))]
        torch.testing.assert_close(
            model.loss(batch), torch.stack(losses).mean(), rtol=0, atol=2e-2
        )  # bfloat16

    @pytest.mark.parametrize("base", [SASRec, DIN])
    def test_offline_it_is_the_base(self, base: type[Any]) -> None:
        model, batch = busy(base), requests()
        model.cross(Boundary(network="offline"))
        found, wanted = model.recommend(batch, 10), model.base.recommend(batch, 10)
        assert torch.equal(found.items, wanted.items)
        assert torch.equal(found.scores, wanted.scores)
        assert torch.equal(model.target_ranks(batch).rank, model.base.target_ranks(batch).rank)

    def test_what_was_seen_is_not_shown(self) -> None:
        model, data = busy(), small_data()
        data.mask_seen = True
        batch = data.request(USERS)
        assert batch.seen is not None
        for items, seen in zip(model.recommend(batch, 10).items.tolist(), batch.seen.tolist(), strict=True):
            assert not set(items) & (set(seen) - {0})


class TestTheHypernetwork:
    def test_reads_a_sequence_as_a_recurrent_net_reads_it_alone(self) -> None:
        torch.manual_seed(0)
        gru, lengths = torch.nn.GRU(3, 4, batch_first=True), [0, 1, 3, 5]
        x = torch.randn(4, 5, 3)
        real = torch.tensor([[step >= 5 - length for step in range(5)] for length in lengths])
        found = newest_recurrent_state(gru, x, real)
        assert not found[0].any()
        for row, length in list(enumerate(lengths))[1:]:
            torch.testing.assert_close(found[row], gru(x[row : row + 1, 5 - length :])[1][0, 0])

    def test_its_last_maps_learn(self) -> None:
        model, batch = built(), small_data().request(USERS, back=3)
        before = model.hyper.write.weight.clone()
        optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=1.0)
        with torch.enable_grad():
            model.loss(batch).backward()
        optimizer.step()
        assert not torch.equal(model.hyper.write.weight, before)

    def test_frozen_they_do_not_but_what_is_before_them_does(self) -> None:
        model, batch = built(frozen_hyper=True), small_data().request(USERS, back=3)
        assert not model.hyper.write.weight.requires_grad
        assert "hyper.write.weight" in model.state_dict()
        assert float(model.hyper.write.weight.abs().max()) <= 2 / 6
        with torch.enable_grad():
            model.loss(batch).backward()
        assert model.hyper.gru.weight_ih_l0.grad.abs().sum() > 0

    def test_writes_every_array_from_its_own_rows(self) -> None:
        hyper = Hypernetwork(3, {"a": (2, 2), "b": (3,)}, hidden=4)
        with torch.no_grad():
            hyper.write.weight[4:] = 1
        found = hyper(torch.randn(5, 2, 3), torch.ones(5, 2, dtype=torch.bool))
        assert {name: tuple(value.shape) for name, value in found.items()} == {"a": (5, 2, 2), "b": (5, 3)}
        assert not found["a"].any()
        assert found["b"].all()

    def test_the_cloud_is_shown_no_more_than_it_reads(self) -> None:
        model, batch = busy(max_len=4), requests()
        (question, *_) = model.device_side().ask(batch, ["x"] * len(batch))
        assert isinstance(question, History)
        assert question.items.tolist() == batch.history[0, -4:].tolist()
        newest = batch.history[:, -4:]
        for name, value in model.write(batch.history).items():
            torch.testing.assert_close(value, model.write(newest)[name])


class TestWhatCrosses:
    @pytest.mark.parametrize(("sent_as", "size"), [("float32", 4), ("float16", 2)])
    def test_every_byte_is_counted(self, sent_as: Any, size: int) -> None:
        model, batch = busy(sent_as=sent_as), requests()
        model.recommend(batch, 10)
        names = len("up.weight") + len("up.bias") + len("down.weight") + len("down.bias")
        # around the body 16; version 4 + 12; how many 2; four names, two heads of a matrix, two of a vector
        around = 16 + 16 + 2 + 4 * 4 + names + 2 * 10 + 2 * 6
        assert model.traffic().bytes_down == len(USERS) * (around + size * NUM_WEIGHTS)

    def test_half_precision_changes_little(self) -> None:
        whole, half = busy(), busy(sent_as="float16")
        batch = requests()
        found, wanted = (model.recommend(batch, 60).scores for model in (half, whole))
        assert not torch.equal(found, wanted)
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)

    def test_weights_may_be_of_an_older_history(self) -> None:
        model, batch = busy(), requests()
        model.cross(Boundary(lag=2, policy=Never()))
        older = model.write(batch.lagged(2).history)
        scores = model.local.score(batch, older)[:, 1:]
        torch.testing.assert_close(model.recommend(batch, 5).scores, scores.topk(5).values)
        assert model.usage()["cache"] == len(USERS)
        assert model.traffic().bytes_down == 0

    def test_weights_for_another_base_are_not_used(self) -> None:
        model, other, batch = busy(), busy(), requests()
        other.base.items.weight[1] += 1
        device = Device(model.device_side(), InProcess(other.cloud_side().handle))
        answer = device.answer(batch)
        assert set(answer.source) == {"device"}
        assert device.outcomes["skewed"] == len(USERS)

    @pytest.mark.parametrize("damage", ["shape", "missing", "more", "nan", "int"])
    def test_weights_that_do_not_fit_are_of_no_use(self, damage: str) -> None:
        model = busy()
        brain = model.device_side()
        good = {name: np.zeros(shape, np.float32) for name, shape in model.local.slots().items()}
        bad = dict(good)
        match damage:
            case "shape":
                bad["up.bias"] = np.zeros(DIM + 1, np.float32)
            case "missing":
                del bad["up.bias"]
            case "more":
                bad["other"] = np.zeros(1, np.float32)
            case "nan":
                bad["up.bias"] = np.full(DIM, np.nan, np.float32)
            case "int":
                bad["up.bias"] = np.zeros(DIM, np.int32)
        replies = [Parameters(brain.version, arrays) for arrays in (good, bad)]
        assert brain.are_usable(replies) == [True, False]

    def test_an_item_that_is_none_fails_alone(self) -> None:
        model = busy()
        cloud = model.cloud_side()
        asked = [History("x", np.array(items, np.int32), 0, True) for items in ([1, 2], [61], [])]
        answers = [decode(frame) for frame in cloud.handle([encode(question) for question in asked])]
        assert [type(answer) for answer in answers] == [Parameters, Failure, Parameters]
        for question, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Parameters):
                written = model.write(batch_of([question]).history)
                np.testing.assert_allclose(answer.tensors["up.weight"], written["up.weight"][0], rtol=1e-5)


class TestTraining:
    @staticmethod
    def teach(model: DUET, folder: Path) -> dict[str, Tensor]:
        """The base's weights before the hypernetwork's stage; the model is trained in place."""
        data, before = small_data(), {}
        for stage in model.stages(data):
            if stage.name == "train":
                before = copy.deepcopy(model.local.state_dict())
            with torch.enable_grad():
                train(stage, folder, TrainerOptions(progress=False), seed=0, resume=False, logger=None)
        return before

    @pytest.mark.parametrize(("train_base", "moves"), [("before", False), ("together", True), ("both", True)])
    def test_the_base_stays_or_learns_on(self, train_base: Any, moves: bool, tmp_path: Path) -> None:
        model = DUET(base=small_model(SASRec, recipe=SHORT), hidden=6, train_base=train_base, recipe=SHORT)
        torch.manual_seed(0)
        model.build(small_data().catalog)
        before = self.teach(model, tmp_path)
        after = model.local.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before) != moves
        assert model.hyper.write.weight.any()
        assert {path.stem for path in tmp_path.glob("*.ckpt")} == (
            {"train"} if train_base == "together" else {"base-train", "train"}
        )

    def test_a_lag_is_drawn_for_every_batch(self) -> None:
        model, batch = busy(train_lag=2), small_data().request(USERS, back=3)
        exact = [float(model.local.loss(batch, model.write(batch.lagged(lag).history))) for lag in range(3)]
        torch.manual_seed(0)
        drawn = {float(model.loss(batch)) for _ in range(40)}
        assert drawn == set(exact)
        assert len(drawn) == 3

    def test_samples_must_be_prefixes(self) -> None:
        with pytest.raises(ValueError, match=r"recipe\.samples must be prefixes, got positions"):
            DUET(recipe=RECIPE)
