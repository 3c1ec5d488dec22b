"""Whether presets stand up to a search: methods get the same number of trials, of the same share of epochs.

    python experiments/tuning.py METHOD [METHOD ...] --data beauty --trials 3 --share 0.2
    python experiments/tuning.py --studies runs/tune

The first line makes a study of each method, as `recbench tune` does, in a process of its own; a study that is
there is continued. The first trial is the preset, so the table says what the others gained over it. The
second line only prints the table. No figure is of the test items.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from recbench.config import preset_file
from recbench.tuning import OBJECTIVE, described

TITLES = ("method", "data", "trials", "epochs of each", "preset", "best", "minutes", "what the best changes")


def main() -> None:
    """Make the studies, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="presets of configs/model")
    parser.add_argument("--data", default="beauty")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2, help="of the preset's epochs")
    parser.add_argument("--studies", type=Path, default=Path("runs/tune"))
    asked = parser.parse_args()
    failed = [name for name in asked.methods if not study(name, asked)]
    print(f"| {' | '.join(TITLES)} |")
    print("|---" * len(TITLES) + "|")
    for preset in sorted(asked.studies.glob("*.yaml")):
        print(f"| {' | '.join(row(preset))} |")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def study(name: str, asked: argparse.Namespace) -> bool:
    """Make or continue the study of a method; whether it ended well."""
    options = ["--model", name, "--data", asked.data, "--trials", str(asked.trials)]
    options += ["--trainer.max_epochs", str(epochs(name, asked.share)), "--trainer.progress", "false"]
    command = [sys.executable, "-m", "recbench", "tune", *options, "--studies", str(asked.studies)]
    return subprocess.run(command, check=False).returncode == 0


def epochs(name: str, share: float) -> int:
    """A share of the preset's epochs, at least one; 0, which caps nothing, where there are none."""
    recipe = yaml.safe_load(preset_file("model", name).read_text()).get("init_args", {}).get("recipe")
    return max(1, round(share * recipe["max_epochs"])) if recipe else 0


def row(preset: Path) -> tuple[str, ...]:
    """Cells of the study that led to a preset."""
    found: dict[str, Any] = yaml.safe_load(preset.read_text())["tuned"]
    best, given = found["validation"][OBJECTIVE], found["given"]
    return (
        preset.stem.removeprefix(f"{found['data']}-").rpartition("-")[0],
        found["data"],
        str(found["num_trials"]),
        str(found.get("max_epochs", "its own")),
        "–" if given is None else f"{given:.4f}",
        f"{best:.4f}",
        f"{found['train_s'] / 60:.1f}",
        "nothing" if best == given else described(found["options"]),
    )


if __name__ == "__main__":
    main()
