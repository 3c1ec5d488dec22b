"""ItemKNN: items liked by the same people (Sarwar et al., WWW 2001; Deshpande & Karypis, TOIS 2004).

Item vectors are columns of the train matrix; the score of an item is the sum of its similarities to the
user's history. With BM25 weights and only the newest items of the history this is a strong, two-second
baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags

from recbench.models.base import Paper, Recipe, Scorer, Stage, at_least
from recbench.nn.neighbours import NeighbourTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData, Sequences


class ItemKNN(Scorer):
    """Sum of similarities to the history.

    Args:
        similarity: cosine of the item vectors, or their product with BM25 weights.
        num_neighbours: neighbours kept per item.
        shrinkage: added to the cosine's denominator; damps similarities that rest on few users.
        k1: BM25 saturation of the user's length penalty.
        b: BM25 strength of the length penalty, 0 to 1.
        last_items: only so many newest items of the history count; 0 for all.
        decay: weight of an item relative to the next newer one; 1 counts all alike.
    """

    paper: ClassVar[Paper] = Paper(
        "Item-based top-N recommendation algorithms", "TOIS", 2004, "https://doi.org/10.1145/963770.963776"
    )

    def __init__(
        self,
        *,
        similarity: Literal["cosine", "bm25"] = "cosine",
        num_neighbours: int = 200,
        shrinkage: float = 0.0,
        k1: float = 1.2,
        b: float = 0.75,
        last_items: int = 0,
        decay: float = 1.0,
    ) -> None:
        super().__init__(Recipe())
        at_least(1, num_neighbours=num_neighbours)
        at_least(0, last_items=last_items)
        if min(shrinkage, k1, decay) < 0:
            raise ValueError(f"shrinkage, k1 and decay must be 0 or more, got {shrinkage}, {k1} and {decay}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must lie in 0..1, got {b}")
        self.similarity: Literal["cosine", "bm25"] = similarity
        self.num_neighbours, self.shrinkage, self.k1, self.b = num_neighbours, shrinkage, k1, b
        self.last_items, self.decay = last_items, decay

    def build(self, catalog: Catalog) -> None:
        """The neighbour table."""
        self.neighbours = NeighbourTable(catalog.num_items, num_neighbours=self.num_neighbours)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """One sparse product."""

        def solve() -> None:
            matrix = _user_item(data.train_sequences(), data.catalog.num_items + 1)
            if self.similarity == "cosine":
                similar = _cosine(matrix, self.shrinkage)
            else:
                similar = _bm25(matrix, self.k1, self.b)
            similar.setdiag(0)
            similar.eliminate_zeros()
            self.neighbours.fill(similar)

        yield Stage("solve", self, data, solve=solve)

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """Similarities to the newest items of the history, newer ones weighing more."""
        history = batch.history[:, -self.last_items :]  # -0 is everything
        age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        strength = self.decay**age * (history != 0)
        scores = self.neighbours.sum_over(history, strength.float())
        return scores if items is None else scores.gather(1, items)


def _user_item(sequences: Sequences, size: int) -> csr_matrix:
    """(U, size) ones where a user took an item."""
    users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    matrix = csr_matrix(
        (np.ones(len(users), dtype=np.float32), (users, sequences.items)),
        shape=(len(sequences.lengths), size),
    )
    matrix.data[:] = 1  # repeats were summed
    return matrix


def _cosine(matrix: csr_matrix, shrinkage: float) -> csr_matrix:
    """x_i . x_j / (|x_i| |x_j| + shrinkage)."""
    together = (matrix.T @ matrix).tocoo()
    norm = np.sqrt(np.asarray(matrix.sum(0)).ravel())
    together.data /= norm[together.row] * norm[together.col] + shrinkage
    return together.tocsr()


def _bm25(matrix: csr_matrix, k1: float, b: float) -> csr_matrix:
    """BM25 (Robertson & Zaragoza, 2009, Eq. 3.15): the history's item is a document, the candidate a query.

    A user is a term: one of n items weighs little, idf = log((N + 1) / (n + 1)), and a long list of users
    saturates.
    """
    num_items = matrix.shape[1]  # N + 1: the padding column smooths, so that nobody weighs less than nothing
    per_user = np.asarray(matrix.sum(1)).ravel()
    per_item = np.asarray(matrix.sum(0)).ravel()
    idf = np.log(num_items / (1 + per_user))
    length = 1 - b + b * per_item / per_item[1:].mean()
    weighted = diags(idf) @ matrix @ diags((k1 + 1) / (k1 * length + 1))
    return (weighted.T @ matrix).tocsr()
