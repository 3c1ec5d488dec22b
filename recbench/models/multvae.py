"""Mult-VAE: a variational autoencoder of a user's items (Liang et al., WWW 2018).

The normalised bag of items goes through tanh(600) into a normal distribution over 200 numbers; a draw of it,
in requests its mean, goes through tanh(600) to a score per item, and the bag is a multinomial draw of their
softmax. The weight of the KL term grows from 0 to less than 1. Whoever asks is known by the history alone, so
strangers and newer items need nothing special.

What differs from the authors' code: the first layer is a weighted sum of rows, no product with a row of the
catalogue's width; the likelihood is stated as what it lacks of the best possible (see `BagSoftmax`). A bag is
a training window with its target: all of a user's training items unless they are more than the data
module's `max_len` + 1: then they make several bags, as those of 6 in 1,000 users of Beauty and 2 of Sports
do. B users, L items of a bag, H hidden, D latent, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import DotScorer, Paper, Recipe, at_least
from recbench.nn.bags import BagSoftmax, distinct, training_bag
from recbench.nn.dropout import Dropout, check_rate

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog


class MultVAE(DotScorer):
    """Variational autoencoder with a multinomial likelihood (Liang et al., WWW 2018).

    Args:
        dim: width of the latent vector.
        hidden: width of the layer on either side of it.
        dropout: share of a bag's items that training hides from the encoder.
        kl_weight: of the KL term after annealing; beta of the paper.
        annealing_steps: steps over which it grows from 0; 0 to have it from the start.
        halves_products: do the three products with the catalogue in bfloat16, where the machine has it; sums
            stay in float32.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Variational Autoencoders for Collaborative Filtering",
        "WWW",
        2018,
        "https://arxiv.org/abs/1802.05814",
    )

    def __init__(
        self,
        *,
        dim: int = 200,
        hidden: int = 600,
        dropout: float = 0.5,
        kl_weight: float = 0.2,
        annealing_steps: int = 2000,
        halves_products: bool = True,
        recipe: Recipe = Recipe(batch_size=512),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim, hidden=hidden)
        at_least(0, annealing_steps=annealing_steps)
        check_rate(dropout)
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight must be 0 or more, got {kl_weight:g}")
        self.dim, self.hidden, self.dropout = dim, hidden, dropout
        self.kl_weight, self.annealing_steps = kl_weight, annealing_steps
        self.halves_products, self.likelihood = halves_products, BagSoftmax(half=halves_products)

    def build(self, catalog: Catalog) -> None:
        """[N -> 600 -> 200 -> 600 -> N]; the last column of the output is its bias."""
        self.input = nn.Embedding(catalog.num_items + 1, self.hidden, padding_idx=0)
        self.input_bias = nn.Parameter(torch.zeros(self.hidden))
        self.input_dropout = Dropout(self.dropout)
        self.to_latent = nn.Linear(self.hidden, 2 * self.dim)
        self.from_latent = nn.Linear(self.dim, self.hidden)
        self.output = nn.Parameter(torch.zeros(catalog.num_items + 1, self.hidden + 1))
        with torch.no_grad():
            for weights in (self.to_latent.weight, self.from_latent.weight):
                nn.init.xavier_normal_(weights)
            for layer in (self.to_latent, self.from_latent):
                nn.init.zeros_(layer.bias)
            nn.init.xavier_normal_(self.input.weight[1:])
            nn.init.xavier_normal_(self.output[1:, :-1])

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Negative evidence bound, Eq. 5 with the KL term's weight of Sec. 2.2.2, mean over users."""
        bag = training_bag(batch)
        mean, log_variance = self._posterior(bag)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        per_item = self.likelihood(self._decode(latent), bag, self.output)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return (per_item * (bag != 0).sum() + self._current_kl_weight() * divergence) / len(bag)

    def latent(self, bag: Tensor) -> Tensor:
        """(B, L) different items, 0 where fewer -> (B, D) where their owners are placed."""
        return self._posterior(bag)[0]

    def placed(self, latent: Tensor) -> Tensor:
        """(B, D) -> (B, H) the same among the output layer's vectors of items."""
        return self._decode(latent)[:, :-1]

    def encode(self, batch: SequenceBatch) -> Tensor:
        """(B, H + 1): the decoder's last layer at the mean, and the 1 that meets the bias."""
        return self._decode(self._posterior(distinct(batch.history))[0])

    def item_vectors(self) -> Tensor:
        """The output layer, bias included."""
        return self.output

    def _current_kl_weight(self) -> float:
        if self.global_step >= self.annealing_steps:
            return self.kl_weight
        return self.kl_weight * self.global_step / self.annealing_steps

    def _posterior(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) bags -> (B, D) mean and logarithm of the variance."""
        is_item = (bag != 0).float()
        strength = self.input_dropout(is_item / is_item.sum(1, keepdim=True).clamp_min(1).sqrt())
        total = F.embedding_bag(
            bag, self.input.weight, per_sample_weights=strength.to(self.input.weight.dtype), mode="sum"
        )
        mean, log_variance = self.to_latent(torch.tanh(total + self.input_bias)).chunk(2, dim=1)
        return mean, log_variance

    def _decode(self, latent: Tensor) -> Tensor:
        return F.pad(torch.tanh(self.from_latent(latent)), (0, 1), value=1.0)
