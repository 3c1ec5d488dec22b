"""What a language model knows of items, in few numbers: mean-pooled texts, projected (CDA4Rec, Eq. 1).

N items, E width of the language model, S width of the projection, n texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from recbench.errors import UsageError
from recbench.nn.language_model import LanguageModel

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.catalog import Catalog
    from recbench.nn.lm_options import LanguageModelOptions

# of the table's numbers in the beginning. SASRec's validation NDCG@10 on Beauty is .0762 with .02, .0789 with
# .1, and with .3, after two epochs, .038 instead of .060.
DEVIATION = 0.1


def item_texts(catalog: Catalog) -> list[str]:
    """(N,) what is written about each item: its text, else its title, else its tags; perhaps nothing.

    Raises:
        UsageError: nothing is written about any item.
    """
    known = set(catalog.features) & {"text", "title", "tags"}
    if not known:
        raise UsageError(
            f"a language model needs item text, but this data set's item features are: "
            f"{', '.join(catalog.features) or 'none'}; take a data set with titles or tags"
        )
    found = [""] * catalog.num_items
    if "tags" in known:
        found = [", ".join(tags) for tags in catalog.tags()]
    for name, texts in (("title", catalog.titles), ("text", catalog.texts)):
        if name in known:
            found = [text or old for text, old in zip(texts(), found, strict=True)]
    return found


class Projection(nn.Module):
    """Principal components of the item texts' vectors; whatever else is projected goes through the same map.

    Args:
        width: E.
        dim: S; components that the items do not have are zero.
    """

    mean: Tensor  # (E,)
    components: Tensor  # (E, S)

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(width, dim))

    def fit(self, vectors: NDArray[np.float32]) -> None:
        """Take mean and leading components from (N, E) vectors, in 64 bits, signs always the same."""
        exact = vectors.astype(np.float64)
        mean = exact.mean(0)
        centred = exact - mean
        values, basis = np.linalg.eigh(centred.T @ centred)  # E is some hundreds, N some ten thousands
        order = np.argsort(-values, kind="stable")[: self.components.shape[1]]
        chosen = basis[:, order] * np.sign(basis[np.abs(basis[:, order]).argmax(0), order])
        self.mean.copy_(torch.from_numpy(mean))
        self.components.zero_()
        self.components[:, : chosen.shape[1]] = torch.from_numpy(chosen)

    def forward(self, vectors: NDArray[np.float32] | Tensor) -> Tensor:
        """(n, E) -> (n, S)."""
        given = torch.as_tensor(vectors, dtype=self.mean.dtype, device=self.mean.device)
        return (given - self.mean) @ self.components


@torch.no_grad()
def begin_with_texts(table: nn.Embedding, lm: LanguageModelOptions, catalog: Catalog) -> None:
    """Set rows 1..N of a fresh item table to the item texts' components, each of deviation `DEVIATION`.

    The leading ones come first; columns for which there are no components stay as they are.

    Args:
        table: (N + 1, D), row 0 for padding.
        lm: reads the texts.
        catalog: has them.

    Raises:
        UsageError: nothing is written about any item.
        ResourceError: the language model's weights are not here.
    """
    vectors = LanguageModel(lm).embed(item_texts(catalog))
    projection = Projection(vectors.shape[1], table.embedding_dim)
    projection.fit(vectors)
    found = whitened(projection(vectors), scale=DEVIATION).to(table.weight.device)
    is_there = found.abs().sum(0) > 0
    table.weight[1:, is_there] = found[:, is_there]


def whitened(vectors: Tensor, *, scale: float) -> Tensor:
    """(n, S) the same with each column of deviation `scale`: what an embedding table can begin as."""
    deviation = vectors.std(0, keepdim=True)
    centred = vectors - vectors.mean(0, keepdim=True)
    return scale * centred / torch.where(deviation > 0, deviation, 1.0)
