"""Codes that items with alike descriptions share (semantic ids of TIGER, Rajput et al., NeurIPS 2023).

A text vector is quantised to its nearest centre, what is missing to it to the nearest of the next level's
centres, and so on; a last code tells items apart that share the others. What differs from the paper: text
vectors are TF-IDF and not Sentence-T5, and levels are k-means of the residuals (by faiss) and not an RQ-VAE.
The last code has as few values as the room needs; if more items share a prefix, the farthest get the next
nearest centre.

N items, D width, L levels, K centres of a level.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.sparse import csr_matrix, diags

from recbench.errors import UsageError
from recbench.nn.item_codes.base import FIRST, ItemCodes, as_tokens, root
from recbench.nn.item_codes.clusters import assign, distances, row_vectors, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.catalog import Catalog
    from recbench.data.sequences import Sequences
TEXT_FEATURES = ("title", "brand", "tags")
MOST_CENTRES, MOST_ALIKE = 256, 256  # as in the paper's three levels and its fourth code


class Semantic(ItemCodes):
    """Residual quantisation of text vectors, and a code for items that are still alike.

    Args:
        num_levels: L; there is one code more.
        num_centres: K; the root of the number of items, 256 at most, if not given.
        encoder: what makes vectors of title, brand and tags.
        dim: width of the vectors.
        seed: decides where clustering begins.
    """

    def __init__(
        self,
        *,
        num_levels: int = 3,
        num_centres: int | None = None,
        encoder: Literal["tfidf"] = "tfidf",
        dim: int = 64,
        seed: int = 0,
    ) -> None:
        for name, value in (("num_levels", num_levels), ("num_centres", num_centres), ("dim", dim)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.num_levels, self.num_centres = num_levels, num_centres
        self.encoder: Literal["tfidf"] = encoder
        self.dim, self.seed = dim, seed

    def shape(self, num_items: int) -> tuple[int, int]:
        """(L + 1, L K tokens of the levels, those that tell alike items apart, and 2)."""
        return self.num_levels + 1, FIRST + sum(self._sizes(num_items))

    def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:  # noqa: ARG002
        """Centres level by level, then the place among those that share them."""
        sizes = self._sizes(catalog.num_items)
        vectors = text_vectors(catalog, dim=self.dim, seed=self.seed)
        values = np.zeros((len(vectors), len(sizes)), dtype=np.int64)
        group = np.zeros(len(vectors), dtype=np.int64)  # what the codes so far tell apart
        for level, size in enumerate(sizes[:-1]):
            centres = _centres(vectors, size, seed=self.seed + level)
            room = math.prod(sizes[level + 1 :])
            for members in _groups(group):
                values[members, level] = assign(distances(vectors[members], centres), room)
            vectors = vectors - centres[values[:, level]]
            group = np.unique(group * size + values[:, level], return_inverse=True)[1]
        for members in _groups(group):
            values[members, -1] = np.arange(len(members))
        return as_tokens(values, sizes)

    def _sizes(self, num_items: int) -> tuple[int, ...]:
        num_centres = self.num_centres or min(MOST_CENTRES, root(num_items, 2))
        num_alike = max(min(MOST_ALIKE, num_items), -(-num_items // num_centres**self.num_levels))
        return *(num_centres,) * self.num_levels, num_alike


def text_vectors(catalog: Catalog, *, dim: int, seed: int) -> NDArray[np.float64]:
    """(N, D) unit vectors of what is written about the items: TF-IDF, projected on its singular vectors.

    Raises:
        LookupError: the data set has neither titles nor brands nor tags.
    """
    terms = _terms(catalog)
    rows = [item for item, words in enumerate(terms) for _ in words]
    vocabulary = {word: column for column, word in enumerate(sorted(set().union(*terms)))}
    columns = [vocabulary[word] for words in terms for word in words]
    counts = [count for words in terms for count in words.values()]
    matrix = csr_matrix(
        (counts, (rows, columns)), shape=(len(terms), max(1, len(vocabulary))), dtype=np.float64
    )
    frequency = np.bincount(columns, minlength=matrix.shape[1])
    weighted = matrix @ diags(np.log((1 + len(terms)) / (1 + frequency)))
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    scaled = diags(1 / np.where(length > 0, length, 1)) @ weighted
    return unit(row_vectors(scaled.tocsr(), dim=dim, seed=seed))


def _terms(catalog: Catalog) -> list[Counter[str]]:
    """(N,) how often each word of an item's title and brand occurs; a tag is one word however many it has."""
    known = [name for name in TEXT_FEATURES if name in catalog.features]
    if not known:
        raise LookupError(
            f"semantic codes need one of {', '.join(TEXT_FEATURES)}, but this data set's item features are: "
            f"{', '.join(catalog.features) or 'none'}; take codes that need no text, such as Collaborative"
        )
    terms: list[Counter[str]] = [Counter() for _ in range(catalog.num_items)]
    for name, texts in (("title", catalog.titles), ("brand", catalog.brands)):
        for words, text in zip(terms, texts() if name in known else (), strict=False):
            words.update(re.findall(r"\w+", (text or "").lower()))
    for words, tags in zip(terms, catalog.tags() if "tags" in known else (), strict=False):
        words.update(f"tag {tag.lower()}" for tag in tags)
    return terms


def _groups(labels: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """The rows of each label, ascending."""
    order = labels.argsort(kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _centres(vectors: NDArray[np.float64], num_centres: int, *, seed: int) -> NDArray[np.float64]:
    """(K, D) centres of the vectors by faiss, on one thread: then they are the same on any machine's cores.

    Raises:
        UsageError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UsageError("semantic codes need faiss: pip install 'recbench-suite[llm]'") from error
    distinct = np.unique(vectors, axis=0)
    if len(distinct) <= num_centres:  # no clustering to do, and faiss refuses more centres than rows
        return np.concatenate([distinct, np.repeat(distinct[:1], num_centres - len(distinct), axis=0)])
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        kmeans = faiss.Kmeans(
            vectors.shape[1], num_centres, seed=seed, min_points_per_centroid=1, max_points_per_centroid=10**9
        )
        kmeans.train(vectors.astype(np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(kmeans.centroids, dtype=np.float64)
