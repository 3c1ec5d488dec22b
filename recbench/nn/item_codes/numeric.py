"""Items as the decimal text of a number, as P5 (Geng et al., RecSys 2022) writes them.

T5's tokeniser cuts a number into pieces of its vocabulary, from the left and mostly of two digits: 7391 is
73 91, 121 is 12 1. Which longer pieces it has is known to that vocabulary alone; here every piece but the
last has the same number of digits. Pieces are text: the same token may stand in any place, and END says where
a number is over.

N items, T pieces of a number and END.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recbench.nn.item_codes.base import END, FIRST, PAD, ItemCodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.catalog import Catalog
    from recbench.data.sequences import Sequences


class Numeric(ItemCodes):
    """Shuffled numbers from 1 on: P5's codes without the leak of their order.

    Args:
        piece_digits: digits of a piece.
        seed: decides the draw.
    """

    def __init__(self, *, piece_digits: int = 2, seed: int = 0) -> None:
        if not 1 <= piece_digits <= 4:
            raise ValueError(
                f"piece_digits must lie in 1..4, as those of SentencePiece do, got {piece_digits}"
            )
        self.piece_digits, self.seed = piece_digits, seed

    def shape(self, num_items: int) -> tuple[int, int]:
        """(pieces of the largest number and END, pieces of 1, 2, ... digits and 2)."""
        num_pieces = -(-len(str(num_items)) // self.piece_digits)
        return num_pieces + 1, FIRST + sum(10**digits for digits in range(1, self.piece_digits + 1))

    def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:
        """The pieces of each item's number."""
        numbers = np.empty(catalog.num_items, dtype=np.int64)
        numbers[self.numbered(catalog, sequences) - 1] = np.arange(1, catalog.num_items + 1)
        return self._pieces(numbers)

    def numbered(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:  # noqa: ARG002
        """(N,) the items with numbers 1, 2, ..."""
        return np.random.default_rng(self.seed).permutation(catalog.num_items) + 1

    def spelling(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """(M, 1) the numbers that the pieces make one after the other, however cut; -1 for none."""
        value, width = [0] * FIRST, [0] * FIRST
        for digits in range(1, self.piece_digits + 1):
            value += range(10**digits)
            width += [digits] * 10**digits
        numbers = np.zeros(len(tokens), dtype=np.int64)
        for column in tokens.T:
            numbers = numbers * 10 ** np.array(width)[column] + np.array(value)[column]
        return np.where((tokens >= FIRST).any(axis=1), numbers, -1)[:, None]

    def _pieces(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) numbers -> (N, T) tokens."""
        lengths = np.char.str_len(numbers.astype(str)).astype(np.int64)
        num_codes, _ = self.shape(int(numbers.max()))
        tokens = np.full((len(numbers), num_codes), PAD, dtype=np.int64)
        left = lengths.copy()  # digits that are not written yet
        for column in tokens.T:
            width = np.minimum(left, self.piece_digits)
            shown = numbers // 10 ** (left - width) % 10**width
            shorter = (10**width - 10) // 9  # pieces of fewer digits: 0, 10, 110, ...
            column[:] = np.where(left > 0, FIRST + shorter + shown, PAD)
            left -= width
        tokens[np.arange(len(numbers)), (tokens != PAD).sum(axis=1)] = END
        return tokens


class Sequential(Numeric):
    """Numbers by first appearance, user after user, so that what one user took has neighbouring numbers.

    Over all interactions this is how the public files of P5 and POD number items, and it gives the targets
    away: most users read k, k + 1, k + 2, ... with the target next (Rajput et al., NeurIPS 2023, Sec. 4.2).
    Over the training items, as OpenP5 (Xu et al., SIGIR 2024) does it, nothing is given away; the items
    that nobody trains on then come last, in random order.

    Args:
        leaky: whether the items to be found are walked over too; for comparison with published numbers only.
        piece_digits: digits of a piece.
        seed: decides the order of items that do not appear.
    """

    def __init__(self, *, leaky: bool = False, piece_digits: int = 2, seed: int = 0) -> None:
        super().__init__(piece_digits=piece_digits, seed=seed)
        self.leaky = self.reads_targets = leaky

    def numbered(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:
        """(N,) the items in order of appearance, then the others."""
        items, first = np.unique(sequences.items, return_index=True)
        shuffled = super().numbered(catalog, sequences)
        return np.concatenate([items[first.argsort()], shuffled[~np.isin(shuffled, items)]])
