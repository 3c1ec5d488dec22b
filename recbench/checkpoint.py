"""Checkpoints that are whole or absent, and say so: a file is a header line with a sha256, then the payload.

A file is written beside its place, synced and renamed; the one it replaces is kept as `<name>.previous`.
Reading checks length and sha256 before anything is unpickled, and unpickles tensors and plain containers
only.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from recbench.errors import CheckpointError, ResourceError
from recbench.results import write_atomic

MAGIC = b"recbench checkpoint "
FORMAT = 1
log = logging.getLogger(__name__)


def save(content: dict[str, Any], path: Path) -> None:
    """Write `content` (tensors and plain containers) to `path`; the file there becomes the previous one.

    Raises:
        ResourceError: the disk is full; what was there before is still there.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).hexdigest()
    header = MAGIC + json.dumps({"format": FORMAT, "bytes": len(payload), "sha256": digest}).encode() + b"\n"
    try:
        if path.exists():
            _link_previous(path)
        write_atomic(path, header + payload)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{path}: no space left for {len(payload) / 1e6:.0f} MB; free some and go on with --resume"
            ) from None
        raise


def load(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read `path`, refusing whatever is not exactly what was written.

    Raises:
        CheckpointError: the file is missing, of another kind or format, cut short, or changed.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    payload = _verified(raw, path)
    content: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=map_location, weights_only=True)
    return content


def load_newest(path: Path) -> dict[str, Any] | None:
    """`path`, or where it is damaged its predecessor, or None when nothing was ever written.

    Raises:
        CheckpointError: both are damaged.
    """
    if not exists(path):
        return None
    try:
        return load(path)
    except CheckpointError as error:
        if not previous(path).exists():
            raise
        log.warning("%s; going on from %s", error, previous(path).name)
        return load(previous(path))


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
    staged.unlink(missing_ok=True)
    staged.hardlink_to(path)
    staged.replace(old)


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


class CheckedIO(CheckpointIO):
    """Lightning's door to the functions above."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Save whole or not at all."""
        save(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: ARG002 - always true here
    ) -> dict[str, Any]:
        """Load what `save_checkpoint` wrote."""
        return load_newest(Path(path)) or load(Path(path), map_location=map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint and its predecessor."""
        remove(Path(path))
