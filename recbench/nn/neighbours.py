"""A sparse item-to-item matrix as two dense tables: every item's strongest K neighbours and their weights.

N items, K neighbours, B users, L history. Fixed shapes, so the tables are ordinary buffers of a checkpoint,
and scoring a batch is one scatter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from torch import Tensor


class NeighbourTable(nn.Module):
    """For each item 1..N (row 0 is padding) up to `num_neighbours` pairs of item and weight."""

    items: Tensor
    weights: Tensor

    def __init__(self, num_items: int, *, num_neighbours: int) -> None:
        super().__init__()
        width = min(num_neighbours, num_items)
        self.register_buffer("items", torch.zeros(num_items + 1, width, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(num_items + 1, width))

    def fill(self, matrix: csr_matrix) -> None:
        """Keep the largest weights of each row of the (N + 1, N + 1) `matrix`; of equals the first."""
        matrix = matrix.tocsr()
        matrix.sort_indices()
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        order = np.lexsort((matrix.indices, -matrix.data, rows))
        place = (
            np.arange(len(rows)) - matrix.indptr[rows]
        )  # rank inside its row: rows stay grouped by the sort
        kept = place < self.items.shape[1]
        self.items.zero_()
        self.weights.zero_()
        at = (torch.from_numpy(rows[kept]), torch.from_numpy(place[kept]))
        self.items[at] = torch.from_numpy(matrix.indices[order][kept].astype(np.int32))
        self.weights[at] = torch.from_numpy(matrix.data[order][kept].astype(np.float32))

    def sum_over(self, history: Tensor, strength: Tensor) -> Tensor:
        """(B, N + 1): each item's weights as neighbour of the (B, L) history times the (B, L) strengths."""
        scores = self.weights.new_zeros(len(history), len(self.items))
        neighbours = self.items[history].flatten(1).long()  # (B, L K)
        scores.scatter_add_(1, neighbours, (self.weights[history] * strength[..., None]).flatten(1))
        return scores
