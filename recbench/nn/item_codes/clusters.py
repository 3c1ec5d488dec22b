"""Vectors of a sparse matrix's rows, and k-means whose clusters hold no more than a given number of them.

M rows, D width of a vector, K clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_ROUNDS = 10  # of k-means; clusters hardly change after five


def row_vectors(matrix: csr_matrix, *, dim: int, seed: int) -> NDArray[np.float64]:
    """(M, D) projections of the rows on the `dim` strongest right singular vectors, or on all there are.

    The projection is a sparse product, so that rows which are equal have equal vectors to the last bit.
    """
    matrix = matrix.astype(np.float64)
    if min(matrix.shape) <= dim:
        right = np.linalg.svd(matrix.toarray(), full_matrices=False)[2]
    else:
        start = np.random.default_rng(seed).standard_normal(min(matrix.shape))
        right = svds(matrix, k=dim, v0=start)[2][::-1]
    projected: NDArray[np.float64] = matrix @ right.T
    return projected


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vectors at length 1; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float64] = vectors / np.where(norms > 0, norms, 1)
    return units


def distances(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, K) squared distances, less each row's own square, which changes no comparison of a row."""
    costs: NDArray[np.float64] = np.square(centres).sum(axis=1) - 2 * vectors @ centres.T
    return costs


def assign(costs: NDArray[np.float64], capacity: int) -> NDArray[np.int64]:
    """(M,) columns of the (M, K) costs, each taken at most `capacity` times.

    In each round every row that has no column applies to its cheapest one with room; where too many apply,
    those come in that would lose most by their second choice, of equals the first.
    """
    num_rows, num_columns = costs.shape
    assert num_rows <= capacity * num_columns, f"{num_rows} rows do not fit {num_columns} times {capacity}"
    labels, room = np.empty(num_rows, dtype=np.int64), np.full(num_columns, capacity)
    waiting = np.arange(num_rows)
    while len(waiting):
        has_room = np.flatnonzero(room)
        cost = costs[np.ix_(waiting, has_room)]
        choice = has_room[cost.argmin(axis=1)]
        two_best = np.partition(cost, min(1, len(has_room) - 1), axis=1)[:, :2]
        order = np.lexsort((two_best[:, 0] - two_best[:, -1], choice))
        place = np.arange(len(order)) - np.searchsorted(choice[order], choice[order])
        accepted = order[place < room[choice[order]]]
        labels[waiting[accepted]] = choice[accepted]
        room -= np.bincount(choice[accepted], minlength=num_columns)
        waiting = np.delete(waiting, accepted)
    return labels


def capped_kmeans(
    vectors: NDArray[np.float64], num_clusters: int, *, capacity: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(M,) clusters 0..num_clusters-1, none larger than `capacity`; k-means++ first, then Lloyd's rounds."""
    centres = _first_centres(vectors, num_clusters, rng)
    labels = assign(distances(vectors, centres), capacity)
    for _ in range(NUM_ROUNDS):
        members = csr_matrix(
            (np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(num_clusters, len(labels))
        )
        sizes = np.bincount(labels, minlength=num_clusters)[:, None]
        centres = np.where(sizes > 0, members @ vectors / np.maximum(sizes, 1), centres)
        before, labels = labels, assign(distances(vectors, centres), capacity)
        if (before == labels).all():
            break
    return labels


def _first_centres(
    vectors: NDArray[np.float64], num_clusters: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(K, D) rows, drawn by their squared distance from those drawn (Arthur & Vassilvitskii, 2007)."""
    squares = np.square(vectors).sum(axis=1)
    nearest = np.ones(len(vectors))
    centres: list[NDArray[np.float64]] = []
    for draw in rng.random(num_clusters):
        chances = np.cumsum(nearest if nearest.any() else np.ones(len(vectors)))
        chosen = min(np.searchsorted(chances, draw * chances[-1], side="right"), len(vectors) - 1)
        distance = squares + distances(vectors, vectors[chosen, None])[:, 0]
        nearest = np.minimum(nearest, np.maximum(distance, 0)) if centres else np.maximum(distance, 0)
        centres.append(vectors[chosen])
    return np.stack(centres)
