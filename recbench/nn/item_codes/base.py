"""ItemCodes: what a way of writing items must say; and the two ways that know nothing of the items.

N items, T codes of an item, V tokens of the code vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.catalog import Catalog
    from recbench.data.sequences import Sequences

PAD, END, FIRST = 0, 1, 2  # the tokens that are no codes, and the first that is one


class ItemCodes(ABC):
    """A way of writing items. Tokens of different places differ unless codes are text."""

    reads_targets: bool = False  # whether `write` must be given all interactions, targets included

    @abstractmethod
    def shape(self, num_items: int) -> tuple[int, int]:
        """(T, V), by the options and the number of items alone, so that weights fit before data is read."""

    @abstractmethod
    def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:
        """(N, T) tokens of items 1..N; what `write` checks and puts padding before.

        Args:
            catalog: what is known of the items.
            sequences: what may be learnt from.
        """

    def write(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:
        """(N + 1, T) tokens of all items, no two alike; row 0 is PAD.

        Args:
            catalog: what is known of the items.
            sequences: `InteractionData.train_sequences()`; all `sequences` where `reads_targets`.

        Raises:
            LookupError: the data set lacks what the items are to be written by.
            ValueError: this way writes two items alike, or leaves its vocabulary.
        """
        num_codes, num_tokens = self.shape(catalog.num_items)
        tokens = np.full((catalog.num_items + 1, num_codes), PAD, dtype=np.int64)
        tokens[1:] = self.codes(catalog, sequences)
        name = type(self).__name__
        if not END <= tokens[1:, 0].min() <= tokens.max() < num_tokens:
            raise ValueError(f"{name} wrote tokens outside the {num_tokens:,} that its shape names")
        if len(np.unique(tokens, axis=0)) < len(tokens):
            raise ValueError(f"{name} wrote two items alike; an item must be told by its codes")
        return tokens

    def read(self, tokens: NDArray[np.int64], written: NDArray[np.int64]) -> NDArray[np.int64]:
        """(...) the items that (..., T) tokens of a free text stand for; 0 where they stand for none.

        Args:
            tokens: what a model wrote; PAD after END.
            written: (N + 1, T) how the items are written.
        """
        rows = np.concatenate([self.spelling(written), self.spelling(tokens.reshape(-1, tokens.shape[-1]))])
        _, first, same = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        items = first[same.ravel()[len(written) :]]  # the item's own row comes before all that read the same
        return np.where(items < len(written), items, 0).reshape(tokens.shape[:-1])

    def spelling(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """(M, T) tokens -> (M, ...) rows that are equal where the same is written."""
        return tokens


class Atomic(ItemCodes):
    """One code per item: a decoder's first step is a softmax over the catalogue."""

    def shape(self, num_items: int) -> tuple[int, int]:
        """(1, N + 2)."""
        return 1, num_items + FIRST

    def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:  # noqa: ARG002
        """The items' indices."""
        return FIRST + np.arange(catalog.num_items)[:, None]


class Random(ItemCodes):
    """Codes drawn at random: what any other way of writing must beat.

    Args:
        num_codes: T.
        sizes: values of each code; the least equal sizes that tell all items apart if not given.
        seed: decides the draw.
    """

    def __init__(self, *, num_codes: int = 2, sizes: tuple[int, ...] | None = None, seed: int = 0) -> None:
        check_sizes(num_codes, sizes)
        self.num_codes, self.sizes, self.seed = num_codes, sizes, seed

    def shape(self, num_items: int) -> tuple[int, int]:
        """(T, the sum of the sizes and 2)."""
        return self.num_codes, FIRST + sum(self._sizes(num_items))

    def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:  # noqa: ARG002
        """The digits of shuffled numbers, lowest first, so that every value of it is as frequent."""
        sizes = self._sizes(catalog.num_items)
        numbers = np.random.default_rng(self.seed).permutation(catalog.num_items)
        return as_tokens(np.stack(np.unravel_index(numbers, sizes, order="F"), axis=1), sizes)

    def _sizes(self, num_items: int) -> tuple[int, ...]:
        sizes = self.sizes or (root(num_items, self.num_codes),) * self.num_codes
        return check_room(sizes, num_items)


def root(number: int, degree: int) -> int:
    """The least whole number whose power of `degree` is `number` or more, 1 at least."""
    guess: int = max(1, round(number ** (1 / degree)))
    while guess**degree < number:
        guess += 1
    while guess > 1 and (guess - 1) ** degree >= number:
        guess -= 1
    return guess


def check_sizes(num_codes: int, sizes: tuple[int, ...] | None) -> None:
    """Refuse sizes that are not those of `num_codes` codes.

    Raises:
        ValueError: naming what is wrong.
    """
    if num_codes < 1:
        raise ValueError(f"num_codes must be at least 1, got {num_codes}")
    if sizes is not None and (len(sizes) != num_codes or min(sizes) < 1):
        raise ValueError(f"sizes must be {num_codes} numbers of values, as num_codes says, got {list(sizes)}")


def check_room(sizes: tuple[int, ...], num_items: int) -> tuple[int, ...]:
    """The sizes, if they write so many items.

    Raises:
        ValueError: they do not.
    """
    if (room := math.prod(sizes)) < num_items:
        raise ValueError(
            f"sizes {list(sizes)} write {room:,} items, but there are {num_items:,}; enlarge them"
        )
    return sizes


def as_tokens(values: NDArray[np.integer], sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """(N, T) values 0..size-1 of each code -> tokens, those of each place after those of the place before."""
    tokens: NDArray[np.int64] = values.astype(np.int64) + FIRST + np.cumsum((0, *sizes[:-1]))
    return tokens
