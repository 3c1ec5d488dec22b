"""The written boundaries: who may import whom, what runs without torch, and what no file may call."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "recbench"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# A module may import from its own line and from those above it.
LAYERS = [
    {"errors"},
    {"metrics", "data.catalog", "data.batch"},
    {"results"},
    {"nn", "latency", "leaderboard", "data", "checkpoint", "runtime", "tracking", "config", "lock"}
    | {"weights", "carried"},
    {"models", "edge", "data.module"},
    {"evaluate"},
    {"training", "workers", "fit", "tuning", "sizes", "export"},
    {"bench"},
    {"parse", "figures", "runs", "commands", "doctor", "cli", "__main__"},
]
WITHOUT_TORCH = ["errors", "metrics", "results", "leaderboard", "config", "parse", "cli", "figures"]
WITHOUT_TORCH += ["weights", "carried", "doctor", "nn.lm_options"]
WITHOUT_TORCH += [f"data.{name}" for name in ("raw", "sources", "prepare", "synthetic", "audit")]
SHARED = {
    f"models.{name}"
    for name in (
        "base",
        "causal",
        "collaborative",
        "generator",
        "kept_texts",
        "on_lists",
        "patched",
        "personal",
    )
}  # no methods themselves
MADE_OF = {  # methods that their papers make of other methods
    "models.cda4rec": {"models.sasrec", "models.surge_tf"},
    "models.pod": {"models.p5"},
    "models.dccl": {"models.sasrec"},
    "models.duet": {"models.din", "models.sasrec"},
    "models.personal": {"models.din"},
    "models.l3rec": {"models.multvae", "models.pod"},
    "models.lsc4rec": {"models.p5", "models.sasrec"},
    "models.scalrec": {"models.sasrec"},
}
WITHOUT_TORCH += [
    f"edge.{name}"
    for name in (
        *("messages", "privacy", "link", "network", "faults", "cache", "policy"),
        *("abstract", "auditor", "leaks", "planner", "ranking_plan"),
    )
]
OWN_BYTES = {"workers": {"pickle.dumps", "pickle.loads"}}  # for a process it starts: they never are a file
HEAVY = {"torch", "lightning", "torchmetrics", "wandb", "transformers", "peft", "bitsandbytes"}


def layer(module: str) -> int:
    """The line of `module` or of the closest package around it."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, members in enumerate(LAYERS):
            if ".".join(parts[:length]) in members:
                return number
    raise AssertionError(f"recbench.{module} has no place in LAYERS; give it one")


def imports(module: str, *, at_runtime: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, `from package import module` spelt out."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    checked = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if at_runtime and id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in inner if name.removeprefix("recbench.") in FILES]
            yield from ours or [node.module or ""]


def of_recbench(module: str) -> list[str]:
    names = [name.removeprefix("recbench.") for name in imports(module) if name.startswith("recbench.")]
    return [name for name in names if name in FILES]


@pytest.mark.parametrize("module", [module for module in FILES if module != "__init__"])
def test_imports_point_down(module: str) -> None:
    upwards = [other for other in of_recbench(module) if layer(other) > layer(module)]
    assert upwards == []


def test_methods_do_not_import_each_other() -> None:
    files = [module for module in FILES if module.startswith("models.")]
    methods = {module for module in files if module not in SHARED}
    found = {
        (module, other)
        for module in files
        for other in of_recbench(module)
        if other in methods - MADE_OF.get(module, set())
    }
    assert found == set()


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_module_is_imported_without_torch(module: str) -> None:
    code = f"import sys, recbench.{module}\nassert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", [name for name in FILES if name.split(".")[0] in ("leaderboard", "results", "metrics")]
)
def test_leaderboard_does_not_import_torch_even_later(module: str) -> None:
    assert {name.split(".")[0] for name in imports(module, at_runtime=True)} & HEAVY == set()


def test_only_tracking_knows_wandb() -> None:
    users = [module for module in FILES if "wandb" in {name.split(".")[0] for name in imports(module)}]
    assert users == ["tracking"]


def _is_unsafe(call: ast.Call) -> bool:
    """Calls that can run what a file says."""
    name = ast.unparse(call.func)
    options = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name.rpartition(".")[2] == "load" and name.split(".")[0] == "torch":
        return options.get("weights_only") != "True"
    forbidden = ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load")
    modules = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
    return (
        name in forbidden
        or name.split(".")[0] in modules
        or options.get("allow_pickle") == "True"
        or options.get("shell") == "True"
        or options.get("trust_remote_code") == "True"
    )


@pytest.mark.parametrize("module", FILES)
def test_no_call_runs_what_a_file_says(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    allowed = OWN_BYTES.get(module, set())
    unsafe = [call for call in calls if _is_unsafe(call) and ast.unparse(call.func) not in allowed]
    assert [f"line {call.lineno}: {ast.unparse(call)}" for call in unsafe] == []


@pytest.mark.parametrize(
    ("code", "is_unsafe"),
    [
        ("torch.load(file)", True),
        ("torch.load(file, weights_only=False)", True),
        ("torch.load(file, weights_only=True)", False),
        ("yaml.load(text, Loader=yaml.Loader)", True),
        ("yaml.safe_load(text)", False),
        ("pickle.loads(text)", True),
        ("eval(text)", True),
        ("model.eval()", False),
        ("pl.col('a').list.eval(x)", False),
        ("np.load(file, allow_pickle=True)", True),
    ],
)
def test_the_rule_itself(code: str, is_unsafe: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _is_unsafe(call) is is_unsafe


@pytest.mark.parametrize("module", FILES)
def test_no_function_is_longer_than_sixty_lines(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > 60} == {}


def test_a_method_has_one_name_everywhere() -> None:
    from recbench import config, models

    for module in FILES:
        if not module.startswith("models.") or module in SHARED:
            continue
        stem = module.removeprefix("models.")
        settings = config.read(config.folder() / "model" / f"{stem}.yaml")
        package, _, name = settings["class_path"].rpartition(".")
        assert package == "recbench.models"
        assert name.lower() == stem.replace("_", "")
        assert getattr(models, name).__module__ == f"recbench.{module}"
