"""How far a run's process is, from what it leaves in its folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from recbench.results import PROGRESS

if TYPE_CHECKING:
    from pathlib import Path

_TAIL = 4096


def read_progress(stages: Path) -> float | None:
    """Seconds until the present stage has run all its epochs; None before its first has ended."""
    try:
        found = json.loads((stages / PROGRESS).read_bytes())
        return float(found["seconds"] / found["epoch"] * (found["max_epochs"] - found["epoch"]))
    except (OSError, ValueError, KeyError, ZeroDivisionError):
        return None


def last_line(log: Path) -> str:
    """The last line that says something; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
