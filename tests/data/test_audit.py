"""The certificate counts what it says, on histories small enough to count by hand."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import polars as pl
import pytest

from recbench.data import audit
from recbench.data.certificate import Certificate, certificate
from recbench.data.prepared import Origin, Prepared, assemble, describe
from recbench.data.source import Clock, Source, bare_items
from recbench.errors import DataError

from .conftest import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.public import DataSet


def _prepared(
    histories: list[list[int]], times: list[list[int]] | None = None, clock: Clock = "none"
) -> Prepared:
    """Prepared data with the indices given, not shuffled."""
    rows = [(user, item) for user, items in enumerate(histories) for item in items]
    frame = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32}, orient="row")
    if times is not None:
        frame = frame.with_columns(time=pl.Series([time for line in times for time in line], dtype=pl.Int64))
    num_items = max(max(items) for items in histories)
    items = pl.DataFrame({"item": range(1, num_items + 1)}, schema={"item": pl.Int32})
    items = items.with_columns(raw_id=pl.col("item").cast(pl.String))
    origin = Origin(name="hand", about="", index_seed=0, clock=clock, sources={})
    return Prepared("hand", frame, items, None, describe(frame, items, None, origin))


def _audited(histories: list[list[int]], **kwargs: object) -> Certificate:
    return certificate(_prepared(histories, **kwargs))  # type: ignore[arg-type]


def test_leak_probe_hits_the_ten_ids_after_the_largest() -> None:
    far = 100
    assert (
        _audited([[1, 5, 2, 6], [1, 5, 2, 15], [1, 5, 2, 16], [1, 5, 2, 4], [1, 5, 2, far]]).leak_hr10
        == 2 / 5
    )


def test_leak_by_numbering_is_a_fault_and_chance_is_not() -> None:
    first_appearance = [[4 * user + step for step in range(1, 5)] for user in range(1000)]
    leaking = _audited(first_appearance)
    assert leaking.leak_hr10 == 1.0
    assert any("leak the target" in fault for fault in leaking.faults())
    rows = [
        (user, item, pos) for user, items in enumerate(first_appearance) for pos, item in enumerate(items)
    ]
    frame = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "pos": pl.Int32}, orient="row")
    source = Source(frame, bare_items(frame), "none", {})
    shuffled = certificate(assemble("hand", "", source, index_seed=0), frame)
    assert shuffled.raw_leak_hr10 == 1.0
    assert shuffled.leak_hr10 < 0.01
    assert shuffled.faults() == []


def test_repeats() -> None:
    found = _audited([[1, 2, 1, 3], [1, 2, 3, 1], [1, 2, 3, 4], [2, 2, 2, 2]])
    assert found.repeat_rate == (1 + 1 + 3) / 16
    assert found.repeat_user_rate == 3 / 4
    assert found.repeat_target_rate == 2 / 4


def test_duplicates_are_the_same_item_at_the_same_time_in_a_row() -> None:
    assert _audited([[1, 1, 2, 1], [1, 2, 2, 2]]).duplicate_rate == 3 / 8
    times = [[0, 0, 5, 6], [0, 1, 2, 2]]
    assert _audited([[1, 1, 2, 1], [1, 2, 2, 2]], times=times, clock="relative").duplicate_rate == 2 / 8


def test_twins_share_their_whole_history() -> None:
    assert _audited([[1, 2, 3], [1, 2, 3], [1, 3, 2], [11, 2, 3]]).twin_rate == 2 / 4


def test_cold_targets_are_in_nobodys_training_part() -> None:
    # trained on: 1, 4, 5 (all but the last two of each user)
    assert _audited([[1, 2, 3], [4, 6, 1], [5, 3, 2]]).cold_target_rate == 2 / 3


def test_ties_and_order_of_times() -> None:
    found = _audited([[1, 2, 3], [3, 2, 1, 4]], times=[[0, 0, 9], [0, 7, 5, 5]], clock="relative")
    assert found.tied_rate == 2 / 5
    assert found.num_backwards == 1
    assert found.future_rate is None  # relative times of two users do not compare
    assert any("earlier than the one before" in fault for fault in found.faults())


def test_future_is_known_for_absolute_times_only() -> None:
    # newest training interaction: time 50, of the second user
    found = _audited([[1, 2, 3], [3, 2, 1]], times=[[10, 20, 30], [50, 60, 70]], clock="unix")
    assert found.future_rate == 1 / 2


def test_without_times_the_text_says_so() -> None:
    found = _audited([[1, 2, 3], [3, 2, 1]])
    assert (found.tied_rate, found.num_backwards, found.future_rate) == (None, None, None)
    assert found.text().count("no times known") == 2


def test_length_quantiles() -> None:
    histories = [[1] * length for length in (3, 4, 5, 6, 7)]
    assert _audited(histories).length_quantiles == pytest.approx((3, 4, 5, 6, 6.8, 7))


def test_text_shows_every_figure_and_the_verdict() -> None:
    found = dataclasses.replace(
        _audited([[1, 2, 3], [3, 2, 1]]), leak_hr10=0.0463, leak_hr10_by_chance=0.0008
    )
    text = found.text()
    assert "4.63%" in text
    assert text.splitlines()[-1].startswith("FAULT: item indices leak")
    assert dataclasses.replace(found, leak_hr10=0.0).text().endswith("no faults found")


def test_commands_on_a_public_data_set(tiny: DataSet) -> None:
    assert "tiny" in audit.list_text()
    assert "raw file here" in audit.list_text()
    assert audit.prepare_text(tiny.name).startswith("tiny: 3 users, 5 items, 11 interactions, fingerprint ")
    assert "leak probe on the raw ids" in audit.check_text(tiny.name)


def test_commands_on_an_own_file(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(TINY)
    assert "mine: certificate over all 3 users" in audit.check_text(str(path))
    assert not cache.exists()


def test_commands_on_the_demo() -> None:
    assert "no raw file here" in audit.check_text("demo", strict=True)


def test_strict_turns_faults_into_an_error(tiny: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Certificate, "faults", lambda _: ["one", "two"])
    with pytest.raises(DataError, match="tiny: one; two"):
        audit.check_text(tiny.name, strict=True)
    assert "FAULT: two" in audit.check_text(tiny.name)
