"""`recbench data check`: what a user's file holds, all that is wrong with it, and settings that work."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from recbench import cli
from recbench.data import audit
from recbench.data.certificate import Certificate
from recbench.data.tables.columns import Columns
from recbench.errors import DataError, FaultyFileError, UsageError
from recbench.results import read_runs

if TYPE_CHECKING:
    from pathlib import Path

USERS = [f"user{number}" for number in range(12)]


def log_of(*, step_s: int = 60, repeats: bool = False) -> str:
    """12 users, 8 items; each user has 6 of them, and at the end, if wanted, the first again."""
    lines = []
    for number, user in enumerate(USERS):
        places = [*range(6), *([0] if repeats else [])]
        for step, place in enumerate(places):
            lines.append(f"{user},{(number + place) % 8},{1_600_000_000 + step * step_s},hm")
    return "user_id,item_id,ts,comment\n" + "\n".join(lines) + "\n"


@pytest.fixture
def mine(tmp_path: Path, cache: Path) -> Path:  # noqa: ARG001
    path = tmp_path / "mine.csv"
    path.write_text(log_of())
    return path


def test_report_of_a_good_table(mine: Path) -> None:
    lines = audit.check_text(str(mine)).splitlines()
    assert lines[0] == f"{mine}: CSV, separated by comma, 4 columns"
    assert [line.split(maxsplit=1) for line in lines[1:3]] == [
        ["column", "holds          read as"],
        ["user_id", "text           user"],
    ]
    assert lines[3].split() == ["item_id", "whole", "numbers", "item"]
    assert lines[5].split() == ["comment", "text", "not", "used"]
    assert "12 users, 8 items, 72 interactions" in lines
    assert "interactions per user, 0/25/50/75/95/100 %: 6 / 6 / 6 / 6 / 6 / 6" in lines
    assert "times from 2020-09-13 to 2020-09-13, 0 days" in lines
    assert "5-core: 12 users, 8 items, 72 interactions (100.00%) are left" in lines
    assert "mine: certificate over all 12 users" in "\n".join(lines)
    assert not [line for line in lines if line.startswith(("warning", "note"))]


def settings_of(text: str) -> dict[str, object]:
    return yaml.safe_load(text[text.index("\nname: ") :])


def test_settings_are_complete(mine: Path) -> None:
    assert settings_of(audit.check_text(str(mine))) == {
        "name": str(mine),
        "columns": {"user": "user_id", "item": "item_id", "time": "ts"},
        "selection": {"min_user": 5, "min_item": 5},
        "max_len": 50,
        "mask_seen": True,
    }


def test_repeats_are_recommended_where_there_are_any(mine: Path) -> None:
    mine.write_text(log_of(repeats=True))
    assert settings_of(audit.check_text(str(mine)))["mask_seen"] is False


def test_declared_columns_are_in_the_settings(mine: Path) -> None:
    columns = Columns(item="comment", time="-")
    mine.write_text(log_of().replace("hm", "a", 1).replace("hm", "b", 30))
    text = audit.check_text(str(mine), columns=columns)
    assert settings_of(text)["columns"] == {"user": "user_id", "item": "comment", "time": "-"}
    assert "warning: no times, so the order of the rows is taken for the order of events" in text


def test_without_a_core_everything_that_can_be_split_is_used(mine: Path) -> None:
    mine.write_text("user,item\n" + "".join(f"{user},{item}\n" for user in "ab" for item in range(3)))
    text = audit.check_text(str(mine))
    assert "5-core: nothing is left" in text
    assert settings_of(text)["selection"] == {"min_user": 3, "min_item": 0}


@pytest.mark.usefixtures("mine")
def test_saved_settings_train_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "check", "mine.csv"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "copied.yaml").write_text(shown[shown.index("\nname: ") :])
    assert cli.main(["data", "check", "mine.csv", "--save", "mine.yaml"]) == 0
    assert (tmp_path / "mine.yaml").read_text().strip() == (tmp_path / "copied.yaml").read_text().strip()
    assert cli.main(["fit", "--model", "popularity", "--data", "mine.yaml", "--wandb", "disabled"]) == 0
    (run,) = read_runs(tmp_path / "leaderboard" / "results")
    assert (run.data, run.status, run.num_users) == ("mine", "ok", 12)


def test_ties_are_warned_of_with_the_share_of_users(mine: Path) -> None:
    tied = [line.replace(str(1_600_000_060), str(1_600_000_000)) for line in log_of().splitlines()]
    alone = log_of().splitlines()
    lines = [new if old.startswith("user3,") else old for old, new in zip(alone, tied, strict=True)]
    mine.write_text("\n".join(lines) + "\n")
    text = audit.check_text(str(mine))
    assert "warning: 8.33% of the users have interactions at the same time" in text  # 1 of 12


def test_copies_of_rows_are_warned_of(mine: Path) -> None:
    lines = log_of().splitlines()
    mine.write_text("\n".join([*lines, lines[5], lines[5], lines[9]]) + "\n")
    assert "warning: 3 rows repeat user, item and time of another" in audit.check_text(str(mine))


def test_every_bad_line_is_listed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = log_of().splitlines()
    lines[2] = "user0,1,yesterday,hm"
    lines[6] = ",5,1600000000,hm"
    lines[40] = "user6,1,-5,hm"
    mine.write_text("\n".join(lines) + "\n")
    assert cli.main(["data", "check", str(mine)]) == 3
    shown = capsys.readouterr()
    assert "3 problems:" in shown.out
    assert re.findall(rf"{mine}:(\d+): (\w+ \S+)", shown.out) == [
        ("3", "time 'yesterday'"),
        ("7", "user is"),
        ("41", "time '-5'"),
    ]
    assert shown.out.startswith(f"{mine}: CSV, separated by comma, 4 columns\n")
    assert shown.err.count("\n") == 1
    assert shown.err.startswith(f"recbench: {mine}:3: time 'yesterday'")
    assert shown.err.endswith("(2 more lines are wrong)\n")


def test_lines_are_right_after_line_breaks_in_quotes(mine: Path) -> None:
    mine.write_text('user,comment,item\na,"x\ny\nz",1\nb,"\n",2\n,,3\n')
    with pytest.raises(DataError, match=rf"{mine}:7: user is missing"):
        audit.check_text(str(mine))


def test_listing_stops_at_twenty(mine: Path) -> None:
    mine.write_text("user,item,time\na,1,1\n" + "b,2,x\n" * 25)
    with pytest.raises(FaultyFileError) as caught:
        audit.check_text(str(mine))
    assert caught.value.report.count("time 'x'") == 20
    assert caught.value.report.splitlines()[-1] == "  ... and 5 more"
    assert "(24 more lines are wrong)" in str(caught.value)


def test_fields_that_do_not_fit_the_header_are_all_listed(mine: Path) -> None:
    mine.write_text("user,item,note\na,1,x\nb,2\nc,3,y,z\nd,4,\n")
    with pytest.raises(FaultyFileError) as caught:
        audit.check_text(str(mine))
    assert re.findall(r":(\d+): (\d fields)", caught.value.report) == [("3", "2 fields"), ("4", "4 fields")]
    mine.write_text("user,item,note\na,1,x\nb,2\nd,4,\n")
    with pytest.raises(FaultyFileError, match=r"mine.csv:3: 2 fields where the header has 3"):
        audit.check_text(str(mine))


def test_report_of_a_sequence_file(tmp_path: Path, cache: Path) -> None:  # noqa: ARG001
    path = tmp_path / "mine.txt"
    path.write_text("".join(f"{user} {user} {user + 1} {user + 2}\n" for user in range(1, 5)))
    text = audit.check_text(str(path))
    assert text.startswith(
        f"{path}: sequence file, a user a line, no times\n4 users, 6 items, 12 interactions\n"
    )
    assert settings_of(text) == {"name": str(path), "max_len": 50, "mask_seen": True}


def test_strict_makes_a_fault_an_error(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Certificate, "faults", lambda _: ["ids leak"])
    assert cli.main(["data", "check", str(mine)]) == 0
    assert cli.main(["data", "check", str(mine), "--strict", "--save", str(mine.with_name("a.yaml"))]) == 3
    shown = capsys.readouterr()
    assert shown.err == f"recbench: {mine}: ids leak\n"
    assert "FAULT: ids leak" in shown.out
    assert not mine.with_name("a.yaml").exists()


def test_options_for_own_files_are_refused_for_data_sets(tmp_path: Path) -> None:
    for options in ({"columns": Columns(user="u")}, {"save": tmp_path / "demo.yaml"}):
        with pytest.raises(UsageError, match="demo is no file of yours"):
            audit.check_text("demo", **options)
    assert list(tmp_path.iterdir()) == []
