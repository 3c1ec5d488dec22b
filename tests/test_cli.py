"""The command line from outside: what it prints, its exit codes, and what it refuses in one line."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from recbench import cli, config, models
from recbench.data import prepare
from recbench.errors import DataError, UsageError
from recbench.results import read_run, read_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEMO = ["fit", "--model", "Popularity", "--data", "demo", "--wandb", "disabled"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run was made: the counted method on the demo world."""
    folder = tmp_path_factory.mktemp("home")
    assert cli.main([*DEMO, f"--runs={folder}/runs", f"--results={folder}/leaderboard/results"]) == 0
    return folder


@pytest.fixture
def run(home: Path) -> Path:
    (found,) = (home / "runs").iterdir()
    return found


@pytest.fixture
def record(home: Path) -> Path:
    (found,) = (home / "leaderboard" / "results").rglob("*.json")
    return found


@pytest.fixture
def resolved(capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str]], dict]:
    """The configuration that `recbench fit ARGV --print_config` shows."""

    def show(argv: Sequence[str]) -> dict:
        with pytest.raises(SystemExit) as stop:
            cli.main(["fit", *argv, "--print_config"])
        assert stop.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    return show


def in_new_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["data", "--help"],
        ["leaderboard", "--help"],
        ["leaderboard"],
        ["fit", "--model", "sasrek"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported_where_no_model_is_needed(argv: list[str], tmp_path: Path) -> None:
    (tmp_path / "leaderboard" / "results").mkdir(parents=True)
    code = (
        "import sys\nfrom recbench.cli import main\n"
        f"try:\n    main({argv})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = in_new_process(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_comes_in_half_a_second(tmp_path: Path) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        done = in_new_process("from recbench.cli import main; main(['--help'])", tmp_path)
        assert done.returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +[A-Z].*\.$", shown, re.MULTILINE) for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_is_its_docstring(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert (cli.COMMANDS[name].__doc__ or "").splitlines()[0] in shown


@pytest.mark.parametrize("kind", config.NAMED)
def test_every_shipped_preset_parses(kind: str, resolved: Callable[[Sequence[str]], dict]) -> None:
    assert config.names(kind)
    for name in config.names(kind):
        base = {"model": "Popularity", "data": "demo", "trainer": "cpu"} | {kind: name}
        shown = resolved([f"--{option}={value}" for option, value in base.items()])
        written = yaml.safe_load((config.folder() / kind / f"{name}.yaml").read_text())
        init = shown[kind].get("init_args", shown[kind]) if kind == "model" else shown[kind]
        assert set(written.get("init_args", {}) if kind == "model" else written) <= set(init)


@pytest.mark.parametrize("name", models.__all__)
@pytest.mark.filterwarnings("error")
def test_every_class_has_defaults_that_can_be_written_and_read(
    name: str, resolved: Callable[[Sequence[str]], dict], tmp_path: Path
) -> None:
    shown = resolved(["--model", name, "--data", "demo"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(shown))
    assert resolved(["--config", str(file)]) == shown


def test_a_model_is_named_by_class_path_or_file(
    resolved: Callable[[Sequence[str]], dict], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("class_path: recbench.models.SASRec\ninit_args: {dim: 48}\n")
    by_class = resolved(["--model", "SASRec", "--data", "demo"])
    by_path = resolved(["--model", "recbench.models.sasrec.SASRec", "--data", "demo"])
    by_file = resolved(["--model", str(file), "--data", "demo"])
    assert by_class["model"]["init_args"] == by_path["model"]["init_args"]
    assert by_class["model"]["class_path"] == "recbench.models.SASRec"
    assert by_file["model"]["init_args"] == by_class["model"]["init_args"] | {"dim": 48}
    assert [shown["name"] for shown in (by_class, by_path, by_file)] == ["sasrec", "sasrec", "mine"]


def test_overrides_reach_nested_options(resolved: Callable[[Sequence[str]], dict]) -> None:
    words = "--model SASRec --data demo --model.dim 128 --model.recipe.lr 1e-2 --data.max_len 20 --seed 3"
    loss = "--model.loss SampledSoftmax --model.loss.num_negatives 7"
    shown = resolved([*words.split(), *loss.split()])
    init = shown["model"]["init_args"]
    assert (init["dim"], init["recipe"]["lr"], shown["data"]["max_len"], shown["seed"]) == (128, 0.01, 20, 3)
    assert init["loss"]["class_path"].endswith(".SampledSoftmax")
    assert init["loss"]["init_args"]["num_negatives"] == 7


def test_a_part_of_a_model_is_named_as_a_model_is(
    resolved: Callable[[Sequence[str]], dict], tmp_path: Path
) -> None:
    alone = resolved(["--model", "gru4rec", "--data", "demo"])["model"]
    words = ["--model.device.dim=24", "--model.device", "gru4rec", "--model", "lsc4rec", "--data", "demo"]
    whole = resolved(words)["model"]["init_args"]
    assert whole["device"] == alone | {"init_args": alone["init_args"] | {"dim": 24}}  # none of SASRec's
    assert whole["cloud"]["class_path"].endswith(".CodeLM")  # as it was

    file = tmp_path / "mine.yaml"
    file.write_text("class_path: recbench.models.LSC4Rec\ninit_args: {device: gru4rec}\n")
    assert resolved(["--model", str(file), "--data", "demo"])["model"]["init_args"]["device"] == alone
    own = tmp_path / "own.yaml"
    own.write_text("class_path: recbench.models.GRU4Rec\ninit_args: {dim: 24}\ntuned: {trials: 3}\n")
    inside = resolved(["--model", "LSC4Rec", f"--model.device={own}", "--data", "demo"])["model"]
    assert inside["init_args"]["device"]["init_args"]["dim"] == 24


def test_what_is_typed_wins_over_what_a_file_says_in_any_order(
    resolved: Callable[[Sequence[str]], dict],
) -> None:
    shown = resolved(["--model.dim", "8", "--model", "SASRec", "--data.max_len=5", "--data=demo"])
    assert (shown["model"]["init_args"]["dim"], shown["data"]["max_len"]) == (8, 5)


def test_a_printed_configuration_resolves_to_itself(
    resolved: Callable[[Sequence[str]], dict], tmp_path: Path
) -> None:
    shown = resolved(["--model=SASRec", "--data=demo", "--model.dim=24", "--trainer.max_minutes=0.5"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(shown))
    assert resolved(["--config", str(file)]) == shown
    changed = resolved(["--config", str(file), "--model.dim", "32", "--seed=9"])
    assert (changed["model"]["init_args"]["dim"], changed["seed"]) == (32, 9)
    assert changed["trainer"] == shown["trainer"]


def test_data_may_be_your_own_file(resolved: Callable[[Sequence[str]], dict], tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("1 2 3\n")
    assert resolved(["--model", "Popularity", "--data", str(file)])["data"]["name"] == str(file)


def test_every_command_follows_from_one_run(
    home: Path, run: Path, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_run(record)
    hit_rate = f"{found.metrics['hr@10'].value:.4f}"
    assert (found.model, found.data, found.status) == ("popularity", "demo", "ok")
    assert run.name == f"demo-popularity-0-{found.config_hash[:8]}"

    assert cli.main(["evaluate", str(run)]) == 0
    assert hit_rate in capsys.readouterr().out
    assert cli.main(["evaluate", str(run), "--groups"]) == 0
    grouped = capsys.readouterr().out
    assert "medium, 10 to 50" in grouped
    visits = prepare.load("demo").interactions.group_by("user").len()["len"]
    assert f"{(visits > 50).sum()} (few)" in grouped
    assert cli.main(["replay", str(record)]) == 0
    assert f"{found.metrics['hr@10'].value:.6f}" in capsys.readouterr().out
    assert cli.main(["replay", str(record), "--train"]) == 0
    assert "+0.000000" in capsys.readouterr().out
    assert cli.main(["leaderboard", "--root", str(home / "leaderboard")]) == 0
    assert "popularity" in (home / "leaderboard" / "README.md").read_text().lower()


@pytest.mark.parametrize("user", [0, 999], ids=["first", "last"])
def test_recommend_lists_k_different_items_by_name(
    user: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recommend", str(run), "--user", str(user), "--k", "7"]) == 0
    assert len(set(re.findall(r"place-\d+", capsys.readouterr().out))) == 7


def test_a_run_is_repeated_from_its_saved_configuration(run: Path, record: Path, tmp_path: Path) -> None:
    folders = [f"--runs={tmp_path}/runs", f"--results={tmp_path}/results", "--wandb=disabled"]
    assert cli.main(["fit", "--config", str(run / "config.yaml"), *folders]) == 0
    (again,) = read_runs(tmp_path / "results")
    assert again.key == read_run(record).key
    assert again.metrics == read_run(record).metrics


BAD_WORDS = {
    "unknown command": ("fti", 2, "unknown command 'fti'; did you mean fit?"),
    "unknown data command": ("data lst", 2, "unknown command 'data lst'; did you mean data list?"),
    "unknown model": ("fit --model sasrek --data demo", 2, "unknown model 'sasrek'; did you mean sasrec?"),
    "unknown class": ("fit --model GRU5Rec --data demo", 2, "unknown model 'GRU5Rec'; did you mean"),
    "module not found": ("fit --model nosuch.Thing --data demo", 2, "model: unknown name 'nosuch.Thing'"),
    "class of another kind": (
        "fit --model pathlib.Path --data demo",
        2,
        "model: pathlib.Path is not a Recommender",
    ),
    "unknown data set": (
        "fit --model SASRec --data beuty",
        2,
        "unknown data set 'beuty'; did you mean beauty?",
    ),
    "unknown trainer": ("fit --model SASRec --data demo --trainer gpuu", 2, "did you mean gpu?"),
    "no value": ("fit --model --data demo", 2, "--model needs a value"),
    "no value at the end": ("fit --model SASRec --data demo --seed", 2, "--seed needs a value"),
    "value for a group": ("fit --model SASRec --data demo --model.recipe 3", 2, "model.recipe: has options"),
    "unknown part": (
        "fit --model lsc4rec --data demo --model.device gru4rce",
        2,
        "model.device: unknown name 'gru4rce'; did you mean gru4rec?",
    ),
    "part of another kind": (
        "fit --model duet --data demo --model.base ease",
        2,
        "model.base: recbench.models.EASE is not a CausalScorer",
    ),
    "part of nothing": (
        "fit --model lsc4rec --data demo --model.cloud.device.encoder sasrec",
        2,
        "--model.cloud.device.encoder is a part of --model.cloud.device; name that as well",
    ),
    "part without a value": (
        "fit --model lsc4rec --data demo --model.device",
        2,
        "--model.device needs a value",
    ),
    "no data": ("fit --model SASRec", 2, "data must be given; see recbench fit --help"),
    "unknown option": (
        "fit --model SASRec --data demo --sede 1",
        2,
        "sede: no such option; did you mean seed?",
    ),
    "unknown model option": (
        "fit --model SASRec --data demo --model.dimm 3",
        2,
        "model.dimm: no such option of SASRec; did you mean model.dim?",
    ),
    "unknown nested option": (
        "fit --model SASRec --data demo --model.recipe.lrr 3",
        2,
        "model.recipe.lrr: no such option of SASRec; did you mean model.recipe.lr?",
    ),
    "unknown data option": (
        "fit --model SASRec --data demo --data.maxlen 3",
        2,
        "data.maxlen: no such option; did you mean data.max_len?",
    ),
    "unknown loss": (
        "fit --model SASRec --data demo --model.loss SampledSoftmx",
        2,
        "model.loss: unknown name 'SampledSoftmx'; did you mean SampledSoftmax?",
    ),
    "wrong type": (
        "fit --model SASRec --data demo --model.dim wide",
        2,
        "model.dim: must be int, got 'wide'",
    ),
    "wrong choice": (
        "fit --model SASRec --data demo --wandb ofline",
        2,
        "wandb: must be one of offline, online, disabled, got 'ofline'; did you mean offline?",
    ),
    "extra word": ("evaluate here there", 2, "unexpected argument 'there'"),
    "missing word": ("replay", 2, "record must be given; see recbench replay --help"),
    "history of nothing": (
        "fit --model SASRec --data demo --data.max_len 0",
        2,
        "max_len must be at least 1",
    ),
    "negative learning rate": ("fit --model SASRec --data demo --model.recipe.lr -1", 2, "lr must be"),
    "missing run": ("evaluate runs/nosuch", 3, "runs/nosuch: no such run folder"),
    "folder of another kind": (
        "recommend . --user 1",
        3,
        ".: holds no config.yaml, so it is not a run folder",
    ),
    "missing record": ("replay nosuch.json", 3, "nosuch.json: no such record"),
    "missing config": ("fit --config nosuch.yaml", 3, "nosuch.yaml: No such file or directory"),
}


@pytest.mark.parametrize(("words", "code", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_bad_words_are_refused_in_one_line(
    words: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == code
    complaint = capsys.readouterr().err
    assert complaint.startswith("recbench: ")
    assert complaint.count("\n") == 1
    assert message in complaint
    assert list(tmp_path.iterdir()) == []  # nothing half written


BAD_FILES = {
    "not YAML": (b"model: [1, 2\ndata: }\n", 3, ":2: "),
    "not text": (b"\x00\xff\xfe\x80", 3, "must be plain YAML"),
    "not a mapping": (b"- 1\n- 2\n", 3, "holds list, not `key: value` lines"),
    "empty": (b"", 3, "not `key: value` lines"),
    "code": (
        b"model: !!python/object/apply:os.mkdir [executed]\n",
        3,
        ":1: could not determine a constructor",
    ),
    "unknown key": (b"modle: {class_path: SASRec}\n", 2, "modle: no such option; did you mean model?"),
    "null for a number": (b"seed: null\n", 2, "seed: must be int"),
    "wrong type inside": (
        b"model: {class_path: recbench.models.SASRec, init_args: {dim: [1]}}\ndata: {name: demo}\n",
        2,
        "model.dim: must be int",
    ),
}


@pytest.mark.parametrize(("content", "code", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_in_one_line(
    content: bytes,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(content)
    assert cli.main(["fit", "--config", "bad.yaml", "--model", "SASRec", "--data", "demo"]) == code
    complaint = capsys.readouterr().err
    assert complaint.startswith("recbench: ")
    assert complaint.count("\n") == 1
    assert message in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]  # nothing executed, nothing written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user", "1000"], "--user 1000: demo has users 0 to 999"),
        (["--user", "-1"], "--user -1: demo has users 0 to 999"),
        (["--user", "0", "--k", "401"], "--k 401: demo has 400 items; ask for 1 to 400"),
        (["--user", "0", "--k", "0"], "--k 0: demo has 400 items; ask for 1 to 400"),
        (["--user", "anna"], "user: must be int, got 'anna'"),
        ([], "user must be given"),
    ],
)
def test_recommend_refuses_what_the_data_does_not_have(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recommend", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_weights_of_another_method_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["model"] = {"class_path": "recbench.models.SASRec"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "model.ckpt").write_bytes((run / "model.ckpt").read_bytes())
    assert cli.main(["evaluate", str(tmp_path)]) == 4
    assert "not the weights of this method and data" in capsys.readouterr().err


def _raises(error: BaseException) -> Callable[[], str]:
    def command() -> str:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("no"), 2, "recbench: no\n"),
        (DataError("two\nlines"), 3, "recbench: two lines\n"),
        (
            OSError(errno.ENOSPC, "full", "there"),
            6,
            "recbench: there: no space left; free some and run again\n",
        ),
        (MemoryError(), 6, "out of memory; use a smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 6, "out of memory"),
        (KeyboardInterrupt(), 130, "recbench: interrupted\n"),
    ],
)
def test_mishaps_have_their_codes(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "data list", _raises(error))
    assert cli.main(["data", "list"]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ValueError("bug"), RuntimeError("bug"), OSError(errno.EPERM, "bug")])
def test_a_bug_keeps_its_traceback(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "data list", _raises(bug))
    with pytest.raises(type(bug), match="bug"):
        cli.main(["data", "list"])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_fit_says_how_to_go_on(
    signum: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(*, name: str = "") -> str:
        os.kill(os.getpid(), signum)
        time.sleep(5)
        return f"{name} was not stopped"

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(cli.COMMANDS, "fit", fit)
    assert cli.main(["fit", "--name", "two words"]) == code
    assert "go on with: recbench fit --name 'two words' --resume" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
