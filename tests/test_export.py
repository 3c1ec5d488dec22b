"""The exported graph beside the method it was made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from small import run_folder, small_data, small_model

from recbench import models
from recbench.cli import main
from recbench.edge import lists
from recbench.edge.messages import decode, encode
from recbench.errors import DataError, UsageError
from recbench.export import Form, export
from recbench.export.card import KEY
from recbench.export.check import compare
from recbench.export.nets import DeviceNet

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.batch import SequenceBatch
    from recbench.models.base import Recommender

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
USERS = np.arange(40)


def built(name: str, **options: Any) -> Recommender:
    """A method with random weights, larger than a fresh one's, so that places count and lists differ."""
    return stirred(small_model(getattr(models, name), **options))


def stirred(model: Recommender) -> Recommender:
    data = small_data()
    torch.manual_seed(0)
    model.build(data.catalog)
    next(iter(model.stages(data)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model.eval()


def listed(file: Path, batch: SequenceBatch, **more: torch.Tensor) -> tuple[Any, Any]:
    """What onnxruntime says to each user of the batch alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    width = small_data().max_len
    missing = (width - batch.history.shape[1], 0)
    given = {"history": torch.nn.functional.pad(batch.history, missing), "users": batch.users, **more}
    if batch.seen is not None:
        given["seen"] = batch.seen
    if batch.times is not None:
        given["times"] = torch.nn.functional.pad(batch.times, missing)
    names = [value.name for value in session.get_inputs()]
    feeds = [{name: given[name][i : i + 1].numpy() for name in names} for i in range(len(batch))]
    items, scores = zip(*(session.run(None, feed) for feed in feeds), strict=True)
    return torch.from_numpy(np.concatenate(items)), torch.from_numpy(np.concatenate(scores))


def check(name: str, folder: Path, *, mask_seen: bool = False, **options: Any) -> None:
    model, data = built(name, **options), small_data()
    data.mask_seen = mask_seen
    file = folder / "device.onnx"
    export(model, data, file, num_users=20)
    for back in (0, 3):  # the graph was made from one history; shorter ones are served as well
        batch = data.request(USERS, back=back)
        with torch.inference_mode():
            best = model.recommend(batch, 10)
        items, scores = listed(file, batch)
        torch.testing.assert_close(scores, best.scores, rtol=1e-4, atol=1e-4)
        assert (items == best.items).float().mean() > 0.99  # but for ties


def test_a_graph_recommends_what_the_method_does_and_bars_what_was_seen(tmp_path: Path) -> None:
    check("SASRec", tmp_path, mask_seen=True)


@pytest.mark.slow
def test_a_graph_reads_times_and_compares_by_cosine(tmp_path: Path) -> None:
    check("HSTU", tmp_path, places="from_newest")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GRU4Rec", "BSARec", "LightGCN", "MF", "DIN", "Caser", "HGN"])
def test_graphs_of_other_methods(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


def test_weights_from_the_cloud_are_inputs(tmp_path: Path) -> None:
    base = small_model(models.GRU4Rec)
    model = built("DUET", base=base, hidden=8)
    data, file = small_data(), tmp_path / "device.onnx"
    export(model, data, file, num_users=20)
    batch = data.request(USERS)
    with torch.inference_mode():
        wanted = model.recommend(batch, 10)
        written = model.write(batch.history)
        alone = model.device_side().alone(batch).recommend(batch, 10)
        _, scores = listed(file, batch, **written)
        torch.testing.assert_close(scores, wanted.scores, rtol=1e-4, atol=1e-4)
        nothing = {name: torch.zeros_like(value) for name, value in written.items()}
        _, scores = listed(file, batch, **nothing)
        torch.testing.assert_close(scores, alone.scores, rtol=1e-4, atol=1e-4)


def reranking() -> models.LSC4Rec:
    """LSC4Rec with random weights, a third of the cloud, and devices that ask from 6.5 places on."""
    cloud, device = small_model(models.CodeLM, num_beams=20), small_model(models.GRU4Rec)
    model = models.LSC4Rec(cloud=cloud, device=device, num_listed=20, budget=0.2)
    stirred(model)
    with torch.no_grad():
        model.alpha.fill_(1 / 3)
        model.limit.fill_(6.5)
    model.cross(model.boundary)
    return model


@pytest.fixture(scope="module")
def of_lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[models.LSC4Rec, Path]:
    model, file = reranking(), tmp_path_factory.mktemp("lists") / "device.onnx"
    export(model, small_data(), file, form=Form(shard=16), num_users=20)
    return model, file


@torch.inference_mode()
def test_a_second_graph_ranks_a_list_and_decides_whether_to_ask(of_lists: Any) -> None:
    import onnxruntime

    model, file = of_lists
    data = small_data()
    batch, older = data.request(USERS), data.request(USERS, back=3)
    brain = model.device_side()
    frames = [encode(question) for question in brain.ask(older, [""] * len(USERS))]
    replies = [decode(frame) for frame in model.cloud_side().handle(frames)]
    wanted = brain.together(batch, replies).recommend(batch, 10)
    need = inconsistency_by_hand(model, batch, replies)
    torch.testing.assert_close(torch.from_numpy(brain.need(batch, replies)), need)
    session = onnxruntime.InferenceSession(file.with_suffix(".list.onnx"))
    names = [value.name for value in session.get_inputs()]
    listed, theirs = lists.stacked(replies)
    assert {"history", "listed", "listed_scores"} <= set(names)
    history = torch.nn.functional.pad(batch.history, (data.max_len - batch.history.shape[1], 0))
    given = {"history": history, "listed": listed, "listed_scores": theirs}
    feeds = [{name: given[name][i : i + 1].numpy() for name in names} for i in range(len(USERS))]
    outputs = zip(*(session.run(None, feed) for feed in feeds), strict=True)
    items, scores, needs, asks = (torch.from_numpy(np.concatenate(output)) for output in outputs)
    torch.testing.assert_close(scores, wanted.scores, rtol=1e-4, atol=1e-4)
    assert (items == wanted.items).float().mean() > 0.99  # but for ties
    torch.testing.assert_close(needs, need.float(), rtol=0, atol=1e-4)
    assert asks.tolist() == (need >= 6.5).tolist()
    assert 0 < asks.sum() < len(USERS)  # a list in random order moves by (20 - 1 / 20) / 3 = 6.65


def inconsistency_by_hand(model: models.LSC4Rec, batch: SequenceBatch, replies: Any) -> torch.Tensor:
    """Eq. 11, one user and one item at a time."""
    means = []
    for i, reply in enumerate(replies):
        items = torch.tensor(reply.items.tolist())[None]
        own = model.device_model.score(batch.rows(slice(i, i + 1)), items)[0].tolist()
        order = sorted(range(len(own)), key=lambda place: -own[place])
        means.append(sum(abs(order.index(place) - place) for place in range(len(own))) / len(own))
    return torch.tensor(means, dtype=torch.float64)


def test_the_card_says_when_to_ask_and_whom_to_believe(of_lists: Any) -> None:
    import onnx

    model, file = of_lists
    for path in (file, file.with_suffix(".list.onnx")):
        (prop,) = onnx.load(path, load_external_data=False).metadata_props
        assert prop.key == KEY
        assert json.loads(prop.value) == {
            "method": "LSC4Rec",
            "data": small_data().prepared.name,
            "catalog": model.version,
            "num_items": 60,
            "max_len": small_data().max_len,
            "k": 10,
            "version": model.device_side().version,
            "expects": "Candidates",
            "policy": {"name": "Threshold", "threshold": 6.5},
            "deadline_ms": 1000.0,
            "num_tries": 1,
            "num_listed": 20,
        }


def test_shards_are_the_rows_of_the_item_table_and_the_same_for_everybody(of_lists: Any) -> None:
    model, file = of_lists
    shards = sorted(file.parent.glob("device.items-*.bin"))
    assert [path.name for path in shards] == [f"device.items-000{number}.bin" for number in range(4)]
    table = model.device_model.items.weight.detach().numpy()
    sizes = [path.stat().st_size for path in shards]
    assert sizes[0] == sizes[1] == sizes[2] > sizes[3]  # 61 rows by 16
    for number, path in enumerate(shards):
        rows = table[16 * number : 16 * (number + 1)]
        content = path.read_bytes()
        assert rows.tobytes() in content or np.ascontiguousarray(rows.T).tobytes() in content
    graph = file.read_bytes()
    assert table[1].tobytes() not in graph  # it is there and nowhere else


def test_a_device_that_learns_its_weights_is_refused(tmp_path: Path) -> None:
    model = built("DCCL", base=small_model(models.GRU4Rec), rank=0, num_rounds=0)
    with pytest.raises(UsageError, match=r"DCCL cannot be exported: .* learns them"):
        export(model, small_data(), tmp_path / "device.onnx", num_users=5)


def test_a_shard_has_rows() -> None:
    with pytest.raises(UsageError, match="--shard -1: rows of a shard"):
        Form(shard=-1)


class Fixed(models.Popularity):
    def score(self, batch: SequenceBatch, items: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        return torch.tensor([[0.0, 5, 4, 3, 3, 1]]).repeat(len(batch), 1)


class Impatient(models.Popularity):
    def score(self, batch: SequenceBatch, items: torch.Tensor | None = None) -> torch.Tensor:
        return super().score(batch, items) if batch.history.sum() > 3 else torch.zeros(len(batch), 61)


class TestComparison:
    """Lists against a method that scores items 1..5 with 5, 4, 3, 3, 1."""

    @pytest.mark.parametrize(
        ("found", "is_same", "overlap"),
        [
            ([1, 2, 3], True, 1),
            ([1, 2, 4], True, 2 / 3),  # torch scores 3 and 4 alike
            ([2, 1, 3], False, 1),
            ([1, 2, 5], False, 2 / 3),
            ([0, 0, 0], False, 0),
        ],
    )
    def test_lists_are_compared_place_by_place(self, found: list[int], is_same: bool, overlap: float) -> None:
        net = DeviceNet(Fixed(), ["history"], k=3)
        asked = {"history": torch.ones(1, 4, dtype=torch.int64)}
        same, shared = compare(net, asked, {"items": torch.tensor([found])})
        assert same.tolist() == [is_same]
        assert shared.tolist() == pytest.approx([overlap])

    def test_a_graph_that_disagrees_is_refused(self, tmp_path: Path, monkeypatch: Any) -> None:
        model, data = models.Popularity(), small_data()
        model.build(data.catalog)
        nobody = torch.zeros(20, dtype=torch.bool), torch.zeros(20)
        monkeypatch.setattr("recbench.export.check.compare", lambda *_: nobody)
        with pytest.raises(DataError, match=r"for 0\.00% of 20 users"):
            export(model, data, tmp_path / "device.onnx", num_users=20)


def test_a_method_that_searches_its_list_is_refused(tmp_path: Path) -> None:
    model = small_model(models.P5, codes=models.P5().codes)
    with pytest.raises(UsageError, match=r"P5 cannot be exported: .* scores no items"):
        export(model, small_data(), tmp_path / "device.onnx")


def test_what_no_graph_can_hold_is_refused_with_its_reason(tmp_path: Path) -> None:
    model, data = Impatient(), small_data()
    model.build(data.catalog)
    with pytest.raises(UsageError, match=r"^Impatient cannot be exported: \w+: .*data-dependent") as caught:
        export(model, data, tmp_path / "device.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_both_files_and_says_how_they_do(tmp_path: Path, capsys: Any) -> None:
    folders = [f"--runs={tmp_path}/runs", f"--results={tmp_path}/results", "--wandb=disabled"]
    words = ["--model", "popularity", "--data", "demo", *folders]
    assert main(["fit", *words]) == 0
    folder = run_folder(tmp_path)
    capsys.readouterr()
    assert main(["export", str(folder), "--to", "onnx", "--int8"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("torch", "onnx float", "onnx int8", "100.0%"))
    assert {"device.onnx", "device.int8.onnx"} <= {path.name for path in folder.iterdir()}
