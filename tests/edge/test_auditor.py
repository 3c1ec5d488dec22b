"""What gives somebody away is found, what does not is let through; on methods that send histories it hits."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pytest

from recbench.data.module import InteractionData
from recbench.edge.abstract import ItemWords, Past, TemplateAbstracter
from recbench.edge.auditor import Auditor, PrivacyError
from recbench.edge.leaks import LeakDetector, shingles
from recbench.edge.lists import histories
from recbench.edge.messages import Abstract, History, Patch, Question, Vector, encode
from recbench.edge.planned import STEP, padded, pasts_of
from recbench.edge.privacy import Private

if TYPE_CHECKING:
    from recbench.data.synthetic import World

DETECTOR = LeakDetector(
    [
        "",
        "Blue Hall, 286 Station Road East",
        "Tea House",
        "Long Lasting Eyebrow Sealer",
        "Unforgettable-ness",
    ],
    ["", "place-0001", "B000VV1ZMU", "c", "d"],
    public=["long lasting eyebrow", "jazz", "attribute 2", "attribute 4", "Group D"],
)


class TestLeakDetector:
    @pytest.mark.parametrize(
        "text",
        [
            "Mostly jazz and tea.",
            "A house of tea",  # two short words of a title are not the title
            "long lasting eyebrow things",  # said of many items
            "Blue hall",
            "Mostly Attribute 2, group D and jazz.",  # tags that hold an item's number, and its name
            "item 3 of a list",  # nobody's but theirs who took 3, and this one took 1, 2, 4
        ],
    )
    def test_what_may_be_said(self, text: str) -> None:
        assert DETECTOR.findings(text, [1, 2, 4]) == []

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("286 station road", "'286 station road', of the title"),
            ("the UNFORGETTABLE thing", ""),
            ("unforgettable ness", "'unforgettable ness', of the title"),
            ("I took 2.", "the number 2"),
            ("attribute 2 and 2", "the number 2"),
            ("attribute 20, then 2", "the number 2"),
            ("attribute attribute 2 4", "the number 4"),  # two tags are not said one within the other
            ("my attribute 2 is D", "the name d"),
            ("b000vv1zmu is good", "the name b000vv1zmu"),
            ("at 1356998400", "the number 1356998400"),
            ("on 2014-07-01", "a date"),
            ("ann@mail.org", "a mail address"),
            ("+49 170 1234567", "a phone or card number"),
            ("12 Old Town Road", "a street address"),
            (quote("see 286 Station Road?", safe=""), "'286 station road'"),
            (base64.b64encode(b"286 Station Road").decode(), "'286 station road'"),
            (base64.urlsafe_b64encode(b"286 Station Road").decode().rstrip("="), "'286 station road'"),
            (b"286 Station Road".hex(), "'286 station road'"),
        ],
    )
    def test_what_may_not(self, text: str, what: str) -> None:
        found = DETECTOR.findings(text, [1, 2, 4], [1_356_998_400])
        assert any(what in finding for finding in found) if what else not found

    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("Mostly jazz and tea.", "Mostly jazz and tea."),
            ("A place like 286 Station Road, or the like", "A place like something, or the like"),
            ("at 286 STATION  ROAD EAST", "at 286 something"),
            ("unforgettable-ness", "something"),
            ("unforgettable ness and 286 station road", "something and something"),
            ("b000vv1zmu", ""),  # a name is no part of a title: nothing is left
            (base64.b64encode(b"286 Station Road").decode(), ""),
        ],
    )
    def test_what_is_left_of_a_text(self, text: str, left: str) -> None:
        assert DETECTOR.without(text, [1, 2, 4]) == left
        assert DETECTOR.findings(left, [1, 2, 4]) == []

    def test_a_query_that_names_part_of_a_title_is_mended_on_the_device(self) -> None:
        words = ItemWords([()] * 5, DETECTOR.titles)
        past = Private(Past([1, 2], [], "something like station road east please"))
        (found,) = TemplateAbstracter(words, DETECTOR).abstract([past])
        assert found.query == "something like something please"

    def test_shingles_stay_within_a_clause(self) -> None:
        assert shingles("Tea house, old town bar") == {"old town bar"}
        assert shingles("extraordinarily good") == {"extraordinarily", "extraordinarily good"}


@pytest.fixture(scope="module")
def data(demo_world: World) -> InteractionData:
    return InteractionData.of(demo_world.prepared)


def sent(question: Question) -> list[bytes]:
    return [encode(question)]


class TestAuditor:
    def test_abstracts_of_everybody_pass(self, data: InteractionData) -> None:
        auditor = Auditor.of(data)
        batch = data.request(data.users("known"), back=1)
        abstracts = TemplateAbstracter(ItemWords.of(data.catalog)).abstract(pasts_of(batch))
        frames = [encode(padded(Abstract("", one.text, 9, one.query))) for one in abstracts]
        auditor.sends(frames, batch.users.numpy())
        assert auditor.frames == len(frames) == len(batch)
        assert auditor.findings["Abstract"] == 0
        assert {len(frame) % STEP for frame in frames} == {0}

    def test_histories_of_everybody_are_found(self, data: InteractionData) -> None:
        auditor = Auditor.of(data, stops=False)
        batch = data.request(data.users("known"), back=1)
        auditor.sends(
            [encode(q) for q in histories(batch, [""] * len(batch), num_items=5)], batch.users.numpy()
        )
        assert auditor.findings["History"] == auditor.frames == len(batch)

    def test_it_stops_the_run(self, data: InteractionData) -> None:
        item = int(data.sequences.items[data.sequences.offsets[7]])
        history = History("", np.array([item], np.int32), 5, False)
        with pytest.raises(
            PrivacyError, match=r"History of user 7 .* item numbers of the history in its items"
        ):
            Auditor.of(data).sends(sent(history), np.array([7]))

    def test_titles_are_found_in_abstracts(self, data: InteractionData) -> None:
        item = int(data.sequences.items[data.sequences.offsets[7]])
        title = data.catalog.titles()[item - 1]
        assert title
        with pytest.raises(PrivacyError, match="of the title of a history item"):
            Auditor.of(data).sends(sent(Abstract("", f"likes {title}", 5)), np.array([7]))
        with pytest.raises(PrivacyError, match="Abstract of user 7"):
            Auditor.of(data).sends(sent(Abstract("", "jazz", 5, query=f"like {title}")), np.array([7]))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
    def test_canaries_are_found_anywhere(self, data: InteractionData, encoding: str) -> None:
        auditor = Auditor(data, LeakDetector.of(data.catalog), canaries={7: "zq7canary"}, stops=False)
        hidden = np.frombuffer("zq7canary".encode(encoding), np.int8)
        frame = encode(Patch("", "", {"weights": hidden}))
        auditor.sends([frame, frame], np.array([7, 8]))  # planted with one user alone
        assert auditor.findings["Patch"] == 1

    def test_numbers_that_are_no_items_pass(self, data: InteractionData) -> None:
        Auditor.of(data).sends(sent(Vector("", np.ones(4, np.float32), 5)), np.array([7]))

    def test_what_cannot_be_read_does_not_leave(self, data: InteractionData) -> None:
        with pytest.raises(PrivacyError, match="what cannot be read"):
            Auditor.of(data).sends([b"noise"], np.array([7]))
