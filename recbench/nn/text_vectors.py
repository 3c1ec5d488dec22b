"""Vectors of texts, kept on disk: a text is read by a language model once.

A folder per model, adapters and numbers; in it files of some hundred vectors, written whole or not at all,
each with the sha256 of the texts it knows. A file that is damaged is worth nothing and is left out.
D width.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbench.data.raw import cache_folder
from recbench.results import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recbench.nn.language_model import LanguageModel

BATCH_TOKENS = 4096  # of a batch, padding included
PART = 512  # texts between two files: what is lost at most when a process is killed
_log = logging.getLogger(__name__)


def embed(model: LanguageModel, texts: Sequence[str], *, is_cached: bool) -> NDArray[np.float32]:
    """(n, D) vectors of `texts`; see `LanguageModel.embed`."""
    keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    folder = cache_folder() / "vectors" / model_key(model) if is_cached else None
    known = dict(_stored(folder)) if folder else {}
    todo = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    was_training = model.training
    model.eval()
    for part in _parts(model.tokens.plain(list(todo.values()))):
        names = [list(todo)[place] for place in part]
        vectors = dict(zip(names, _vectors(model, [todo[name] for name in names]), strict=True))
        if folder:
            _store(folder, vectors)
        known |= vectors
    model.train(was_training)
    if not keys:
        return np.zeros((0, model.dim), dtype=np.float32)
    return np.stack([known[key] for key in keys])


def model_key(model: LanguageModel) -> str:
    """What the vectors of a model are kept under: base, numbers, longest text, and adapters if any."""
    options = model.options
    words = [options.quantize, options.dtype, str(options.max_tokens), *filter(None, [model.adapter])]
    found = hashlib.sha256(" ".join(words).encode())
    for name, value in sorted(model.adapter_state().items()):
        found.update(name.encode())
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()[:24]


def _parts(rows: list[list[int]]) -> Iterator[list[int]]:
    """Places of `rows`, short ones first, in parts of `PART`."""
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place]), place))
    yield from (order[start : start + PART] for start in range(0, len(order), PART))


@torch.inference_mode()
def _vectors(model: LanguageModel, texts: list[str]) -> NDArray[np.float32]:
    """(n, D) vectors of texts that come in order of length."""
    rows = model.tokens.plain(texts)
    found, batch = [], list[list[int]]()
    for number, row in enumerate(rows, start=1):
        batch.append(row)
        is_full = number == len(rows) or (len(batch) + 1) * len(rows[number]) > BATCH_TOKENS
        if is_full:
            found.append(model.pooled(batch).cpu().numpy())
            batch = []
    return np.concatenate(found)


def _stored(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Text keys and vectors of all files."""
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, vectors = file["keys"].tolist(), file["vectors"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            _log.warning("%s: damaged (%s); its texts are read again", path, error)
            continue
        yield from zip(keys, vectors, strict=True)


def _store(folder: Path, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Add a file, named by the texts in it; a cache that cannot be written is only slower."""
    keys = np.array(list(vectors))
    buffer = io.BytesIO()
    np.savez(buffer, keys=keys, vectors=np.stack(list(vectors.values())))
    name = hashlib.sha256("".join(vectors).encode()).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{name}.npz", buffer.getvalue())
    except OSError as error:
        _log.warning("%s: vectors are not kept (%s); set RECBENCH_CACHE to a folder with room", folder, error)
