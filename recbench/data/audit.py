"""What `recbench data list|prepare|check|stats` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from recbench.data import prepare, raw, sequence_file
from recbench.data.certificate import certificate
from recbench.data.public import DATA_SETS
from recbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_LISTED = 20


def list_text() -> str:
    """The data sets and where they stand on this machine."""
    rows = [(prepare.DEMO, "always here", "made-up town with known signal")]
    for name, data_set in DATA_SETS.items():
        state = "raw file here" if raw.find(data_set.sequences) else "to be downloaded"
        users, items, interactions = data_set.golden
        rows.append(
            (
                name,
                state,
                f"{data_set.about}: {users:,} users, {items:,} items, {interactions:,} interactions",
            )
        )
    return "\n".join(f"{name:<8}{state:<18}{about}" for name, state, about in rows)


def prepare_text(name: str) -> str:
    """Prepare a data set from its raw files and say what came out."""
    start = time.perf_counter()
    card = prepare.prepare(name).card
    seconds = time.perf_counter() - start
    return (
        f"{card.name}: {card.num_users:,} users, {card.num_items:,} items, "
        f"{card.num_interactions:,} interactions, fingerprint {card.fingerprint[:12]}, in {seconds:.2f} s"
    )


def check_text(name: str, *, strict: bool = False) -> str:
    """The certificate of a data set or of a user's sequence file.

    Args:
        name: a data set, or the path of a sequence file.
        strict: whether a fault is an error.

    Raises:
        DataError: the file is malformed, and every bad line is listed; or `strict` and there are faults.
    """
    path = prepare.own_file(name)
    if path is not None:
        _check_lines(path)
        sequences = sequence_file.sequences(path)
    elif name == prepare.DEMO:
        sequences = None
    else:
        found = raw.find(prepare.public_data_set(name).sequences)
        sequences = None if found is None else sequence_file.parse(found.content, str(found.path))
    audited = certificate(prepare.load(name), sequences)
    if strict and audited.faults():
        raise DataError(f"{name}: {'; '.join(audited.faults())}")
    return audited.text()


def stats_text(name: str) -> str:
    """The card of a data set."""
    card = prepare.load(name).card
    rows = (
        ("about", card.about),
        ("users", f"{card.num_users:,}"),
        ("items", f"{card.num_items:,}"),
        ("interactions", f"{card.num_interactions:,}"),
        ("sparsity", f"{card.sparsity:.4%}"),
        (
            "items per user",
            f"{card.mean_length:.2f} ({card.min_length} / {card.median_length:g} / {card.max_length})",
        ),
        ("repeats", f"{card.repeat_rate:.2%}"),
        (
            "times",
            {"unix": "unix seconds", "relative": "seconds since the user's first", "none": "none"}[
                card.clock
            ],
        ),
        ("item features", ", ".join(card.features) or "none"),
        ("item index seed", str(card.index_seed)),
        ("fingerprint", card.fingerprint),
        ("with features", card.catalog_fingerprint),
        *((f"sha256 {file}", digest) for file, digest in card.sources.items()),
    )
    width = max(len(label) for label, _ in rows)
    return "\n".join([card.name, *(f"  {label:<{width}}  {value}" for label, value in rows)])


def _check_lines(path: Path) -> None:
    """Raise with every bad line of a sequence file."""
    found = sequence_file.problems(raw.read(path))
    if not found:
        return
    listed = [sequence_file.describe(str(path), problem) for problem in found[:_MAX_LISTED]]
    more = [f"... and {len(found) - _MAX_LISTED:,} more lines"] if len(found) > _MAX_LISTED else []
    raise DataError("\n".join([*listed, *more]))
