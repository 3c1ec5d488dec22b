"""The published data sets: sizes, the published leak, and its absence after the shuffle."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from recbench.data import prepare, raw, sequence_file
from recbench.data.certificate import certificate
from recbench.data.public import DATA_SETS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.realdata


class Known(NamedTuple):
    """Figures measured by others, in percent; times are day-resolved on Amazon and absent on Yelp."""

    raw_leak: float
    cold_targets: float
    repeat_targets: float
    features: tuple[str, ...]
    ties_between: tuple[float, float] | None


KNOWN = {
    "beauty": Known(4.63, 0.62, 0.0, ("title", "tags", "text"), (43.5, 48.0)),
    "sports": Known(4.33, 0.89, 0.0, ("tags", "text"), (43.5, 48.0)),
    "yelp": Known(3.33, 0.24, 6.66, ("title", "tags", "text"), None),
}


@pytest.fixture(autouse=True)
def _real_raw(raw_root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv("RECBENCH_RAW", str(raw_root))


@pytest.mark.parametrize("name", KNOWN)
def test_certificate(name: str) -> None:
    known = KNOWN[name]
    file = raw.find(DATA_SETS[name].sequences)
    assert file is not None
    prepared = prepare.load(name)
    found = certificate(prepared, sequence_file.parse(file.content, name))
    assert found.raw_leak_hr10 is not None
    assert 100 * found.raw_leak_hr10 == pytest.approx(known.raw_leak, abs=0.005)
    assert found.leak_hr10 < 0.002
    assert 100 * found.cold_target_rate == pytest.approx(known.cold_targets, abs=0.005)
    assert 100 * found.repeat_target_rate == pytest.approx(known.repeat_targets, abs=0.005)
    assert prepared.card.features == known.features
    if known.ties_between is None:
        assert found.tied_rate is None
    else:
        assert found.tied_rate is not None
        assert known.ties_between[0] < 100 * found.tied_rate < known.ties_between[1]
    assert found.faults() == []


@pytest.mark.parametrize("name", KNOWN)
def test_second_load_is_the_same(name: str) -> None:
    first, second = prepare.load(name), prepare.load(name)
    assert first.card == second.card
    assert first.interactions.equals(second.interactions)
    assert first.items.equals(second.items)


def test_sequence_file_alone_is_the_same_data_set_with_numbered_tags(
    raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = prepare.load("beauty")
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in raw_root.glob("*/Beauty*.gz"):
        (alone / path.name).symlink_to(path)
    monkeypatch.setenv("RECBENCH_RAW", str(alone))
    bare = prepare.prepare("beauty")
    assert bare.card.fingerprint == described.card.fingerprint
    assert bare.card.clock == "none"
    assert bare.items.columns == ["item", "raw_id", "tags"]
    assert bare.items["tags"].null_count() == 0


def test_sports_is_prepared_within_three_seconds() -> None:
    start = time.perf_counter()
    prepare.prepare("sports")
    assert time.perf_counter() - start < 3
