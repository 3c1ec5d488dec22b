"""EASE: a linear model from items to items, in closed form (Steck, WWW 2019).

Each item is regressed on all others: the matrix B of X = X B that is nearest in squared error, with an L2
penalty and a diagonal of zeros, is -P / diag(P) for P = (X'X + penalty)^-1 (Eq. 8). An item's score is the
sum of the weights from the items of the history.

Beyond the paper, as arguments: newer items may weigh more, and of each item's weights only the
largest in magnitude are kept, so that a checkpoint and a device hold 8 bytes of these instead of 4 of every
pair. Training holds one (N + 1) x (N + 1) matrix of float32, in which it is factored, inverted and scaled in
place: 0.6 GB for 12,000 items, 1.3 GB for 18,000; the padding item is a row that nobody took, whose weights
come out as zeros. B users, L history, N items, K weights kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_matrix

from recbench.errors import ResourceError
from recbench.models.base import Paper, Recipe, Scorer, Stage, at_least
from recbench.nn.bags import distinct
from recbench.nn.neighbours import NeighbourTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData, Sequences

_ROWS = 1024  # of the matrix that are worked on at a time, so that nothing of its size is needed beside it


class EASE(Scorer):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019).

    Args:
        penalty: L2 norm of the weights; lambda of the paper.
        num_neighbours: weights kept per item, the largest in magnitude; from the number of items on, all.
        decay: weight of an item of the history relative to the next newer one; 1 counts all alike, as the
            paper does.
    """

    paper: ClassVar[Paper] = Paper(
        "Embarrassingly Shallow Autoencoders for Sparse Data", "WWW", 2019, "https://arxiv.org/abs/1905.03375"
    )

    def __init__(self, *, penalty: float = 200.0, num_neighbours: int = 200, decay: float = 1.0) -> None:
        super().__init__(Recipe())
        at_least(1, num_neighbours=num_neighbours)
        if not penalty > 0:
            raise ValueError(f"penalty must be above 0, or there is no inverse, got {penalty:g}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in 0..1, got {decay:g}")
        self.penalty, self.num_neighbours, self.decay = penalty, num_neighbours, decay

    def build(self, catalog: Catalog) -> None:
        """The weights that are kept."""
        self.neighbours = NeighbourTable(catalog.num_items, num_neighbours=self.num_neighbours)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """One inverse."""

        def solve() -> None:
            matrix = item_products(data.train_sequences(), data.catalog.num_items + 1)
            weigh_in_place(matrix, self.penalty)
            keep_largest(matrix, self.neighbours)

        yield Stage("solve", self, data, solve=solve)

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """Weights from the items of the history, each counted once, at its newest place."""
        history = batch.history
        age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        strength = self.decay**age * (history != 0)
        scores = self.neighbours.sum_over(distinct(history), strength.float())
        return scores if items is None else scores.gather(1, items)


def item_products(sequences: Sequences, size: int) -> NDArray[np.float32]:
    """(size, size) users that took both items, X'X of Eq. 7.

    Raises:
        ResourceError: there is no memory for it.
    """
    users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    ones = np.ones(len(users), dtype=np.float32)
    matrix = csr_matrix((ones, (users, sequences.items)), shape=(len(sequences.lengths), size))
    matrix.data[:] = 1  # repeats were summed
    try:
        products: NDArray[np.float32] = (matrix.T @ matrix).toarray(order="C")
    except MemoryError:
        need = 4 * size**2 / 1e9
        raise ResourceError(
            f"ease holds a matrix of all pairs of {size - 1:,} items, {need:,.1f} GB, and there is no room "
            "for it; take itemknn, which keeps neighbours only"
        ) from None
    return products


def weigh_in_place(matrix: NDArray[np.float32], penalty: float) -> None:
    """X'X -> B of Eq. 8, in the same memory.

    Args:
        matrix: (size, size), symmetric, rows contiguous.
        penalty: added to the diagonal.
    """
    size = len(matrix)
    matrix.ravel()[:: size + 1] += penalty
    factor, failed = spotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    if failed or not np.shares_memory(inverse, matrix):
        raise RuntimeError(f"the products of {size} items were not inverted in place")
    # LAPACK's lower triangle by columns is our upper one by rows
    for start in range(0, size, _ROWS):
        stop = min(start + _ROWS, size)
        block = np.triu(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = block + np.triu(block, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
    matrix /= -matrix.diagonal().copy()
    np.fill_diagonal(matrix, 0)


def keep_largest(matrix: NDArray[np.float32], table: NeighbourTable) -> None:
    """Fill `table` with what is largest in magnitude in each row of the (N + 1, N + 1) `matrix`."""
    width = table.items.shape[1]
    for start in range(0, len(matrix), _ROWS):
        rows = torch.from_numpy(matrix[start : start + _ROWS])
        kept = rows.abs().topk(width, dim=1).indices
        table.items[start : start + _ROWS] = kept.int()
        table.weights[start : start + _ROWS] = rows.gather(1, kept)
