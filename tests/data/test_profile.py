"""Groups, curves, the worth of order, and what `recbench data stats` makes of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.data import picture, prepare
from recbench.data.profile import at_least, by_rank, length_group, sequentiality
from recbench.data.sequences import Sequences
from recbench.data.stats import stats_text
from recbench.errors import UsageError

from .conftest import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.public import DataSet

COUNTS = st.lists(st.integers(1, 200), min_size=1, max_size=60)


def sequences_of(histories: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0, *map(len, histories)])
    return Sequences(np.array([item for items in histories for item in items]), offsets)


def test_length_groups_meet_at_ten_and_after_fifty() -> None:
    assert length_group(np.array([1, 9, 10, 50, 51, 900])).tolist() == [0, 0, 1, 1, 2, 2]


@given(COUNTS)
def test_curves_are_counts_of_counts(counts: list[int]) -> None:
    values, reaching = at_least(np.array(counts))
    assert values.tolist() == sorted(set(counts))
    assert reaching.tolist() == [sum(count >= value for count in counts) for value in values]
    ranks, sizes = by_rank(np.array(counts))
    assert (ranks.tolist(), sizes.tolist()) == (list(range(1, len(counts) + 1)), sorted(counts)[::-1])


class TestSequentiality:
    def test_a_fixed_order_is_worth_everything(self) -> None:
        # items of everybody follow a circle of 400; shuffled, what follows an item is one of many
        rng = np.random.default_rng(0)
        starts, lengths = rng.integers(0, 400, 600), rng.integers(20, 40, 600)
        circle = [[1 + (a + i) % 400 for i in range(n)] for a, n in zip(starts, lengths, strict=True)]
        found = sequentiality(sequences_of(circle))
        assert found.hr10 > 0.99
        assert found.drop is not None
        assert found.drop > 0.6

    def test_no_order_is_worth_nothing(self) -> None:
        rng = np.random.default_rng(0)
        found = sequentiality(sequences_of([rng.integers(1, 41, 20).tolist() for _ in range(3000)]))
        assert found.drop is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0 < found.high
        assert found.hr10 == pytest.approx(10 / 40, abs=0.03)

    def test_by_hand(self) -> None:
        # 2 and 3 follow 1 in histories without their last items: 2 twice, 3 once; 4 and 5 never did
        histories = [[1, 2, 1, 3, 9, 1, 2], [1, 2, 1, 3], [7, 1, 4], [8, 1, 2], [5]]
        found = sequentiality(sequences_of(histories), num_shuffles=2)
        assert found.num_users == 4
        assert found.hr10 == 3 / 4  # of 2, 3, 4 and 2 after a 1, the 4 is no follower

    def test_only_the_first_ten_followers_count(self) -> None:
        # 1 is followed by 2 three times, by 3 to 12 twice and by 13 once
        history = [x for item in range(2, 13) for x in (1, item)] * 2 + [1, 2, 1, 13]
        for target, hits in ((2, 1.0), (3, 9 / 10), (13, 0.0)):
            found = sequentiality(sequences_of([[*history, 99], [1, target]]), num_shuffles=2)
            assert found.hr10 == pytest.approx(hits / 2)  # 99 never follows

    def test_the_seed_decides_and_the_last_items_stay(self) -> None:
        rng = np.random.default_rng(1)
        sequences = sequences_of([rng.integers(1, 20, n).tolist() for n in rng.integers(1, 12, 300)])
        assert sequentiality(sequences, seed=3) == sequentiality(sequences, seed=3)
        assert sequentiality(sequences, seed=3) != sequentiality(sequences, seed=4)

    def test_shuffling_keeps_every_user_their_items_and_last_item(self) -> None:
        from recbench.data.profile import _shuffled

        histories = [list(range(start, start + 30)) for start in (0, 100, 200)] + [[400], [500, 501]]
        sequences = sequences_of(histories)
        flat = _shuffled(sequences, np.random.default_rng(0)).tolist()
        for (start, stop), own in zip(pairwise(sequences.offsets), histories, strict=True):
            assert sorted(flat[start:stop]) == own
            assert flat[stop - 1] == own[-1]
        assert flat[:30] != histories[0]

    def test_many_users_are_sampled_and_looked_up_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(2)
        sequences = sequences_of([rng.integers(1, 9, 6).tolist() for _ in range(100)])
        whole = sequentiality(sequences)
        monkeypatch.setattr("recbench.data.profile._BLOCK", 7)
        assert sequentiality(sequences) == whole
        monkeypatch.setattr("recbench.data.profile._MAX_USERS", 40)
        assert sequentiality(sequences).num_users == 40

    def test_where_nothing_is_hit_nothing_is_said(self) -> None:
        found = sequentiality(sequences_of([[1, 2], [3, 4]]))
        assert (found.hr10, found.drop, found.low, found.high) == (0.0, None, None, None)


SVG = "{http://www.w3.org/2000/svg}"


def points(line: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]  # type: ignore


class TestPicture:
    def test_the_curves_are_where_the_logarithms_put_them(self) -> None:
        # one user of 100 and 99 users of 1; item 1 of 1000 interactions, item 10 of 1
        lengths = np.array([100] + [1] * 99)
        root = ET.fromstring(picture.svg("made up", lengths, np.array([1000] + [100] * 8 + [1])))
        users, items = (points(line) for line in root.iter(f"{SVG}polyline"))
        left, bottom = 70, 84 + picture.HEIGHT
        across, up = picture.WIDTH / (1.1 * 2), picture.HEIGHT / (1.1 * 2)  # per decade
        assert users == [
            pytest.approx((left, bottom - 2 * up), abs=0.1),
            pytest.approx((left + 2 * across, bottom), abs=0.1),
        ]
        assert len(items) == 10
        assert items[-1] == pytest.approx((items[0][0] + picture.WIDTH / 1.1, bottom), abs=0.1)
        rise = picture.HEIGHT / (1.1 * 3)
        assert items[0][1] == pytest.approx(bottom - 3 * rise, abs=0.1)
        assert items[4][1] == pytest.approx(bottom - 2 * rise, abs=0.1)

    def test_says_what_it_shows(self) -> None:
        text = picture.svg("<&>", np.array([5, 6, 70]), np.array([80, 1, 0]))
        root = ET.fromstring(text)
        written = [element.text for element in root.iter(f"{SVG}text")]
        assert written[0] == "<&>"
        assert "3 users; median 6, longest 70" in written
        assert "2 items; the first 1% have 99% of all interactions" in written  # the item of none is left out
        assert {"short", "medium", "long"} <= set(written)

    @given(COUNTS, COUNTS)
    def test_is_drawn_for_any_data_and_stays_small(self, lengths: list[int], popularity: list[int]) -> None:
        text = picture.svg("any", np.array(lengths), np.array(popularity))
        for line in ET.fromstring(text).iter(f"{SVG}polyline"):
            xs, ys = zip(*points(line), strict=True)
            assert list(xs) == sorted(xs)
            assert list(ys) == sorted(ys)  # downwards on the page

    def test_a_long_tail_is_thinned_but_keeps_its_ends(self) -> None:
        text = picture.svg("long", np.arange(3, 9), np.arange(1, 500_001))
        (_, items) = (points(line) for line in ET.fromstring(text).iter(f"{SVG}polyline"))
        assert len(items) <= 401
        assert len(text) < 20_000
        assert items[-1][1] == 84 + picture.HEIGHT


class TestStats:
    def test_of_a_public_data_set(self, tiny: DataSet) -> None:
        text = stats_text(tiny.name)
        assert prepare.load(tiny.name).card.fingerprint in text
        assert "3 short (under 10), 0 medium (10 to 50), 0 long (over 50)" in text

    def test_of_an_own_file(self, cache: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.txt"
        path.write_bytes(TINY)
        assert "3.67 on average, min / median / max 3 / 4 / 4" in stats_text(str(path))
        assert not cache.exists()

    def test_of_the_demo_with_a_picture(self, tmp_path: Path) -> None:
        file = tmp_path / "curves" / "demo.svg"
        text = stats_text("demo", picture=file)
        assert "latitude" in text
        assert "shuffled histories lose" in text
        assert text.splitlines()[-1].split() == ["picture", str(file)]
        assert ET.parse(file).getroot().tag == f"{SVG}svg"

    def test_a_picture_is_an_svg(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"an SVG is drawn; name it .*demo\.svg"):
            stats_text("demo", picture=tmp_path / "demo.png")
        assert not any(tmp_path.iterdir())
