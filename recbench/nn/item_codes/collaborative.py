"""Codes that items liked by the same people share (collaborative indexing of Hua et al., SIGIR-AP 2023).

Item vectors are the singular vectors of the train matrix with every user and item scaled by the root of its
degree. They are the eigenvectors of the normalised cooccurrence matrix, by which the paper clusters, without
that matrix, and their size does not grow with popularity. Each code but the last is a cluster by k-means,
inside the cluster of the codes before it. Clusters are capped, where the paper's differ in size without bound
and need more codes for some items than for others. The last code is the place in the cluster, most popular
items first, so that it means the same in all of them.

U users, N items, T codes, D width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, diags

from recbench.nn.item_codes.base import FIRST, ItemCodes, as_tokens, check_room, check_sizes, root
from recbench.nn.item_codes.clusters import capped_kmeans, row_vectors, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.catalog import Catalog
    from recbench.data.sequences import Sequences

SLACK = (
    0.15  # room beyond the number of items, without which the last clusters to fill take what is left over
)


class Collaborative(ItemCodes):
    """Clusters of items liked by the same people, clusters in these, and the place in the smallest.

    Args:
        num_codes: T.
        sizes: values of each code; about the T-th root of the number of items if not given.
        dim: width of the item vectors.
        seed: decides where clustering begins, and the codes of items that nobody trains on.
    """

    def __init__(
        self, *, num_codes: int = 2, sizes: tuple[int, ...] | None = None, dim: int = 48, seed: int = 0
    ) -> None:
        check_sizes(num_codes, sizes)
        if num_codes < 2:
            raise ValueError(f"num_codes must be at least 2, a cluster and a place in it, got {num_codes}")
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.num_codes, self.sizes, self.dim, self.seed = num_codes, sizes, dim, seed

    def shape(self, num_items: int) -> tuple[int, int]:
        """(T, the sum of the sizes and 2)."""
        return self.num_codes, FIRST + sum(self._sizes(num_items))

    def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:
        """Clusters of the trained items; the others fill places that are left, at random."""
        sizes = self._sizes(catalog.num_items)
        rng = np.random.default_rng(self.seed)
        popularity = np.bincount(sequences.items, minlength=catalog.num_items + 1)[1:]
        trained = np.flatnonzero(popularity)
        leaf = np.empty(catalog.num_items, dtype=np.int64)
        if len(trained):
            vectors = item_vectors(sequences, catalog.num_items, dim=self.dim, seed=self.seed)[trained]
            leaf[trained] = np.ravel_multi_index(_nested(vectors, sizes, rng).T, sizes[:-1])
        free = sizes[-1] - np.bincount(leaf[trained], minlength=math.prod(sizes[:-1]))
        others = np.flatnonzero(popularity == 0)
        leaf[others] = rng.permutation(np.repeat(np.arange(len(free)), free))[: len(others)]
        order = np.lexsort((-popularity, leaf))
        place = np.empty_like(leaf)
        place[order] = np.arange(len(leaf)) - np.searchsorted(leaf[order], leaf[order])
        return as_tokens(np.stack([*np.unravel_index(leaf, sizes[:-1]), place], axis=1), sizes)

    def _sizes(self, num_items: int) -> tuple[int, ...]:
        if self.sizes is not None:
            return check_room(self.sizes, num_items)
        clusters = (root(num_items, self.num_codes),) * (self.num_codes - 1)
        return *clusters, math.ceil((1 + SLACK) * num_items / math.prod(clusters))


def item_vectors(sequences: Sequences, num_items: int, *, dim: int, seed: int) -> NDArray[np.float64]:
    """(N, D) unit vectors of items 1..N, near where the same users took them; zero for untrained items."""
    users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    matrix = csr_matrix(
        (np.ones(len(users)), (sequences.items - 1, users)), shape=(num_items, len(sequences.lengths))
    )
    matrix.data[:] = 1  # repeats were summed
    per_item, per_user = (np.maximum(np.asarray(matrix.sum(axis)).ravel(), 1) for axis in (1, 0))
    scaled = diags(per_item**-0.5) @ matrix @ diags(per_user**-0.5)
    return unit(row_vectors(scaled.tocsr(), dim=dim, seed=seed))


def _nested(
    vectors: NDArray[np.float64], sizes: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(M, T - 1) cluster, cluster in it, ...; none with more rows than its further codes tell apart."""
    if len(sizes) == 1 or not len(vectors):
        return np.empty((len(vectors), len(sizes) - 1), dtype=np.int64)
    labels = capped_kmeans(vectors, sizes[0], capacity=math.prod(sizes[1:]), rng=rng)
    inner = np.empty((len(vectors), len(sizes) - 2), dtype=np.int64)
    for cluster in range(sizes[0]):
        inner[labels == cluster] = _nested(vectors[labels == cluster], sizes[1:], rng)
    return np.column_stack([labels, inner])
