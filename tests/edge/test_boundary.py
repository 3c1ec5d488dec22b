"""What must hold whatever happens between a device and its cloud."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from minimal import Fusion, Minimal, fused
from small import run, small_data

from recbench.edge.answer import take
from recbench.edge.cloud import MAX_QUESTION, Cloud, Lister
from recbench.edge.device import Device
from recbench.edge.faults import Corrupted, Delayed, Duplicated, Failing, Lost, Reordered, Skewed
from recbench.edge.link import Arrival, InProcess, Link, Traffic
from recbench.edge.lists import ScoredList, are_usable
from recbench.edge.messages import (
    Abstract,
    Candidates,
    Failure,
    History,
    answers,
    checksum,
    decode,
    encode,
)
from recbench.edge.policy import Every, Never, RandomBudget, Threshold
from recbench.evaluate import evaluate
from recbench.models import Popularity
from recbench.models.collaborative import Boundary, catalog_version
from recbench.results import read_run
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.models.base import Ranking
    from recbench.results import Run

USERS = np.arange(40)
FAULTS: dict[str, Callable[[Link], Link]] = {
    "lost": Lost,
    "delayed": lambda link: Delayed(link, delay_ms=10_000),
    "duplicated": Duplicated,
    "reordered": Reordered,
    "corrupted": Corrupted,
    "failing": Failing,
    "skewed": lambda link: Skewed(link, version="older"),
    "some-of-each": lambda link: Lost(
        Delayed(
            Duplicated(
                Reordered(
                    Corrupted(Failing(Skewed(link, version="older", rate=0.2), rate=0.2), rate=0.2), rate=0.2
                ),
                rate=0.5,
            ),
            delay_ms=2000,
            rate=0.2,
        ),
        rate=0.2,
    ),
}


@pytest.fixture(scope="module")
def data() -> InteractionData:
    return small_data()


@pytest.fixture(scope="module", params=["LastItem", "SASRec"])
def model(request: pytest.FixtureRequest, data: InteractionData, tmp_path_factory: Any) -> Minimal:
    torch.manual_seed(0)
    found = Minimal(cloud=request.param, num_candidates=20)
    found.build(data.catalog)
    options = TrainerOptions(max_epochs=2, progress=False)
    folder: Path = tmp_path_factory.mktemp("stages")
    for stage in found.stages(data):
        train(stage, folder, options, seed=0, resume=False, logger=None)
    return found.eval()


@pytest.fixture(autouse=True)
def _fresh(model: Minimal) -> Any:
    model.cross(Boundary())
    with torch.inference_mode():
        yield


def plain(model: Minimal, batch: SequenceBatch) -> ScoredList:
    """The same method as one computation, with no boundary in it."""
    seen = batch.history if batch.seen is not None else None
    listed = model.cloud.recommend(replace(batch, seen=seen), model.num_candidates)
    return fused(model.device_model, batch, listed.items, listed.scores, num_items=model.num_items)


def same(found: Ranking, wanted: Ranking) -> bool:
    return torch.equal(found.items, wanted.items) and torch.equal(found.scores, wanted.scores)


def without_reply(found: Any) -> list[int]:
    return [row for row, source in enumerate(found.source) if source == "device"]


class TestAPerfectNetwork:
    def test_is_no_boundary_to_the_last_bit(self, model: Minimal, data: InteractionData) -> None:
        for batch in data.targets("test"):
            assert same(model.recommend(batch, 10), plain(model, batch).recommend(batch, 10))
            found, wanted = model.target_ranks(batch), plain(model, batch).target_ranks(batch)
            assert torch.equal(found.rank, wanted.rank)
            assert torch.equal(found.ties, wanted.ties)

    def test_hides_what_was_seen(self, model: Minimal) -> None:
        masked = small_data()
        masked.mask_seen = True
        batch = masked.request(USERS)
        assert batch.seen is not None
        best = model.recommend(batch, 10)
        assert same(best, plain(model, batch).recommend(batch, 10))
        for items, seen in zip(best.items.tolist(), batch.seen.tolist(), strict=True):
            assert not set(items) & (set(seen) - {0})

    def test_counts_every_byte_once(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        model.recommend(batch, 10)
        lengths = (batch.history != 0).sum(1)
        # around the body 16; name 4 + 16, array head 6, count 8, flag 1; version 4 + 12, two array heads
        assert model.traffic() == Traffic(
            40, int((16 + 35 + 4 * lengths).sum()), 40, 40 * (16 + 16 + 2 * 6 + 20 * 8)
        )

    def test_evaluation_sends_one_question_per_user(self, model: Minimal, data: InteractionData) -> None:
        found = evaluate(model, data)
        assert model.traffic().exchanges == model.traffic().arrivals == len(found.users)


class TestNoNetwork:
    def test_is_the_device_alone_to_the_last_bit(self, model: Minimal, data: InteractionData) -> None:
        model.cross(Boundary(network="offline"))
        for batch in data.targets("test"):
            assert same(model.recommend(batch, 10), model.device_model.recommend(batch, 10))
            found, wanted = model.target_ranks(batch), model.device_model.target_ranks(batch)
            assert torch.equal(found.rank, wanted.rank)
            assert torch.equal(found.ties, wanted.ties)

    def test_never_to_ask_is_the_same_and_sends_nothing(self, model: Minimal, data: InteractionData) -> None:
        model.cross(Boundary(policy=Never()))
        batch = data.request(USERS)
        assert same(model.recommend(batch, 10), model.device_model.recommend(batch, 10))
        assert model.traffic() == Traffic()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_tries", [1, 3])
class TestUnderEveryFault:
    def test_everybody_is_answered_by_the_deadline(
        self, model: Minimal, data: InteractionData, fault: str, num_tries: int
    ) -> None:
        boundary = Boundary(network="lte", deadline_ms=300, num_tries=num_tries)
        device = model.cross(boundary, around=FAULTS[fault])
        batch = data.request(USERS)
        found = model.answer(batch)
        best = found.recommend(10)
        assert (best.items > 0).all()
        assert best.scores.isfinite().all()
        assert (found.wait_ms <= 300).all()
        assert torch.isfinite(model.target_ranks(batch).rank).any()
        assert device.gate.traffic.exchanges <= 2 * num_tries * len(USERS)

    def test_each_gets_the_fusion_or_the_device_alone_and_nothing_else(
        self, model: Minimal, data: InteractionData, fault: str, num_tries: int
    ) -> None:
        batch = data.request(USERS)
        model.cross(Boundary(deadline_ms=300, num_tries=num_tries), around=FAULTS[fault])
        found = model.answer(batch)
        best, whole = found.recommend(10), plain(model, batch).recommend(batch, 10)
        for row, source in enumerate(found.source):
            own = take(batch, np.array([row]))
            wanted = whole.items[row] if source == "cloud" else model.device_model.recommend(own, 10).items[0]
            assert best.items[row].tolist() == wanted.tolist()

    def test_the_same_seed_is_the_same_result(
        self, model: Minimal, data: InteractionData, fault: str, num_tries: int
    ) -> None:
        batch = data.request(USERS)
        boundary = Boundary(network="edge_of_cell", deadline_ms=900, num_tries=num_tries, seed=3)
        runs = []
        for _ in range(2):
            model.cross(boundary, around=FAULTS[fault])
            found = model.answer(batch)
            runs.append((found.recommend(10), found.source, found.wait_ms.tolist(), model.traffic()))
        assert same(runs[0][0], runs[1][0])
        assert runs[0][1:] == runs[1][1:]


def test_faults_are_told_apart(model: Minimal, data: InteractionData) -> None:
    counted = {}
    for name, fault in FAULTS.items():
        device = model.cross(Boundary(deadline_ms=300), around=fault)
        model.answer(data.request(USERS))
        counted[name] = {key: value for key, value in device.outcomes.items() if value}
    assert counted["lost"] == {"unanswered": 40, "device": 40}
    assert counted["delayed"] == {"late": 40, "device": 40}
    assert counted["duplicated"] == {"cloud": 40}
    assert counted["reordered"] == {"unasked": 39, "unanswered": 40, "device": 40}
    assert counted["failing"] == {"failed": 40, "unanswered": 40, "device": 40}
    assert counted["skewed"] == {"skewed": 40, "unanswered": 40, "device": 40}
    assert counted["corrupted"]["device"] == 40
    assert counted["corrupted"]["failed"] + counted["corrupted"]["damaged"] == 40  # up and down


def test_results_depend_on_no_order_or_batch(model: Minimal, data: InteractionData) -> None:
    model.cross(Boundary(network="edge_of_cell", deadline_ms=400, num_tries=2))
    batch = data.request(USERS)
    found = model.answer(batch)
    assert {"cloud", "device"} == set(found.source)
    for size in (1, 7):
        parts = [take(batch, USERS[i : i + size]) for i in range(0, len(USERS), size)]
        apart = [model.answer(part) for part in parts]
        assert tuple(source for part in apart for source in part.source) == found.source
        ranks = torch.cat([part.target_ranks().rank for part in apart])
        assert torch.equal(ranks, found.target_ranks().rank)


def test_a_question_lost_is_sent_again_and_paid_for(model: Minimal, data: InteractionData) -> None:
    class FirstLost(Link):
        def __init__(self, link: Link) -> None:
            self.link = link

        def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
            found = self.link.exchange(requests, sent_ms=sent_ms)
            return [[] for _ in found] if sent_ms == 0 else found

    model.cross(Boundary(deadline_ms=300, num_tries=3), around=FirstLost)
    found = model.answer(data.request(USERS))
    assert set(found.source) == {"cloud"}
    assert found.wait_ms.tolist() == [100.0] * 40
    assert model.traffic().exchanges == 80


class TestACloudThatIsWrong:
    """Frames that are whole, and make no sense."""

    def served(self, model: Minimal, data: InteractionData, reply: Any) -> Any:
        def handle(frames: Sequence[bytes]) -> list[bytes]:
            return [encode(reply, answers=checksum(frame)) for frame in frames]

        device = Device(model.device_side(), InProcess(handle))
        return device, device.answer(data.request(USERS))

    @pytest.mark.parametrize(
        ("items", "scores"),
        [
            ([], []),
            ([0], [1.0]),
            ([-1], [1.0]),
            ([61], [1.0]),
            ([2**31 - 1], [1.0]),
            ([5, 5], [1.0, 0.5]),
            ([5], [np.nan]),
            ([5], [np.inf]),
        ],
        ids=["empty", "padding", "negative", "beyond", "far-beyond", "twice", "nan", "infinite"],
    )
    def test_is_not_believed(
        self, model: Minimal, data: InteractionData, items: list[int], scores: list[float]
    ) -> None:
        made = Candidates(model.version, np.array(items, np.int32), np.array(scores, np.float32))
        device, found = self.served(model, data, made)
        assert set(found.source) == {"device"}
        assert device.outcomes["unusable"] == 40
        assert (found.recommend(10).items > 0).all()

    def test_may_list_few_but_true_items(self, model: Minimal, data: InteractionData) -> None:
        made = Candidates(model.version, np.array([60, 1], np.int32), np.array([2, 1], np.float32))
        _, found = self.served(model, data, made)
        best = found.recommend(3)
        assert set(found.source) == {"cloud"}
        assert {*best.items[0].tolist()} == {60, 1, 0}
        assert best.scores[0, 2] == -torch.inf

    def test_another_type_of_reply_is_not_believed(self, model: Minimal, data: InteractionData) -> None:
        device, found = self.served(model, data, Abstract("", "a device talks back", 1))
        assert set(found.source) == {"device"}
        assert device.outcomes["unusable"] == 40


class TestLag:
    def test_unasked_the_device_reranks_the_old_list(self, model: Minimal, data: InteractionData) -> None:
        model.cross(Boundary(policy=Never(), lag=2))
        batch = data.request(USERS)
        found = model.answer(batch)
        old = model.cloud.recommend(batch.lagged(2), 20)
        wanted = fused(model.device_model, batch, old.items, old.scores, num_items=60)
        assert same(found.recommend(10), wanted.recommend(batch, 10))
        assert set(found.source) == {"cache"}
        assert found.lag_items.tolist() == [2] * 40
        assert model.traffic() == Traffic()

    def test_always_asking_makes_it_forgotten(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        fresh = model.recommend(batch, 10)
        model.cross(Boundary(lag=2))
        assert same(model.recommend(batch, 10), fresh)

    def test_without_a_network_the_old_list_is_there(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        model.cross(Boundary(policy=Never(), lag=2))
        old = model.recommend(batch, 10)
        model.cross(Boundary(network="offline", lag=2))
        assert same(model.recommend(batch, 10), old)
        assert model.traffic().exchanges == 40

    @pytest.mark.parametrize(("num_items", "asks"), [(2, True), (3, False)])
    def test_age_decides(self, model: Minimal, data: InteractionData, num_items: int, asks: bool) -> None:
        model.cross(Boundary(policy=Every(num_items=num_items), lag=2))
        assert model.answer(data.request(USERS)).asked.tolist() == [asks] * 40

    def test_a_budget_is_a_mixture_of_old_and_fresh(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        fresh = model.answer(batch).target_ranks().rank
        model.cross(Boundary(policy=Never(), lag=2))
        old = model.answer(batch).target_ranks().rank
        model.cross(Boundary(policy=RandomBudget(budget=0.5), lag=2))
        mixed = model.answer(batch)
        assert 0 < mixed.asked.sum() < 40
        wanted = torch.where(torch.from_numpy(mixed.asked), fresh, old)
        assert torch.equal(mixed.target_ranks().rank, wanted)

    def test_the_need_of_each_user_decides(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        old = model.cloud.recommend(batch.lagged(2), 20)
        own = model.device_model.score(batch, old.items)
        shift = [  # equation 11 of LSC4Rec, user by user
            np.mean([abs(place - sorted(row, reverse=True).index(x)) for place, x in enumerate(row)])
            for row in own.tolist()
        ]
        middle = float(np.median(shift))
        model.cross(Boundary(policy=Threshold(threshold=middle), lag=2))
        assert model.answer(batch).asked.tolist() == [need >= middle for need in shift]

    def test_a_late_answer_serves_the_next_time(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        cloud = InProcess(model.cloud_side().handle)
        device = Device(model.device_side(), Delayed(cloud, delay_ms=500), deadline_ms=300)
        assert set(device.answer(batch).source) == {"device"}
        again = device.answer(batch)
        assert set(again.source) == {"cache"}
        assert again.lag_items.tolist() == [0] * 40
        assert same(again.recommend(10), plain(model, batch).recommend(batch, 10))


class TestTheSidesAreApart:
    def test_the_device_needs_nothing_of_the_cloud(self, model: Minimal, data: InteractionData) -> None:
        batch = data.request(USERS)
        wanted = model.recommend(batch, 10)
        link, brain = InProcess(model.cloud_side().handle), model.device_side()
        assert [value for value in vars(brain).values() if isinstance(value, torch.nn.Module)] == [
            model.device_model
        ]
        assert same(Device(brain, link).answer(batch).recommend(10), wanted)

    def test_names_outside_are_not_the_users_own_and_change_with_the_session(
        self, model: Minimal, data: InteractionData
    ) -> None:
        heard: list[bytes] = []

        class Auditor:
            def sends(self, frames: Sequence[bytes], users: np.ndarray) -> None:  # noqa: ARG002
                heard.extend(frames)

        batch = data.request(USERS)
        for seed in (0, 1):
            model.cross(Boundary(seed=seed), observers=[Auditor()])
            model.answer(batch)
        names = [decode(frame).user for frame in heard]  # type: ignore[attr-defined]
        assert len(set(names)) == 80
        assert {len(name) for name in names} == {16}

    def test_versions_are_those_of_the_item_indices(self, data: InteractionData) -> None:
        assert catalog_version(data.catalog) == catalog_version(small_data().catalog)
        assert catalog_version(data.catalog) != catalog_version(small_data(index_seed=1).catalog)


class TestCloud:
    def answer(self, model: Minimal, frame: bytes) -> Any:
        (reply,) = model.cloud_side().handle([frame])
        return decode(reply), answers(reply)

    @pytest.mark.parametrize(
        ("question", "says"),
        [
            (History("", np.array([61], np.int32), 5, True), "a history item is none of 1 to 60"),
            (History("", np.array([0], np.int32), 5, True), "a history item is none of 1 to 60"),
            (History("", np.array([1], np.int32), 0, True), "0 candidates of a catalogue of 60"),
            (History("", np.array([1], np.int32), 61, True), "61 candidates of a catalogue of 60"),
            (Abstract("", "jazz", 5), "Abstract is not answered here"),
            (Candidates("", np.array([1], np.int32), np.ones(1, np.float32)), "Candidates is not answered"),
        ],
        ids=["beyond", "padding", "none", "too-many", "other-question", "no-question"],
    )
    def test_refuses_what_it_cannot_answer(self, model: Minimal, question: Any, says: str) -> None:
        frame = encode(question)
        reply, question_of = self.answer(model, frame)
        assert isinstance(reply, Failure)
        assert says in reply.reason
        assert question_of == checksum(frame)

    def test_a_bad_question_among_good_ones_spoils_none(self, model: Minimal) -> None:
        good = [encode(History("", np.array([item], np.int32), 5, True)) for item in (1, 2, 3)]
        cloud = model.cloud_side()
        alone = [cloud.handle([frame])[0] for frame in good]
        bad = encode(History("", np.array([99], np.int32), 5, True))
        mixed = cloud.handle([good[0], b"noise", good[1], bad, good[2]])
        for one, other in zip(map(decode, mixed[::2]), map(decode, alone), strict=True):
            assert isinstance(one, Candidates)
            assert isinstance(other, Candidates)
            assert one.items.tolist() == other.items.tolist()
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)
        assert all(isinstance(decode(frame), Failure) for frame in mixed[1::2])

    def test_everybody_gets_as_many_as_they_asked_for(self, model: Minimal) -> None:
        asked = [encode(History("", np.array([7], np.int32), number, True)) for number in (1, 60, 5)]
        lists = [decode(frame) for frame in model.cloud_side().handle(asked)]
        assert [len(found.items) for found in lists if isinstance(found, Candidates)] == [1, 60, 5]

    def test_who_wants_no_repeats_gets_none_and_others_do(self, model: Minimal) -> None:
        asked = [encode(History("", np.array([7, 8], np.int32), 60, repeats)) for repeats in (True, False)]
        all_items, others = [decode(frame).items for frame in model.cloud_side().handle(asked)]  # type: ignore[attr-defined]
        assert sorted(all_items) == list(range(1, 61))
        assert sorted(others) == sorted({*range(1, 61)} - {7, 8})

    def test_an_empty_history_is_answered(self, model: Minimal) -> None:
        reply, _ = self.answer(model, encode(History("", np.array([], np.int32), 5, False)))
        assert isinstance(reply, Candidates)
        assert are_usable([reply], num_items=60) == [True]

    def test_an_oversized_question_is_not_read(self, model: Minimal) -> None:
        items = np.ones(MAX_QUESTION // 4 + 1, np.int32)
        reply, _ = self.answer(model, encode(History("", items, 5, True)))
        assert isinstance(reply, Failure)

    def test_a_fault_of_the_method_is_no_failure_but_an_error(self, model: Minimal) -> None:
        class Broken(Lister):
            def __call__(self, *_: object) -> Any:
                raise ZeroDivisionError

        broken = Broken(model.cloud, num_items=60, version="")
        with pytest.raises(ZeroDivisionError):
            Cloud({History: broken}).handle([encode(History("", np.array([1], np.int32), 5, True))])


class TestScoredList:
    scored = ScoredList(
        torch.tensor([[4, 2, 9, 0], [1, 2, 3, 4]]),
        torch.tensor([[0.5, 0.9, 0.5, -torch.inf], [1.0, 2.0, 3.0, 4.0]]),
        num_items=9,
    )

    def test_places_by_hand(self, batch_of: Callable[..., SequenceBatch]) -> None:
        found = self.scored.target_ranks(batch_of([[5], [6]], target=[9, 8]))
        assert found.rank.tolist() == [2.5, torch.inf]  # a tie with item 4, below item 2; not in the list
        assert found.ties.tolist() == [2, 1]

    def test_seen_items_make_room_but_a_target_may_be_seen(
        self, batch_of: Callable[..., SequenceBatch]
    ) -> None:
        batch = batch_of([[5], [6]], target=[9, 3], seen=[[2, 9], [4, 3]])
        assert self.scored.target_ranks(batch).rank.tolist() == [1.5, 1.0]
        assert self.scored.recommend(batch, 2).items.tolist() == [[4, 0], [2, 1]]

    def test_far_places_are_not_shown(self, batch_of: Callable[..., SequenceBatch]) -> None:
        allowed = torch.zeros(2, 10, dtype=torch.bool)
        allowed[0, [4, 9]] = True
        batch = replace(batch_of([[5], [6]], target=[9, 3]), allowed=allowed)
        assert self.scored.target_ranks(batch).rank.tolist() == [1.5, torch.inf]
        assert sorted(self.scored.recommend(batch, 3).items[0].tolist()) == [0, 4, 9]

    def test_a_short_list_is_padded_to_what_was_asked(self, batch_of: Callable[..., SequenceBatch]) -> None:
        best = self.scored.recommend(batch_of([[5], [6]]), 20)
        assert best.items.shape == (2, 9)
        assert best.items[0].tolist()[3:] == [0] * 6
        assert best.scores[0, 3:].isneginf().all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"deadline_ms": 0}, "deadline_ms must be above 0 and finite, got 0"),
        ({"deadline_ms": float("inf")}, "deadline_ms must be above 0 and finite"),
        ({"num_tries": 0}, "num_tries must be at least 1"),
    ],
)
def test_a_device_has_a_deadline(model: Minimal, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Device(
            Fusion(model.device_model, num_items=60, num_candidates=5, version=""),
            Lost(InProcess(list)),
            **options,
        )


class TestTheRecord:
    """What a run's record says of the boundary."""

    @pytest.fixture(scope="class")
    def record(self, tmp_path_factory: Any) -> Run:
        boundary = Boundary(network="lte", deadline_ms=60)
        minimal = Minimal(device="Popularity", num_candidates=20, boundary=boundary)
        with torch.inference_mode(mode=False):
            path: Path = run(tmp_path_factory.mktemp("record"), minimal)
        return read_run(path)

    def test_has_bytes_and_exchanges_per_request(self, record: Run, data: InteractionData) -> None:
        lengths = torch.cat([(batch.history != 0).sum(1) for batch in data.targets("test")])
        assert record.exchanges == 1
        assert record.bytes_up == pytest.approx(51 + 4 * float(lengths.double().mean()), abs=1e-3)
        assert record.bytes_down == 204

    def test_says_whose_word_was_served(self, record: Run) -> None:
        assert set(record.served) == {"cloud", "device"}
        assert sum(record.served.values()) == pytest.approx(1, abs=1e-3)
        assert 0.8 < record.served["cloud"] < 1  # 50 ms and jitter of a median of 5 against 60

    def test_keeps_the_sides_apart(self, record: Run) -> None:
        assert set(record.latency) == {"device", "cloud", "network"}
        assert 50 < record.latency["network"].p50_ms < record.latency["network"].p99_ms <= 60
        assert record.latency["cloud"].p50_ms > 0
        assert record.latency["device"].p50_ms > 0
        assert record.num_bytes["cloud"] > record.num_bytes["device"] == 61 * 4

    def test_of_a_method_with_one_side_is_as_before(self, tmp_path: Path) -> None:
        with torch.inference_mode(mode=False):
            found = read_run(run(tmp_path, Popularity()))
        assert set(found.latency) == set(found.num_bytes) == {"device"}
        assert (found.exchanges, found.bytes_up, found.served) == (None, None, {})
