"""What `recbench data stats` prints and draws. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recbench.data import prepare
from recbench.data.certificate import certificate
from recbench.data.picture import svg
from recbench.data.profile import LENGTH_GROUPS, length_group, sequentiality
from recbench.data.sequences import Sequences
from recbench.errors import UsageError
from recbench.results import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from recbench.data.certificate import Certificate
    from recbench.data.prepared import Card
    from recbench.data.profile import Sequentiality

_CLOCKS = {"unix": "unix seconds", "relative": "seconds since the user's first", "none": "none"}
Rows = list[tuple[str, str]]


def stats_text(name: str, *, picture: Path | None = None) -> str:
    """The card of a data set, what its histories are like, and how to recognise it.

    Args:
        name: a data set, or the path of a user's own file.
        picture: where to draw the lengths of histories and the popularity of items, an SVG file.

    Raises:
        UsageError: `picture` does not end in .svg.
    """
    if picture is not None and picture.suffix.lower() != ".svg":
        raise UsageError(f"--picture {picture}: an SVG is drawn; name it {picture.with_suffix('.svg')}")
    prepared = prepare.load(name)
    sequences = Sequences.of(prepared.interactions)
    rows = [
        *_sizes(prepared.card),
        *_order(certificate(prepared), sequentiality(sequences)),
        ("histories", _groups(sequences.lengths)),
        *_identity(prepared.card),
    ]
    if picture is not None:
        popularity = np.bincount(sequences.items, minlength=prepared.card.num_items + 1)[1:]
        write_atomic(picture, svg(prepared.name, sequences.lengths, popularity).encode())
        rows.append(("picture", str(picture)))
    width = max(len(label) for label, _ in rows)
    return "\n".join([prepared.name, *(f"  {label:<{width}}  {value}" for label, value in rows)])


def _sizes(card: Card) -> Rows:
    spread = f"{card.min_length} / {card.median_length:g} / {card.max_length:,}"
    return [
        ("about", card.about),
        ("users", f"{card.num_users:,}"),
        ("items", f"{card.num_items:,}"),
        ("interactions", f"{card.num_interactions:,}"),
        ("sparsity", f"{card.sparsity:.4%}"),
        ("items per user", f"{card.mean_length:.2f} on average, min / median / max {spread}"),
        ("repeats", f"{card.repeat_rate:.2%} of the interactions"),
    ]


def _order(audited: Certificate, found: Sequentiality) -> Rows:
    """What is known of the order of interactions, and what it is worth."""
    ties = "no times known" if audited.tied_rate is None else f"{audited.tied_rate:.2%} of consecutive pairs"
    leak = f"{audited.leak_hr10:.2%} HR@10 (chance: up to {audited.leak_hr10_by_chance:.2%})"
    return [("ties in time", ties), ("leak probe", leak), ("sequentiality", _worth(found))]


def _worth(found: Sequentiality) -> str:
    if found.drop is None:
        return f"unknown: what followed an item before hits none of {found.num_users:,} last items"
    return (
        f"shuffled histories lose {found.drop:.1%} ({found.low:.1%} to {found.high:.1%}) of a Markov chain's "
        f"HR@10: {found.hr10:.2%} in order, {found.shuffled_hr10:.2%} ± {found.shuffled_sd:.2%} over "
        f"{found.num_shuffles} shuffles, {found.num_users:,} users"
    )


def _groups(lengths: NDArray[np.int64]) -> str:
    sizes = np.bincount(length_group(lengths), minlength=len(LENGTH_GROUPS)).tolist()
    named = zip(LENGTH_GROUPS.items(), sizes, strict=True)
    return ", ".join(f"{size:,} {name} ({meaning})" for (name, meaning), size in named)


def _identity(card: Card) -> Rows:
    return [
        ("times", _CLOCKS[card.clock]),
        ("item features", ", ".join(card.features) or "none"),
        *([("partial", card.partial)] if card.partial else []),
        *(("note", note) for note in card.notes),
        ("item index seed", str(card.index_seed)),
        ("fingerprint", card.fingerprint),
        ("with features", card.catalog_fingerprint),
        *((f"sha256 {file}", digest) for file, digest in card.sources.items()),
    ]
