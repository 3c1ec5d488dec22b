"""`recbench doctor`: what this machine has, what is wrong with it and the fix; what a method would take.

A line begins with what it is about. One that ends in `fix: ...` is about something wrong.
"""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from typing import TYPE_CHECKING, Any

from recbench import carried, weights
from recbench.data import raw
from recbench.errors import DataError, RecbenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.training import TrainerOptions

DISTRIBUTION = "recbench-suite"
LEAST_FREE_GIB = 2.0  # a language model converted, data prepared, some runs
_GIB = 1 << 30


def doctor(
    *,
    model: Recommender | None = None,
    data: InteractionData | None = None,
    trainer: TrainerOptions,
    name: str = "",
    tuned: dict[str, Any] | None = None,  # noqa: ARG001 - of the preset; not used
    config: dict[str, Any],  # noqa: ARG001 - so that presets are looked up
) -> str:
    """Say what this machine has, what is wrong and how to mend it; with --model, what memory that takes.

    Args:
        model: a method to measure before anything of it exists; as for fit.
        data: the data set it is measured on; the demo unless given.
        trainer: where it is to be trained; as for fit.
        name: what to call the method; the preset's name unless given.
        tuned: how the preset's options were found; not used.
        config: the resolved configuration.
    """
    if model is None:
        return "\n".join(machine())
    from recbench.data.module import InteractionData

    return "\n".join(measured(model, data or InteractionData("demo", mask_seen=False), trainer, name=name))


def machine() -> Iterator[str]:
    """A line for each thing that recbench depends on."""
    yield from versions()
    yield from devices()
    yield disk(raw.cache_folder())
    yield from data_sets()
    yield from language_models()


def versions() -> Iterator[str]:
    """Python and the packages; a line with the fix for each that is missing or of a wrong release."""
    import platform

    from packaging.requirements import Requirement

    found, wrong = [f"python {platform.python_version()}"], []
    for line in metadata.requires(DISTRIBUTION) or ():
        needed = Requirement(line)
        is_optional = needed.marker is not None and not needed.marker.evaluate({"extra": ""})
        if is_optional and needed.marker is not None and not needed.marker.evaluate({"extra": "llm"}):
            continue
        have = _installed(needed.name)
        if have and not needed.specifier.contains(have, prereleases=True):
            wrong.append(
                f"{needed.name} {have} is not {needed.specifier}; fix: pip install '{_plain(needed)}'"
            )
        elif have:
            found.append(f"{needed.name} {have}")
        elif not is_optional:
            wrong.append(f"{needed.name} is missing; fix: pip install '{_plain(needed)}'")
    yield f"versions: {', '.join(dict.fromkeys(found))}"
    yield from (f"versions: {line}" for line in dict.fromkeys(wrong))
    if missing := [name for name in ("peft", "bitsandbytes", "gguf") if not _installed(name)]:
        yield f"versions: no {', '.join(missing)}, for language models; fix: {carried.INSTALL}"


def devices() -> Iterator[str]:
    """Processor, memory and GPU."""
    import torch

    from recbench.runtime import hardware

    found = hardware()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else found["cores"]
    line = f"processor: {found['processor']}, {usable} cores, {found['memory_gib']} GiB of memory"
    if not found["bfloat16"]:
        line += ", no bfloat16: losses that halve their products do them in 32 bits, and bf16-mixed is slow"
    if found["threads"] > usable:
        line += f", but {found['threads']} threads, which wait for one another"
        line += f"; fix: export OMP_NUM_THREADS={usable}"
    yield line
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield f"gpu: {found['gpu']}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    elif torch.version.cuda:
        yield "gpu: none that this CUDA build of torch can use; fix: check nvidia-smi and the driver"
    else:
        yield "gpu: none used, torch is a build for processors"


def disk(folder: Path) -> str:
    """Room where recbench keeps what it downloads and prepares."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / _GIB
    line = f"disk: {free:.1f} GiB free for {folder}"
    if not os.access(there, os.W_OK):
        return f"{line}, which cannot be written; fix: set RECBENCH_CACHE to a folder of yours"
    is_full = free < LEAST_FREE_GIB
    return f"{line}; fix: free some, or set RECBENCH_CACHE to a folder with room" if is_full else line


def data_sets() -> Iterator[str]:
    """Raw files and prepared data, checked."""
    from recbench.data import recipes
    from recbench.data.public import DATA_SETS

    try:
        folders = raw.raw_folders()
    except RecbenchError as error:
        yield f"data: fix: {error}"
        return
    yield f"data: raw files are looked for in {', '.join(map(str, folders))}"
    for name, data_set in DATA_SETS.items():
        try:
            if recipes.here(data_set):
                shown = [f"{file} {digest[:12]}" for file, digest in data_set.digests(data_set).items()]
                yield f"data: {name}: {', '.join(shown)}"
        except DataError as error:
            yield f"data: {name}: fix: {error}"
    for folder in sorted((raw.cache_folder() / "prepared").glob("*-seed*")):
        yield _prepared(folder)


def language_models() -> Iterator[str]:
    """Weights that are here, checked, and how to get those that are not."""
    for name in (*weights.CARRIED, *weights.INSTALLED):
        folder = weights.find(name)
        fix = weights.how_to_get(name)
        if folder is None:
            yield f"weights: {name}: not here; {fix}"
        elif problem := weights.faults(name):
            yield f"weights: {name}: {problem}; fix: {fix}"
        else:
            yield f"weights: {name}: {raw.digest(folder / 'model.safetensors')[:12]}, whole"


def measured(
    model: Recommender, data: InteractionData, trainer: TrainerOptions, *, name: str = ""
) -> Iterator[str]:
    """What `model` takes on `data`."""
    from recbench import sizes

    found = sizes.measure(model, data)
    share = found.num_trained / found.num_weights if found.num_weights else 0.0
    kept = found.activations.num_bytes
    called = name or type(model).__name__
    yield f"model: {called} on {data.name}: {found.num_weights:,} parameters, {share:.2%} trained by gradient"
    yield f"memory: weights {_size(found.weight_bytes)}"
    yield f"memory: gradients and AdamW {_size(found.training_bytes)}"
    yield f"memory: activations {'?' if kept is None else _size(kept)} ({found.activations.how})"
    total = found.weight_bytes + found.training_bytes + (kept or 0)
    yield f"memory: {_size(total)} together; temporaries and what the allocator holds back come on top"
    if "16" in trainer.precision and kept:
        yield f"memory: under {trainer.precision} up to half of the activations in 32 bits are saved"


def _prepared(folder: Path) -> str:
    from recbench.data import prepare, store

    name, _, seed = folder.name.rpartition("-seed")
    try:
        card = store.read(folder).card
    except (FileNotFoundError, DataError) as error:
        reason = str(error) if isinstance(error, DataError) else f"{folder}: half written"
        again = f"recbench data prepare {name}" if name in prepare.names() else f"delete {folder}"
        return f"data: {reason}; fix: {again}"
    sizes = f"{card.num_users:,} users, {card.num_items:,} items, {card.num_interactions:,} interactions"
    return f"data: {name} prepared, index seed {seed}: {card.fingerprint[:12]}, {sizes}"


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _plain(needed: Any) -> str:
    extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
    return f"{needed.name}{extras}{needed.specifier}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
