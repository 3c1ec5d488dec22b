"""Checkpoints that are whole or absent, and say so: a file is a header line with a sha256, then the payload.

A file is written beside its place, synced and renamed; the one it replaces is kept as `<name>.previous`.
Reading checks length and sha256 before anything is unpickled, and unpickles tensors and plain containers
only.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from recbench.errors import CheckpointError, ResourceError
from recbench.results import write_atomic

if TYPE_CHECKING:
    from torch import nn

MAGIC = b"recbench checkpoint "
FORMAT = 1
OWNER = "recbench owner"  # the key under which a payload says whose it is
_FOREIGN = "not the weights of this method and data"
log = logging.getLogger(__name__)


def save(content: dict[str, Any], path: Path, *, owner: str = "") -> None:
    """Write `content` (tensors and plain containers) to `path`; the file there becomes the previous one.

    Args:
        content: what to keep.
        path: where.
        owner: what it belongs to, such as method, stage and data; `load` refuses it to any other.

    Raises:
        ResourceError: the disk is full; what was there before is still there.
    """
    buffer = io.BytesIO()
    torch.save({**content, OWNER: owner}, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).hexdigest()
    header = MAGIC + json.dumps({"format": FORMAT, "bytes": len(payload), "sha256": digest}).encode() + b"\n"
    try:
        if path.exists():
            _link_previous(path)
        write_atomic(path, header + payload)
    except ResourceError as error:
        raise ResourceError(f"{error}; --resume goes on from the last whole epoch") from None


def load(path: Path, *, owner: str = "", map_location: Any = "cpu") -> dict[str, Any]:
    """Read `path`, refusing whatever is not exactly what was written, or was written for another owner.

    Raises:
        CheckpointError: the file is missing, of another kind or format, cut short, changed, or another's.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; a checkpoint is a file") from None
    content = _unpickled(_verified(raw, path), path, map_location)
    found = content.pop(OWNER, "")
    if owner and found and found != owner:
        raise CheckpointError(f"{path}: {_FOREIGN}: it is of {found}, wanted is {owner}")
    return content


def load_newest(path: Path, *, owner: str = "", map_location: Any = "cpu") -> dict[str, Any] | None:
    """`path`, or where it is damaged its predecessor, or None when nothing was ever written.

    Raises:
        CheckpointError: both are damaged.
    """
    if not exists(path):
        return None
    try:
        return load(path, owner=owner, map_location=map_location)
    except CheckpointError as error:
        if not previous(path).exists():
            raise
        log.warning("%s; going on from %s", error, previous(path).name)
        return load(previous(path), owner=owner, map_location=map_location)


def restore(module: nn.Module, path: Path, *, owner: str = "") -> dict[str, Any]:
    """Fill `module` with the weights in `path`; returns all that was saved with them.

    Raises:
        CheckpointError: as `load`, or the weights have other names or shapes.
    """
    content = load(path, owner=owner)
    try:
        module.load_state_dict(content["weights"])
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: {_FOREIGN}: {reason}") from None
    return content


def exists(path: Path) -> bool:
    """Whether `path` or its predecessor is there."""
    return path.exists() or previous(path).exists()


def remove(path: Path) -> None:
    """Delete a checkpoint and its predecessor."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Where the predecessor of `path` is kept."""
    return path.with_name(f"{path.name}.previous")


def _link_previous(path: Path) -> None:
    """Give the present file a second name, so that there is a good one at every moment."""
    old = previous(path)
    staged = path.with_name(f".{path.name}.previous")
    try:
        staged.unlink(missing_ok=True)
        staged.hardlink_to(path)
        staged.replace(old)
    except OSError:  # some file systems have no hard links
        write_atomic(old, path.read_bytes())


def _verified(raw: bytes, path: Path) -> memoryview:
    """The payload of `raw`, once its header has been found true."""
    if not raw.startswith(MAGIC):
        raise CheckpointError(f"{path}: not a recbench checkpoint; name a .ckpt file of a recbench run")
    line, _, _ = raw[:4096].partition(b"\n")
    try:
        header = json.loads(line[len(MAGIC) :])
        form, size, sha256 = header["format"], header["bytes"], header["sha256"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: the header is damaged; delete the file and train again") from None
    if form != FORMAT:
        raise CheckpointError(
            f"{path}: format {form} is not {FORMAT}; load it with the release that wrote it"
        )
    payload = memoryview(raw)[len(line) + 1 :]
    if len(payload) != size:
        raise CheckpointError(
            f"{path}: cut short, {len(payload)} of {size} bytes; delete it and use --resume"
        )
    digest = hashlib.sha256(payload).hexdigest()
    if digest != sha256:
        raise CheckpointError(
            f"{path}: sha256 {digest[:12]}… is not {sha256[:12]}…; delete it and use --resume"
        )
    return payload


def _unpickled(payload: memoryview, path: Path, map_location: Any) -> dict[str, Any]:
    """What `save` was given, or a refusal: a true sha256 says who wrote a file, not that it means well."""
    try:
        content = torch.load(io.BytesIO(payload), map_location=map_location, weights_only=True)
    except MemoryError:
        raise
    except Exception:  # a crafted payload may fail in any way
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds something other than tensors and plain containers, so it was not opened; "
            "use a file that recbench wrote"
        )
    return content


class CheckedIO(CheckpointIO):
    """Lightning's door to the functions above.

    Args:
        owner: what its checkpoints belong to.
    """

    def __init__(self, owner: str = "") -> None:
        self.owner = owner

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Save whole or not at all."""
        save(checkpoint, Path(path), owner=self.owner)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: ARG002 - always true here
    ) -> dict[str, Any]:
        """Load what `save_checkpoint` wrote."""
        found = load_newest(Path(path), owner=self.owner, map_location=map_location)
        if found is None:
            raise CheckpointError(f"{path}: no such checkpoint")
        return found

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint and its predecessor."""
        remove(Path(path))
