"""DCCL: patches beside a literal net per user, descent beside a loop, distillation beside the formula."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small import RECIPE, same, small_data, small_model

from recbench.edge.messages import Failure, Parameters, Patch, decode, encode
from recbench.models import DCCL, HSTU, BSARec, GRU4Rec, S3Rec, SASRec
from recbench.models.base import Recipe
from recbench.models.collaborative import Boundary
from recbench.models.patched import FollowEncoded, FollowPatched
from recbench.nn.losses import FullSoftmax
from recbench.nn.meta_patch import MetaPatch, descend, inserted
from recbench.nn.own_history import newest_moments
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.batch import SequenceBatch

USERS = np.arange(30)
DIM, RANK, HIDDEN = 8, 5, 3
SHORT = Recipe(lr=0.01, batch_size=64, max_epochs=1, samples="prefixes")


def built(base: type[Any] = SASRec, **options: Any) -> DCCL:
    """With random vectors, as if devices had learnt."""
    torch.manual_seed(0)
    defaults = {"rank": RANK, "hidden": HIDDEN, "recipe": SHORT}
    model = DCCL(base=small_model(base, loss=FullSoftmax(half=False)), **defaults | options)
    model.build(small_data().catalog)
    model.vectors.normal_()
    if model.encoder is not None:
        model.encoder.down.weight.normal_(std=0.1)
    return model.eval()


def request() -> SequenceBatch:
    return small_data().request(USERS, back=2)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class TestPatches:
    @pytest.mark.parametrize("base", [SASRec, GRU4Rec, BSARec])
    def test_a_vector_of_zeros_is_the_base_to_the_last_bit(self, base: type[Any]) -> None:
        model, batch = built(base), request()
        zero = torch.zeros(len(USERS), RANK)
        assert torch.equal(model.local.score(batch, {"vector": zero}), model.base.score(batch))
        assert torch.equal(model.local.score(batch, None), model.base.score(batch))

    @pytest.mark.parametrize("rank", [RANK, 0])
    def test_a_patch_is_two_maps_of_a_basis_times_a_vector(self, rank: int) -> None:
        torch.manual_seed(0)
        patches = MetaPatch(DIM, num_places=2, hidden=HIDDEN, rank=rank)
        total = 2 * HIDDEN * DIM + HIDDEN + DIM
        assert patches.num_numbers == (rank or 2 * total)
        vector, x = torch.randn(4, patches.num_numbers), torch.randn(4, 6, DIM)
        for place, patch in enumerate(patches(vector)):
            found = patch(x)
            for user in range(4):
                flat = vector[user]
                if patches.basis is not None:
                    flat = sum(vector[user, k] * patches.basis[k] for k in range(rank))  # type: ignore[assignment]
                numbers = flat[place * total : (place + 1) * total].clone()
                numbers[: HIDDEN * DIM + HIDDEN] += patches.origin[place]
                w1, b1, w2, b2 = numbers.split([HIDDEN * DIM, HIDDEN, HIDDEN * DIM, DIM])
                for step in range(6):
                    inner = torch.tanh(w1.view(HIDDEN, DIM) @ x[user, step] + b1)
                    wanted = x[user, step] + w2.view(DIM, HIDDEN) @ inner + b2
                    torch.testing.assert_close(found[user, step], wanted)

    def test_they_are_in_their_places_and_gone_afterwards(self) -> None:
        first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        x = torch.randn(1, 3, 2)
        plain = second(first(x))
        add = lambda amount: lambda output: output + amount  # noqa: E731
        with inserted([first, second], [add(1), add(10)]):  # type: ignore[list-item]
            found = second(first(x))
        torch.testing.assert_close(found, second(first(x) + 1) + 10)
        assert torch.equal(second(first(x)), plain)

    def test_all_blocks_are_patched(self) -> None:
        model, batch = built(), request()
        plain = model.local.score(batch, None)
        for place in range(len(model.local.places())):
            patches = copy.deepcopy(model.local)
            kept = patches.patches.basis.view(RANK, len(model.local.places()), -1)  # type: ignore[union-attr]
            for other in range(kept.shape[1]):
                if other != place:
                    kept[:, other] = 0
            assert not torch.allclose(patches.score(batch, {"vector": model.vectors[:30]}), plain)

    @pytest.mark.parametrize(("base", "reason"), [(HSTU, "reads more"), (S3Rec, "made of blocks")])
    def test_some_models_cannot_be_patched(self, base: type[Any], reason: str) -> None:
        with pytest.raises(ValueError, match=f"^base must .*{reason}"):
            built(base)


class TestDevices:
    def test_moments_are_the_newest_items_and_what_was_before(self) -> None:
        found = newest_moments(torch.tensor([[0, 1, 2, 3], [0, 0, 0, 4]]), 2)
        assert found.history.tolist() == [[0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
        assert found.target.tolist() == [3, 2, 4, 0]
        assert found.is_real.tolist() == [True, True, False, False]
        assert len(newest_moments(torch.tensor([[5]]), 2).target) == 0

    def test_descent_is_that_of_each_user_alone(self) -> None:
        goal = torch.tensor([[1.0, -2.0], [3.0, 0.5]])

        def loss(vector: torch.Tensor) -> torch.Tensor:
            return (vector - goal).square().sum() / 2

        found = descend(torch.zeros(2, 2), loss, num_steps=3, lr=0.1, l2=0.5)
        for row in range(2):
            for column in range(2):
                value, wanted = 0.0, float(goal[row, column])
                for _ in range(3):
                    value -= 0.1 * ((value - wanted) + 0.5 * value)
                assert float(found[row, column]) == pytest.approx(value)

    @pytest.mark.parametrize("base", [SASRec, GRU4Rec])
    @pytest.mark.parametrize("rank", [RANK, 0])
    def test_learning_of_many_is_a_loop_over_users_items_and_steps(self, base: type[Any], rank: int) -> None:
        model = built(base, rank=rank, num_moments=3, num_steps=4, lr=0.05, l2=0.1)
        history = small_data().request(np.array([3, 50, 7]), back=2).history
        history[1, :-2] = 0  # one item to learn from
        history[2, :-1] = 0  # none
        found = model.learnt(history)
        assert not found[2].any()
        with torch.enable_grad():
            for user in range(2):
                vector = torch.zeros(1, model.local.patches.num_numbers, requires_grad=True)
                items = history[user][history[user] != 0].tolist()
                for _ in range(4):
                    loss = 0.05 * vector.square().sum()
                    for age in range(1, 4):
                        if age < len(items):
                            before = torch.tensor([items[:-age]])
                            with inserted(model.local.places(), model.local.patches(vector)):
                                state = model.base.hidden_states(before)[:, -1]
                            scores = state @ model.base.items.weight[1:].T
                            loss = loss + F.cross_entropy(scores, torch.tensor([items[-age] - 1]))
                    (gradient,) = torch.autograd.grad(loss, vector)
                    vector = (vector - 0.05 * gradient).detach().requires_grad_()
                torch.testing.assert_close(found[user], vector[0].detach(), rtol=1e-4, atol=1e-6)

    def test_they_learn_from_training_items_alone(self) -> None:
        model, data = built(), small_data(heldout_rate=0.1)
        stage = model._devices(data, "devices")
        assert stage.solve is not None
        stage.solve()
        heldout = data.users("heldout")
        assert not model.vectors[heldout].any()
        users, bags = next(data.train_bags(9))
        torch.testing.assert_close(model.vectors[users], model.learnt(bags[:, -50:]), rtol=1e-4, atol=1e-6)
        newest = data.request(users, back=0).history[:, -2:]
        assert not torch.equal(bags[:, -2:], newest)  # validation and test items are not among them

    def test_plain_fine_tuning_learns_at_the_request_and_asks_nobody(self) -> None:
        model, batch = built(rank=0), request()
        weights = {"vector": model.learnt(batch.history)}
        wanted = model.local.score(batch, weights)[:, 1:].topk(10)
        assert torch.equal(model.recommend(batch, 10).items, wanted.indices + 1)
        assert not torch.equal(wanted.indices + 1, model.base.recommend(batch, 10).items)
        assert +model.usage() == {"device": len(USERS)}

    def test_fine_tuning_helps_what_is_learnt_from(self) -> None:
        model, batch = built(rank=0, num_moments=1, num_steps=20, l2=0.0), request()
        moments = newest_moments(batch.history, 1)
        vector = model.learnt(batch.history)
        before, after = (
            F.cross_entropy(
                model.local.logits(model.local.state(moments.history, v))[:, 1:], moments.target - 1
            )
            for v in (None, vector)
        )
        assert after < before


class TestTheBoundary:
    def test_a_device_ranks_with_what_the_cloud_made_of_its_vector(self) -> None:
        model, batch = built(), request()
        assert model.encoder is not None
        vector = model.vectors[USERS]
        made = vector + torch.tanh(vector @ model.encoder.up.weight.T + model.encoder.up.bias) @ (
            model.encoder.down.weight.T
        )
        wanted = model.local.score(batch, {"vector": made})[:, 1:].topk(10)
        found = model.recommend(batch, 10)
        torch.testing.assert_close(found.scores, wanted.values)

    def test_and_offline_with_its_own(self) -> None:
        model, batch = built(), request()
        model.cross(Boundary(network="offline"))
        wanted = model.local.score(batch, {"vector": model.vectors[USERS]})[:, 1:].topk(10)
        assert torch.equal(model.recommend(batch, 10).items, wanted.indices + 1)

    def test_nothing_but_the_vector_crosses(self) -> None:
        model, batch = built(), request()
        model.recommend(batch, 10)
        # around the body 16; name of the user 4 + 16, of the model 4 + 12; how many 2; name 4 + 6, head 6
        up = 16 + 20 + 16 + 2 + 10 + 6 + 4 * RANK
        traffic = model.traffic()
        assert traffic.bytes_up == len(USERS) * up
        assert traffic.bytes_down == len(USERS) * (up - 20)
        (question, *_) = model.device_side().ask(batch, ["x"] * len(batch))
        assert isinstance(question, Patch)
        assert question.tensors.keys() == {"vector"}

    def test_a_vector_of_another_model_or_shape_fails(self) -> None:
        model = built()
        version = model.device_side().version
        good = np.ones(RANK, np.float32)
        asked = [
            Patch("x", version, {"vector": good}),
            Patch("x", "other", {"vector": good}),
            Patch("x", version, {"vector": good[1:]}),
            Patch("x", version, {"vector": good * np.nan}),
            Patch("x", version, {}),
        ]
        cloud = model.cloud_side()
        answers = [decode(frame) for frame in cloud.handle([encode(question) for question in asked])]
        assert [type(answer) for answer in answers] == [Parameters, *[Failure] * 4]


class TestRounds:
    def test_stages_and_what_each_of_them_moves(self, tmp_path: Path) -> None:
        model, data = built(num_rounds=1, num_steps=3), small_data()
        parts = {"base": model.base, "patches": model.local.patches, "encoder": model.encoder}
        moved, names = [], []
        for stage in model.stages(data):
            before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
            vectors = model.vectors.clone()
            with torch.enable_grad():
                train(stage, tmp_path, TrainerOptions(progress=False), seed=0, resume=False, logger=None)
            names.append(stage.name)
            changed = {
                name
                for name, part in parts.items()
                if any(not torch.equal(before[name][key], value) for key, value in part.state_dict().items())
            }
            moved.append(changed | ({"vectors"} if not torch.equal(vectors, model.vectors) else set()))
        assert names == ["base-train", "devices-0", "model-0", "basis-0", "devices"]
        assert moved == [{"base"}, {"vectors"}, {"base"}, {"patches", "encoder"}, {"vectors"}]

    def test_a_run_that_goes_on_after_its_second_step_is_the_unbroken_one(self, tmp_path: Path) -> None:
        def taught(*, resume: bool) -> dict[str, torch.Tensor]:
            model = built(num_steps=3)
            for stage in model.stages(small_data()):
                torch.manual_seed(0)  # as `fit` does
                with torch.enable_grad():
                    train(stage, tmp_path, TrainerOptions(progress=False), seed=0, resume=resume, logger=None)
            return model.state_dict()

        unbroken = taught(resume=False)
        for name in ("basis-0", "devices"):  # the teacher of that stage is no part of any file
            (tmp_path / f"{name}.ckpt").unlink()
        assert same(taught(resume=True), unbroken)

    @pytest.mark.parametrize("step", [FollowPatched, FollowEncoded])
    def test_the_loss_is_cross_entropy_and_divergence_from_the_patched_teacher(self, step: Any) -> None:
        model, batch = built(distillation=0.7, num_listed=6), request()
        teacher = built(SASRec).local
        with torch.no_grad():
            teacher.base.items.weight.mul_(1.5)
        student = model._step(step, teacher)
        torch.manual_seed(1)
        found = float(student.loss(batch))
        torch.manual_seed(1)
        shift = torch.randint(1, 60, (len(USERS), 6))
        items = torch.cat([batch.target[:, None], (batch.target[:, None] - 1 + shift) % 60 + 1], dim=1)
        vector = student.vector(batch.users)
        assert (vector is None) == (step is FollowPatched)
        mine = model.local.score(batch, None if vector is None else {"vector": vector})
        theirs = teacher.score(batch, {"vector": model.vectors[batch.users]})
        wanted = 0.0
        for user in range(len(USERS)):
            scores = mine[user, 1:].tolist()
            total = math.log(sum(math.exp(score) for score in scores))
            wanted += total - scores[int(batch.target[user]) - 1]
            p, q = (s[user, items[user]].softmax(0).tolist() for s in (theirs, mine))
            wanted += 0.7 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert found == pytest.approx(wanted / len(USERS), rel=1e-4)

    def test_the_teacher_does_not_learn(self) -> None:
        model, batch = built(), request()
        student = model._step(FollowPatched, copy.deepcopy(model.local))
        assert {id(weight) for weight in student.parameters()} <= {
            id(weight) for weight in model.parameters()
        }
        with torch.enable_grad():
            student.loss(batch).backward()
        assert all(weight.grad is None for weight in student._teacher[0].parameters())
        assert model.base.items.weight.grad is not None

    def test_samples_must_be_prefixes(self) -> None:
        with pytest.raises(ValueError, match=r"recipe\.samples must be prefixes, got positions"):
            DCCL(recipe=RECIPE)
