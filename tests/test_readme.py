"""The README is run: its commands work as printed, and CI installs and tests as it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recbench import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
INSTALL = BLOCKS[0].splitlines()
SHOWN = [line for block in BLOCKS for line in block.splitlines() if line.startswith("recbench ")]
INLINE = re.findall(r"`(recbench [a-z][^`]*)`", README)


def test_ci_runs_the_two_lines_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert len(INSTALL) == 2
    first = script.index(INSTALL[0])
    assert script[first + 1 :] == [INSTALL[1], "ruff check", "ruff format --check", "mypy --strict"]


def test_ci_stops_at_the_first_failure() -> None:
    assert "set -euo pipefail" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_table_names_every_command() -> None:
    rows = re.findall(r"^\| `recbench ([a-z ]+[a-z])", README, re.MULTILINE)
    assert [next(name for name in cli.COMMANDS if row.startswith(name)) for row in rows] == list(cli.COMMANDS)


@pytest.mark.parametrize("command", INLINE)
def test_a_command_in_the_text_has_known_words(command: str) -> None:
    words = shlex.split(command)[1:]
    name = next(name for name in sorted(cli.COMMANDS, key=len) if words[: len(name.split())] == name.split())
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    known = set(re.findall(r"^        (\w+):", cli.COMMANDS[name].__doc__ or "", re.MULTILINE))
    assert {option.removeprefix("--").partition(".")[0] for option in options} <= known


def test_the_commands_run_in_order_in_an_empty_folder(tmp_path: Path) -> None:
    """As printed; `recbench` is this interpreter's."""
    shim = f'recbench() {{ {shlex.quote(sys.executable)} -m recbench "$@"; }}'
    script = tmp_path / "commands.sh"
    script.write_text("\n".join(["set -euo pipefail", shim, *SHOWN, "exit 0"]))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = {path.name.partition("-")[0] for path in (tmp_path / "leaderboard").rglob("popularity/*.json")}
    assert records == {"1", "2"}
    assert "popularity" in (tmp_path / "leaderboard" / "README.md").read_text().lower()


def test_the_generated_part_has_its_marks() -> None:
    start, end = README.index("<!-- leaderboard:start -->"), README.index("<!-- leaderboard:end -->")
    assert start < end


def test_the_readme_is_short() -> None:
    before, _, rest = README.partition("<!-- leaderboard:start -->")
    _, _, after = rest.partition("<!-- leaderboard:end -->")
    assert len((before + after).splitlines()) <= 120
