"""Virtual time by hand, and what each fault does to an exchange."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from recbench.edge.faults import Corrupted, Delayed, Duplicated, Failing, Fault, Lost, Reordered, Skewed
from recbench.edge.link import Arrival, Gate, InProcess, Link, Traffic
from recbench.edge.messages import (
    Abstract,
    Candidates,
    Failure,
    MessageError,
    answers,
    checksum,
    decode,
    encode,
)
from recbench.edge.network import PROFILES, Conditions, Network, Trace, read_trace
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REQUESTS = [encode(Abstract(f"user {i}", "jazz", 1)) for i in range(400)]
LIST = Candidates("v1", np.array([1], dtype=np.int32), np.array([1], dtype=np.float32))


def handle(frames: Sequence[bytes]) -> list[bytes]:
    return [encode(LIST, answers=known(frame)) for frame in frames]


def known(frame: bytes) -> int:
    try:
        decode(frame)
    except MessageError:
        return 0
    return checksum(frame)


class Heard(InProcess):
    """Notes what reaches the cloud."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        super().__init__(handle)

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        self.frames += requests
        return super().exchange(requests, sent_ms=sent_ms)


def steady(**conditions: float) -> Trace:
    return Trace(((1, Conditions(**conditions)),))


class Fixed(Link):
    """Every answer has so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def exchange(self, requests: Sequence[bytes], *, sent_ms: float = 0.0) -> list[list[Arrival]]:
        return [[Arrival(bytes(self.size), sent_ms)] for _ in requests]


@pytest.mark.parametrize(
    ("size", "wanted_ms"),
    [(600, 50.48), (20_000, 66.0), (5000 * 1024 * 2, 8242.0)],
    ids=["plan", "ids", "vectors"],
)
def test_time_is_that_of_the_notes(size: int, wanted_ms: float) -> None:
    link = Network(Fixed(size), steady(rtt_ms=50, up_mbit=math.inf, down_mbit=10))
    ((arrival,),) = link.exchange([b"x"])
    assert arrival.at_ms == pytest.approx(wanted_ms)


def test_both_directions_and_what_is_further_in_add_up() -> None:
    inner = Delayed(Fixed(1000), delay_ms=7)
    link = Network(inner, steady(rtt_ms=20, up_mbit=1, down_mbit=4))
    ((arrival,),) = link.exchange([bytes(500)], sent_ms=100)
    assert arrival.at_ms == pytest.approx(100 + 7 + 20 + 8 * 500 / 1000 + 8 * 1000 / 4000)


def test_the_perfect_network_adds_nothing() -> None:
    link = Network(InProcess(handle), PROFILES["perfect"])
    assert link.exchange(REQUESTS) == InProcess(handle).exchange(REQUESTS)


def test_offline_nothing_reaches_the_cloud() -> None:
    heard = Heard()
    assert Network(heard, PROFILES["offline"]).exchange(REQUESTS) == [[]] * len(REQUESTS)
    assert heard.frames == []


def test_loss_is_as_frequent_as_stated_in_each_direction() -> None:
    heard = Heard()
    found = Network(heard, steady(loss_rate=0.3)).exchange(REQUESTS)
    deviation = math.sqrt(0.3 * 0.7 / 400)
    assert abs(len(heard.frames) / 400 - 0.7) < 4 * deviation
    assert abs(sum(map(bool, found)) / 400 - 0.49) < 4 * math.sqrt(0.49 * 0.51 / 400)


def test_jitter_is_log_normal() -> None:
    found = Network(Fixed(0), steady(jitter_ms=10)).exchange(REQUESTS)
    logs = np.log([arrival.at_ms / 10 for (arrival,) in found])
    assert abs(logs.mean()) < 4 * 0.5 / 20
    assert logs.std() == pytest.approx(0.5, abs=0.08)


def test_fate_depends_on_seed_and_frame_alone() -> None:
    def fates(requests: list[bytes], seed: int = 0) -> dict[bytes, list[Arrival]]:
        link = Network(InProcess(handle), PROFILES["edge_of_cell"], seed=seed)
        return dict(zip(requests, link.exchange(requests), strict=True))

    together = fates(REQUESTS)
    assert fates(REQUESTS[::-1]) == together
    assert {k: v for request in REQUESTS for k, v in fates([request]).items()} == together
    assert fates(REQUESTS, seed=1) != together


def test_sent_again_a_frame_meets_another_fate() -> None:
    link = Network(InProcess(handle), steady(loss_rate=0.5))
    first, second = (link.exchange(REQUESTS, sent_ms=sent_ms) for sent_ms in (0, 500))
    lost_first = [bool(again) for once, again in zip(first, second, strict=True) if not once]
    assert 0.1 < sum(lost_first) / len(lost_first) < 0.4  # a quarter comes through


class TestTrace:
    trace = Trace(((2, Conditions(rtt_ms=10)), (1, Conditions(rtt_ms=99))))

    @pytest.mark.parametrize(
        ("moment_s", "rtt_ms"), [(0, 10), (1.9, 10), (2, 99), (2.9, 99), (3, 10), (35.5, 99)]
    )
    def test_steps_follow_each_other_and_begin_again(self, moment_s: float, rtt_ms: float) -> None:
        assert self.trace.at(moment_s).rtt_ms == rtt_ms

    def test_requests_meet_it_everywhere(self) -> None:
        found = Network(Fixed(0), self.trace).exchange(REQUESTS)
        share = sum(arrival.at_ms == 10 for (arrival,) in found) / 400
        assert abs(share - 2 / 3) < 4 * math.sqrt(2 / 9 / 400)

    def test_time_goes_on_while_a_frame_waits_to_be_sent_again(self) -> None:
        def at(sent_ms: float) -> list[float]:
            found = Network(Fixed(0), self.trace).exchange(REQUESTS, sent_ms=sent_ms)
            return [round(arrival.at_ms - sent_ms) for (arrival,) in found]

        assert at(3000) == at(0)  # a whole round later
        assert at(1500) != at(0)

    def test_a_file_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "train.csv"
        file.write_text("seconds,rtt_ms,up_mbit,down_mbit,loss_rate\n30,50,5,20,0\n4.5,0,0,0,0\n")
        steps = ((30.0, Conditions(50, 5, 20)), (4.5, Conditions(0, 0, 0)))
        assert read_trace(str(file)) == Trace(steps)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("seconds,rtt_ms,up_mbit\n", "train.csv:1: no column 'down_mbit'"),
            ("seconds,rtt_ms,up_mbit,down_mbit,rain\n", "train.csv:1: unknown column 'rain'"),
            ("seconds,rtt_ms,up_mbit,down_mbit\n1,50,5,20\n1,x,5,20\n", "train.csv:3: could not convert"),
            ("seconds,rtt_ms,up_mbit,down_mbit\n1,50\n", "train.csv:2: "),
            ("seconds,rtt_ms,up_mbit,down_mbit\n0,50,5,20\n", "train.csv:2: a step must last"),
            ("seconds,rtt_ms,up_mbit,down_mbit\n1,-5,5,20\n", "train.csv:2: rtt_ms must be 0 or more"),
            ("seconds,rtt_ms,up_mbit,down_mbit\n", "train.csv: has no rows"),
        ],
        ids=["missing", "unknown", "text", "short", "no-time", "negative", "empty"],
    )
    def test_a_bad_file_is_told_by_its_line(self, tmp_path: Path, text: str, says: str) -> None:
        file = tmp_path / "train.csv"
        file.write_text(text)
        with pytest.raises(DataError, match=says):
            read_trace(str(file))

    def test_an_unknown_name_is_told(self) -> None:
        with pytest.raises(UsageError, match="network '5g': neither a file nor one of perfect, wifi"):
            read_trace("5g")


FAULTS = {
    "lost": Lost,
    "delayed": lambda link, **how: Delayed(link, delay_ms=250, **how),
    "duplicated": Duplicated,
    "reordered": Reordered,
    "corrupted": Corrupted,
    "failing": Failing,
    "skewed": lambda link, **how: Skewed(link, version="v2", **how),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_strikes_its_share_and_no_more(name: str) -> None:
    plain = InProcess(handle).exchange(REQUESTS)
    for rate in (0.0, 0.25, 1.0):
        found = FAULTS[name](InProcess(handle), rate=rate).exchange(REQUESTS)
        touched = sum(a != b for a, b in zip(found, plain, strict=True)) / 400
        kept_back = name == "reordered"  # touches the next exchange as well
        wanted = 1 - (1 - rate) ** 2 if kept_back else rate
        assert abs(touched - wanted) <= 4 * math.sqrt(rate * (1 - rate) / 400) * (1 + kept_back)


def only(link: Fault, request: bytes = REQUESTS[0]) -> list[Arrival]:
    (found,) = link.exchange([request], sent_ms=5)
    return found


class TestFaults:
    answer = Arrival(encode(LIST, answers=checksum(REQUESTS[0])), 5)

    def test_lost_on_either_way(self) -> None:
        heard = Heard()
        assert Lost(heard).exchange(REQUESTS) == [[]] * 400
        assert abs(len(heard.frames) - 200) < 4 * 10

    def test_delayed(self) -> None:
        assert only(Delayed(InProcess(handle), delay_ms=250)) == [Arrival(self.answer.frame, 255)]

    def test_duplicated(self) -> None:
        heard = Heard()
        assert only(Duplicated(heard)) == [self.answer, self.answer]
        assert heard.frames == [REQUESTS[0]] * 2

    def test_reordered(self) -> None:
        link = Reordered(InProcess(handle))
        first, second = link.exchange(REQUESTS[:2])
        assert first == []
        assert [answers(arrival.frame) for arrival in second] == [checksum(REQUESTS[0])]
        assert [answers(arrival.frame) for arrival in only(link)] == [checksum(REQUESTS[1])]

    def test_corrupted(self) -> None:
        heard = Heard()
        found = Corrupted(heard).exchange(REQUESTS)
        damaged_up = sum(frame not in REQUESTS for frame in heard.frames)
        assert abs(damaged_up - 200) < 4 * 10
        damaged = 0
        for request, sent, (arrival,) in zip(REQUESTS, heard.frames, found, strict=True):
            frame = sent if sent != request else arrival.frame
            with pytest.raises(MessageError):
                decode(frame)
            damaged += 1
        assert damaged == 400

    def test_failing(self) -> None:
        heard = Heard()
        ((frame, at_ms),) = only(Failing(heard))
        assert (decode(frame), answers(frame), at_ms) == (
            Failure("the cloud is busy", 1000.0),
            checksum(REQUESTS[0]),
            5,
        )
        assert heard.frames == []

    def test_skewed(self) -> None:
        ((frame, _),) = only(Skewed(InProcess(handle), version="v2"))
        assert decode(frame) == Candidates("v2", LIST.items, LIST.scores)
        assert answers(frame) == checksum(REQUESTS[0])

    def test_they_nest(self) -> None:
        link = Delayed(Duplicated(Skewed(InProcess(handle), version="v2")), delay_ms=1)
        assert [at_ms for _, at_ms in only(link)] == [6, 6]

    @pytest.mark.parametrize("rate", [-0.1, 1.1])
    def test_rates_are_shares(self, rate: float) -> None:
        with pytest.raises(ValueError, match=r"rate must lie in 0..1"):
            Lost(InProcess(handle), rate=rate)


class TestGate:
    def test_every_byte_counts_lost_or_not(self) -> None:
        gate = Gate(Lost(InProcess(handle)))
        gate.exchange(REQUESTS, np.arange(400))
        assert gate.traffic == Traffic(400, sum(map(len, REQUESTS)), 0, 0)
        gate = Gate(Duplicated(InProcess(handle)))
        gate.exchange(REQUESTS[:3], np.arange(3))
        assert gate.traffic == Traffic(3, sum(map(len, REQUESTS[:3])), 6, 6 * len(encode(LIST)))

    def test_an_observer_sees_what_leaves_and_can_stop_it(self) -> None:
        heard = Heard()

        class Auditor:
            def sends(self, frames: Sequence[bytes], users: np.ndarray) -> None:
                assert [*frames] == REQUESTS[:2]
                assert users.tolist() == [8, 9]
                raise PermissionError

        with pytest.raises(PermissionError):
            Gate(heard, observers=[Auditor()]).exchange(REQUESTS[:2], np.array([8, 9]))
        assert heard.frames == []
