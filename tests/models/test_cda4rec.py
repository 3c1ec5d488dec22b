"""CDA4Rec: what is fused and how, what is ranked, what crosses, and that the device alone is its encoder."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small import small_data, taught
from tiny_lm import byte_llama

from recbench.edge.abstract import Abstracted
from recbench.edge.adapting import AdapterTraining
from recbench.edge.agents import LanguagePlanner
from recbench.edge.auditor import Auditor, PrivacyError
from recbench.edge.messages import Abstract, Plan, decode, encode
from recbench.edge.planner import FixedPlanner, RulePlanner
from recbench.edge.policy import Never
from recbench.errors import UsageError
from recbench.evaluate import evaluate
from recbench.models import CDA4Rec, SASRec, SurgeTF
from recbench.models.base import Recipe, Recommender
from recbench.models.collaborative import Boundary
from recbench.nn.lm_options import LanguageModelOptions, Lora
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

SHORT = Recipe(lr=0.01, batch_size=64, samples="prefixes", max_epochs=2)
USERS = np.arange(40)


class Setting(NamedTuple):
    data: InteractionData
    model: CDA4Rec
    lm: LanguageModelOptions


def cda(lm: LanguageModelOptions, **options: object) -> CDA4Rec:
    encoder = SASRec(dim=16, num_layers=1, hidden=16, recipe=SHORT)
    settings = {"encoder": encoder, "lm": lm, "text_dim": 8, "sizes": (5, 20), "tag_counts": (2, 4)}
    return CDA4Rec(**settings | {"recipe": SHORT} | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    lm = LanguageModelOptions(name=byte_llama(tmp_path_factory.mktemp("lm")), max_tokens=64)
    data = small_data()
    model = cda(lm, planner=RulePlanner(sizes=(20, 20, 5), tag_counts=(4, 4, 2)))
    return Setting(data, taught(model, tmp_path_factory.mktemp("stages"), data), lm)


@pytest.fixture
def batch(setting: Setting) -> SequenceBatch:
    return setting.data.request(USERS)


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def replies(setting: Setting, batch: SequenceBatch) -> list[Plan]:
    asked = setting.model.device_side().ask(batch, [""] * len(batch))
    found = setting.model.strategist()(asked)
    assert all(isinstance(reply, Plan) for reply in found)
    return [reply for reply in found if isinstance(reply, Plan)]


class TestFusion:
    def test_candidates_are_ranked_by_equations_5_and_6(self, setting: Setting, batch: SequenceBatch) -> None:
        model = setting.model
        best = model.recommend(batch, 3)
        table, states = model.encoder.items.weight, model.encoder.newest_of(batch)
        for row, reply in enumerate(replies(setting, batch)):
            beta = json.loads(reply.text)["beta"]
            semantic = torch.from_numpy(reply.vector.copy())
            user = beta * semantic + (1 - beta) * states[row] / states[row].norm()
            scores = {int(item): float(user @ table[int(item)]) for item in reply.items}
            wanted = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
            assert best.items[row].tolist() == wanted
            np.testing.assert_allclose(best.scores[row], [scores[item] for item in wanted], atol=1e-5)

    def test_a_target_outside_the_candidates_is_not_listed(
        self, setting: Setting, batch: SequenceBatch
    ) -> None:
        batch = replace(batch, query=None)  # those of the demo world name the target's tag
        ranks = setting.model.target_ranks(batch).rank
        listed = [
            t in set(r.items.tolist())
            for t, r in zip(batch.target.tolist(), replies(setting, batch), strict=True)
        ]
        assert ranks.isfinite().tolist() == listed
        assert 0 < sum(listed) < len(listed)

    def test_plans_are_kept_to(self, setting: Setting, batch: SequenceBatch) -> None:
        tags = setting.data.catalog.tags()
        for reply in replies(setting, batch):
            plan = json.loads(reply.text)
            chosen = {tag for tag, _ in plan["tags"]}
            assert all(chosen & set(tags[item - 1]) for item in reply.items.tolist())
            reachable = sum(bool(chosen & set(some)) for some in tags)
            assert len(reply.items) == min(plan["size"], reachable)
            assert abs(float(np.linalg.norm(reply.vector.copy())) - 1) < 1e-5

    def test_candidates_come_in_the_order_of_equation_3(self, setting: Setting, batch: SequenceBatch) -> None:
        table = setting.model.encoder.items.weight
        for reply in replies(setting, batch):
            scores = table[torch.from_numpy(reply.items.astype(np.int64))] @ torch.from_numpy(
                reply.vector.copy()
            )
            assert (scores[1:] - scores[:-1]).max() < 1e-5

    def test_the_query_has_its_share_of_equation_2(self, setting: Setting) -> None:
        strategist = setting.model.strategist()
        both, query, text = (
            strategist.read([Abstracted(*pair)], [0.25])
            for pair in (("w1 w2", "w3"), ("w1 w2", ""), ("", "w3"))
        )
        torch.testing.assert_close(both, 0.25 * query + 0.75 * text)

    def test_with_all_weight_on_the_encoder_the_catalogue_is_ranked_as_it_ranks(
        self, setting: Setting, batch: SequenceBatch
    ) -> None:
        model = copy.copy(setting.model)
        model.planner, model.scope = FixedPlanner(beta=0.0), "catalogue"
        model.cross(Boundary())
        assert torch.equal(model.recommend(batch, 10).items, model.encoder.recommend(batch, 10).items)

    def test_the_loss_is_that_of_the_fused_vector(self, setting: Setting) -> None:
        model = setting.model
        batch = next(iter(setting.data.newest(1).batched(16, 0, samples="prefixes").train_dataloader()))
        beta = model.kept_betas[batch.users]
        semantic = F.normalize(model.kept_texts[batch.users] @ model.meaning.map.weight.T, dim=1)
        fused = beta * semantic + (1 - beta) * F.normalize(model.encoder.newest_of(batch), dim=1)
        logits = model.temperature * fused @ model.encoder.items.weight.T
        wanted = F.cross_entropy(logits[:, 1:], batch.target - 1)
        torch.testing.assert_close(model.loss(batch), wanted, atol=0, rtol=1e-3)  # bfloat16

    def test_what_is_kept_is_of_before_the_newest_training_item(self, setting: Setting) -> None:
        users, positions = setting.data.moments(1)
        moment = setting.data.moment(users[:5], positions[:5])
        asked = setting.model.device_side().ask(moment, [""] * 5)
        read = setting.model.strategist().read(
            [Abstracted("", q.text) for q in asked if isinstance(q, Abstract)], [0.0] * 5
        )
        torch.testing.assert_close(setting.model.kept_texts[moment.users], read)


class TestBoundary:
    def test_without_a_network_it_is_the_encoder(self, setting: Setting, batch: SequenceBatch) -> None:
        model = copy.copy(setting.model)
        model.cross(Boundary(policy=Never(), lag=-1))
        found = model.recommend(batch, 10)
        wanted = model.encoder.recommend(batch, 10)
        assert torch.equal(found.items, wanted.items)
        assert torch.equal(found.scores, wanted.scores)

    def test_no_candidates_cross_where_the_catalogue_is_ranked(
        self, setting: Setting, batch: SequenceBatch
    ) -> None:
        model = copy.copy(setting.model)
        model.scope = "catalogue"
        model.cross(Boundary())
        model.recommend(batch, 10)
        lists = model.traffic()
        assert model.strategist()(model.device_side().ask(batch, [""] * len(batch)))[0].items.size == 0  # type: ignore[union-attr]
        setting.model.cross(Boundary())
        setting.model.recommend(batch, 10)
        assert lists.bytes_down < setting.model.traffic().bytes_down

    @pytest.mark.parametrize(
        "change",
        [
            {"text": "no plan"},
            {"vector": np.ones(3, np.float32)},
            {"vector": np.full(16, np.nan, np.float32)},
            {"items": np.array([1, 1], np.int32)},
            {"items": np.array([61], np.int32)},
            {"items": np.empty(0, np.int32)},
        ],
    )
    def test_replies_that_make_no_sense_are_not_used(
        self, change: dict[str, object], setting: Setting, batch: SequenceBatch
    ) -> None:
        good, *_ = replies(setting, batch)
        assert setting.model.device_side().are_usable([good, replace(good, **change)]) == [True, False]  # type: ignore[arg-type]

    def test_an_abstract_that_says_nothing_is_refused(self, setting: Setting) -> None:
        (answer,) = setting.model.cloud_side().handle([encode(Abstract("", "", 5))])
        assert "needs a text or a query" in str(decode(answer))


class TestPrivacy:
    def test_an_evaluation_is_audited(self, setting: Setting) -> None:
        evaluate(setting.model, setting.data)
        (auditor,) = setting.model.observers
        assert isinstance(auditor, Auditor)
        assert auditor.frames == len(setting.data.evaluated("test"))

    def test_watching_takes_none_of_the_devices_time(self, setting: Setting, batch: SequenceBatch) -> None:
        class Slow:
            def sends(self, frames: Sequence[bytes], users: object) -> None:  # noqa: ARG002
                time.sleep(0.2)

        model = copy.copy(setting.model)
        device = model.cross(Boundary(), observers=[Slow()])
        start = time.perf_counter()
        model.recommend(batch, 3)
        total_ms = 1000 * (time.perf_counter() - start)
        assert device.gate.watched_s >= 0.2
        counted = sum(model.split_ms(total_ms).values())
        assert counted == pytest.approx(total_ms - 1000 * device.gate.watched_s, abs=100)

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
    def test_the_encoder_is_left_as_it_was(self, setting: Setting, tmp_path: Path) -> None:
        seen: list[dict[str, torch.Tensor]] = []
        model = cda(setting.lm)
        torch.manual_seed(0)
        model.build(setting.data.catalog)
        with torch.enable_grad():
            for stage in model.stages(setting.data):
                train(stage, tmp_path, TrainerOptions(progress=False), seed=0, resume=False, logger=None)
                seen.append({name: value.clone() for name, value in model.state_dict().items()})
        changed = {name for name in seen[-1] if not torch.equal(seen[-1][name], seen[-2][name])}
        assert changed == {"meaning.map.weight", "temperature"}

    @pytest.mark.parametrize("how", ["together", "both"])
    def test_both_learn_together(self, how: str, setting: Setting, tmp_path: Path) -> None:
        model = taught(cda(setting.lm, train_encoder=how), tmp_path, setting.data)
        assert (tmp_path / "device.ckpt").exists() == (how == "both")
        assert evaluate(model, setting.data).ranks.rank.min() >= 1

    def test_what_comes_before_training_comes_where_both_learn_together(self, setting: Setting) -> None:
        encoder = SASRec(dim=16, num_layers=1, hidden=16, table_from=setting.lm, recipe=SHORT)
        model = cda(setting.lm, encoder=encoder, train_encoder="together")
        model.build(setting.data.catalog)
        names = [stage.name for stage in model.stages(setting.data)]
        assert names == ["read", "device-read", "abstract", "train"]

    def test_a_graph_shares_the_table(self, setting: Setting, tmp_path: Path) -> None:
        graph = SurgeTF(dim=16, hidden=16, attention_hidden=8, recipe=SHORT)
        planner = FixedPlanner(encoder="surge", beta=0.0)
        model = taught(
            cda(setting.lm, graph=graph, planner=planner, scope="catalogue"), tmp_path, setting.data
        )
        assert model.graph is not None
        assert model.graph.items is model.encoder.items
        batch = setting.data.request(USERS)
        assert torch.equal(model.recommend(batch, 10).items, model.graph.recommend(batch, 10).items)

    def test_tables_of_two_widths_are_refused(self, setting: Setting) -> None:
        model = cda(setting.lm, graph=SurgeTF(dim=8, recipe=SHORT))
        with pytest.raises(UsageError, match=r"graph.dim is 8 and encoder.dim 16"):
            model.build(setting.data.catalog)

    def test_samples_must_be_prefixes(self, setting: Setting) -> None:
        with pytest.raises(ValueError, match="must be prefixes, got positions"):
            cda(setting.lm, recipe=Recipe())


def test_adapters_need_somebody_to_judge(setting: Setting) -> None:
    with pytest.raises(ValueError, match=r"need a device_lm with lora.rank above 0, and planner"):
        cda(setting.lm, device_lm=setting.lm, adapters=AdapterTraining(num_users=3))


def test_it_recommends_as_any_method(setting: Setting) -> None:
    assert isinstance(setting.model, Recommender)
    assert "rule" in setting.model.planner.outcomes
    assert "candidates of the cloud" in setting.model.notes()[0]


def test_a_language_model_on_the_device_writes_what_is_safe(setting: Setting, batch: SequenceBatch) -> None:
    model = cda(setting.lm, device_lm=setting.lm)
    model.build(setting.data.catalog)
    asked = model.device_side().ask(batch, [""] * len(batch))
    assert len(asked) == len(batch)
    Auditor.of(setting.data).sends([encode(question) for question in asked], batch.users.numpy())
    assert model.slm is not None
    assert set(model.slm.parameters()) <= set(model.sides()["device"].parameters())
    assert "abstracts by LanguageAbstracter" in model.notes()[0]


class TestSkills:
    """A device with a language model of its own, and a planner in the cloud that teaches it."""

    @pytest.fixture(scope="class")
    def skilled(self, tmp_path_factory: pytest.TempPathFactory) -> Setting:
        folder = byte_llama(tmp_path_factory.mktemp("slm"))
        lm = LanguageModelOptions(name=folder, max_tokens=64)
        device_lm = LanguageModelOptions(name=folder, max_tokens=900, lora=Lora(rank=2, dropout=0.0))
        planner = LanguagePlanner(lm=LanguageModelOptions(name=folder, max_tokens=900), max_new_tokens=8)
        adapters = AdapterTraining(num_users=2, num_explained=3, num_samples=1, num_epochs=1, lr=0.01)
        model = cda(lm, device_lm=device_lm, adapters=adapters, planner=planner)
        data = small_data().restricted(np.arange(6))
        return Setting(data, taught(model, tmp_path_factory.mktemp("stages"), data), lm)

    def test_both_skills_are_learnt_and_kept(self, skilled: Setting) -> None:
        assert [stage.name for stage in skilled.model.stages(skilled.data)] == [
            *("read", "device", "adapt", "abstract", "train", "explain")
        ]
        assert skilled.model.slm is not None
        state = skilled.model.slm.adapter_state()
        moved = {name.split(".")[-2] for name, w in state.items() if "lora_B" in name and w.abs().sum() > 0}
        assert moved == {"abstract", "explain"}  # B begins at zero

    def test_explanations_are_of_what_is_recommended(
        self, skilled: Setting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, batch = skilled.model, skilled.data.request(np.arange(4))
        assert model.slm is not None
        asked: list[str] = []
        written: list[str] = []

        def generate(prompts: Sequence[str], **_: object) -> list[str]:
            if any("Recommended" in prompt for prompt in prompts):
                assert model.slm is not None
                assert model.slm.adapter == "explain"
                asked.extend(prompts)
            else:
                written.extend(prompts)
            return ["jazz"] * len(prompts)

        monkeypatch.setattr(model.slm, "generate", generate)
        assert model.explain(batch, num_items=2) == ["jazz"] * 4
        assert len(written) == 4  # an abstract each, and no second one for who has a plan
        best = model.recommend(batch, 2).items.tolist()
        for prompt, items in zip(asked, best, strict=True):
            named = "; ".join(model.words.titles[item] for item in items)
            assert prompt.startswith(f"Recommended: {named}.")

    def test_without_a_cloud_the_device_explains_what_it_ranked_alone(self, skilled: Setting) -> None:
        model = copy.copy(skilled.model)
        model.cross(Boundary(policy=Never()))
        plans, titles = model._recommended(skilled.data.request(np.arange(4)), 2)
        assert [plan.beta for plan in plans] == [0.0] * 4
        assert all(len(some) == 2 for some in titles)

    def test_a_device_without_a_model_cannot_explain(self, setting: Setting, batch: SequenceBatch) -> None:
        with pytest.raises(UsageError, match="set device_lm"):
            setting.model.explain(batch)
