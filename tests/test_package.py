"""The wheel works away from the repository: presets inside, both ways to start it, a whole run."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from recbench import config

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # the backend comes with [dev]: an isolated build would fetch it
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    (built,) = folder.glob("recbench_suite-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the wheel, which sees the dependencies that are here."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    interpreter = folder / "bin" / "python"
    run(interpreter, "-m", "pip", "install", "--no-deps", "--no-index", wheel, folder=folder)
    site = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    # a plain line, so that path files of editable installs there are not read
    (Path(site.strip()) / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return interpreter


def test_the_wheel_holds_package_types_and_every_preset(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    presets = {f"recbench/configs/{kind}/{name}.yaml" for kind in config.NAMED for name in config.names(kind)}
    assert {"recbench/py.typed", "recbench/leaderboard/page.html", *presets} <= names
    assert not [name for name in names if name.startswith(("tests/", "experiments/", "configs/"))]


def test_the_installed_package_is_the_one_that_runs(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import recbench; print(recbench.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_help_comes_from_both_entry_points(python: Path, tmp_path: Path) -> None:
    script = run(python.with_name("recbench"), "--help", folder=tmp_path)
    assert "fit" in script
    assert run(python, "-m", "recbench", "--help", folder=tmp_path) == script


def test_a_preset_resolves_and_a_run_ends_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    recbench = python.with_name("recbench")
    fit = (recbench, "fit", "--data", "demo")
    shown = yaml.safe_load(run(*fit, "--model", "sasrec", "--print_config", folder=tmp_path))
    assert shown["model"]["class_path"] == "recbench.models.SASRec"
    run(*fit, "--model", "popularity", "--wandb", "disabled", folder=tmp_path)
    (record,) = (tmp_path / "leaderboard" / "results" / "demo" / "popularity").glob("*.json")
    assert "every metric is what the stored ranks give" in run(recbench, "replay", record, folder=tmp_path)
