"""KeptTexts: what a cloud read at the training moments, for each of several lags, made once and kept.

U users in all, B of a batch, K lags, S width of projected texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recbench.models.base import Ranking, Recipe, Recommender

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.nn.ranking import TargetRanks


class KeptTexts(Recommender):
    """A table that is a stage of its own, so that what is trained upon it need not hold it.

    Args:
        num_users: U.
        num_lags: K.
        dim: S.
    """

    texts: Tensor  # (U, K, S) in 16 bits

    def __init__(self, num_users: int, num_lags: int, dim: int) -> None:
        super().__init__(Recipe())
        self.register_buffer("texts", torch.zeros(num_users, num_lags, dim, dtype=torch.float16))

    def build(self, catalog: Catalog) -> None:
        """Nothing: there are no weights."""

    def put(self, users: Tensor, place: int, texts: Tensor) -> None:
        """Keep (B, S) vectors of (B,) users for one of the lags."""
        self.texts[users, place] = texts.to(self.texts)

    def at(self, users: Tensor, places: Tensor) -> Tensor:
        """(B, S) of (B,) users, each for the lag at its own place of (B,) `places`."""
        where = self.texts.device
        return self.texts[users.to(where), places.to(where)].to(users.device, torch.float32)

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:  # noqa: ARG002
        """It knows no items."""
        raise TypeError("kept texts recommend nothing; ask the method that learns from them")

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:  # noqa: ARG002
        """It knows no items."""
        raise TypeError("kept texts rank nothing; ask the method that learns from them")
