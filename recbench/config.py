"""What the names on a command line stand for: `--model sasrec` is `configs/model/sasrec.yaml`.

Nothing else in recbench knows where presets lie. Imports no torch.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAMED = ("model", "data", "trainer")  # options whose value may be the name of a preset
WHAT = {"model": "model", "data": "data set", "trainer": "trainer"}
PARTS = ("base", "cloud", "clusterer", "device", "encoder", "graph", "local")  # models in models


def folder() -> Path:
    """Where the presets lie: inside an installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "configs"


def names(kind: str) -> list[str]:
    """Presets of one kind, such as `names("model")`."""
    return sorted(path.stem for path in (folder() / kind).glob("*.yaml"))


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: what the user may have meant, else what there is."""
    known = sorted(set(known))
    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {folded[close[0]]}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""


def read(path: Path) -> dict[str, Any]:
    """The mapping a YAML file holds; plain data only, so no tag in the file can run anything.

    Raises:
        DataError: there is no such file, it is not YAML, or it is not a mapping.
    """
    from jsonargparse import get_loader
    from yaml import YAMLError

    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a YAML file") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(f"{where}: {problem}; the file must be plain YAML") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; the file must be plain YAML") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, not `key: value` lines; see --print_config")
    return content


def preset_file(kind: str, name: str) -> Path:
    """The file that `name` stands for: a preset of `kind`, or a path.

    Raises:
        UsageError: it is the name of nothing.
    """
    preset = folder() / kind / f"{name}.yaml"
    if "/" not in name and preset.is_file():
        return preset
    if "/" in name or Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    raise UsageError(f"unknown {kind} {name!r}{nearest(name, names(kind))}")


def space_file(name: str, model: str) -> Path:
    """What `recbench tune` varies: the file or preset `name`; else the method's own, else the default."""
    own = model if model in names("space") else "default"
    return preset_file("space", name or own)


def expand(argv: Sequence[str], *, trainer: str = "cpu") -> list[str]:
    """Put what names and files stand for in front, so that whatever is typed out wins over what a file says.

    Args:
        argv: options of `fit`.
        trainer: the preset below everything else.
    """
    files = [_fragment("trainer", trainer)]
    typed, parts = [], {}
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        key = option.removeprefix("--")
        is_part = _is_part(key)
        if option != f"--{key}" or not (is_part or key in ("config", *NAMED)):
            typed.append(f"{option}.name{equals}{value}" if _is_language_model(option) else word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("--"):
            raise UsageError(f"{option} needs a value{nearest('', names('model' if is_part else key))}")
        if not is_part:
            files.append(read(Path(value)) if key == "config" else _fragment(key, value))
        elif _file("model", value) is None:
            typed.append(f"{option}={value}")  # a class, or null
        else:
            parts[key] = value
    for key in sorted(parts):  # a part before the parts of it
        _put(files, key, parts[key])
    return [_config(content) for content in files] + typed


def _is_part(key: str) -> bool:
    """Whether an option is a model inside a model, such as `model.device`."""
    return key.startswith("model.") and key.rpartition(".")[2] in PARTS


def _file(kind: str, value: str) -> Path | None:
    """The preset that `value` names, or the YAML file that it is; None where it is neither."""
    preset = folder() / kind / f"{value}.yaml"
    if "/" not in value and preset.is_file():
        return preset
    return Path(value) if Path(value).suffix in (".yaml", ".yml") else None


def _put(files: Sequence[dict[str, Any]], key: str, value: str) -> None:
    """Let a part of the model be what `value` names, and keep nothing of the part that was there.

    Raises:
        UsageError: there is no model of which it could be a part.
    """
    _, *way, last = key.split(".")
    place = next((found["model"] for found in reversed(files) if isinstance(found.get("model"), dict)), None)
    for step in way:
        place = place.setdefault("init_args", {}).get(step) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        whole = "model" if not way else key.rpartition(".")[0]
        raise UsageError(f"--{key} is a part of --{whole}; name that as well")
    place.setdefault("init_args", {})[last] = _meant(last, value)


def _is_language_model(key: str) -> bool:
    """Whether an option is a language model, whose name may stand for it: it is called `lm`, or `..._lm`."""
    return re.fullmatch(r"(?:.*[._])?lm", key) is not None


def _named(content: Any) -> Any:
    """`lm: smollm2-135m` in a file is `lm: {name: smollm2-135m}`, `device: sasrec` that preset's class."""
    if not isinstance(content, dict):
        return content
    return {key: _meant(str(key), value) for key, value in content.items()}


def _meant(key: str, value: Any) -> Any:
    """What stands for one value of a file."""
    if isinstance(value, str) and _is_language_model(key):
        return {"name": value}
    if isinstance(value, str) and key in PARTS and (file := _file("model", value)):
        return {option: inside for option, inside in whole(file).items() if option != "tuned"}
    return _named(value)


def whole(path: Path) -> dict[str, Any]:
    """What a file holds, with what the names in it stand for.

    Raises:
        DataError: as `read` does.
    """
    content: dict[str, Any] = _named(read(path))
    return content


def _config(content: dict[str, Any]) -> str:
    try:
        return f"--config={json.dumps(_named(content))}"
    except TypeError as error:
        raise DataError(f"a configuration holds plain values only: {error}") from None


def _fragment(kind: str, value: str) -> dict[str, Any]:
    """The part of a configuration that one `--model`, `--data` or `--trainer` stands for."""
    if path := _file(kind, value):
        content = read(path)
        beside = {"name": path.stem, "tuned": content.pop("tuned", None)} if kind == "model" else {}
        return {kind: content, **beside}
    if kind == "data" and (Path(value).exists() or "/" in value):
        return {"data": {"name": value}}
    if kind == "model":
        return _model_class(value)
    raise UsageError(f"unknown {WHAT[kind]} {value!r}{nearest(value, names(kind))}")


def _model_class(value: str) -> dict[str, Any]:
    """A class by its name in `recbench.models` or by its dotted path; ours are named after their file."""
    files = _model_files()
    if "." not in value and value not in files:
        raise UsageError(f"unknown model {value!r}{nearest(value, [*names('model'), *files])}")
    path = value if "." in value else f"recbench.models.{value}"
    name = path.rpartition(".")[2]
    return {"model": {"class_path": path}, "name": files.get(name, name.lower())}


def _model_files() -> dict[str, str]:
    """Class -> file of `recbench.models`; read, not imported: a misspelt name need not wait for torch."""
    source = (Path(__file__).parent / "models" / "__init__.py").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module).rpartition(".")[2] for node in imports for alias in node.names}
