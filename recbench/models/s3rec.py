"""S3-Rec: pre-training on what items, attributes and segments say of each other (Zhou et al., CIKM 2020).

An encoder that looks both ways first learns four things at once; then it is fine-tuned as a causal SASRec
that predicts the next item. B users, L window, D width, N items, T tags, P masked positions.

What differs from the authors' code: a masked item is told from all items and a segment from those of the
batch, instead of from one random negative (theirs is cut out of whole histories, test items and all);
associated attributes are predicted from the item embedding, as in Eq. 5, and not from encoded positions; each
objective is a mean over what it predicts, so that its weight does not depend on how many positions that is;
samples are windows, not prefixes. Pre-training keeps the epoch that best ranks the validation item, which is
a masked item at a request's place, where theirs runs a fixed number of epochs. Blocks are pre-norm and
fine-tuning takes a softmax over the catalogue, as our SASRec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import DotScorer, Paper, Recipe, Stage, at_least
from recbench.models.causal import BlockScorer, initialise
from recbench.nn.attention import causal_mask, check_heads, padding_mask
from recbench.nn.dropout import check_rate
from recbench.nn.encoder import SequenceEncoder
from recbench.nn.features import ItemTags, item_tags
from recbench.nn.losses import FullSoftmax, Loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData

PAPER = Paper(
    "S3-Rec: Self-Supervised Learning for Sequential Recommendation with Mutual Information Maximization",
    "CIKM",
    2020,
    "https://arxiv.org/abs/2008.07873",
)


@dataclass(frozen=True)
class Objectives:
    """What pre-training weighs, Sec. 4.

    Args:
        associated_attributes: weight of predicting an item's tags from its embedding (AAP).
        masked_items: weight of predicting masked items from both sides (MIP).
        masked_attributes: weight of predicting the tags of masked items (MAP).
        segments: weight of telling a masked segment from those of other users (SP).
        mask_rate: share of a window's items that are masked; its newest one always is.
    """

    associated_attributes: float = 0.2
    masked_items: float = 1.0
    masked_attributes: float = 1.0
    segments: float = 0.5
    mask_rate: float = 0.2

    def __post_init__(self) -> None:
        weights = (self.associated_attributes, self.masked_items, self.masked_attributes, self.segments)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f"weights must be 0 or more and one of them above, got {weights}")
        if not 0 <= self.mask_rate < 1:
            raise ValueError(f"mask_rate must lie in 0..1, 1 excluded, got {self.mask_rate}")


class S3Rec(BlockScorer):
    """Pre-training on items, attributes and segments, then SASRec (Zhou et al., CIKM 2020).

    Args:
        dim: width of item embeddings.
        num_layers: attention blocks.
        num_heads: heads per block.
        hidden: width inside the feed-forward; the paper takes 4 `dim`.
        dropout: on attention weights and sublayers.
        embedding_dropout: on the normalised sum of item and position.
        max_len: most recent items that are looked at.
        objectives: weights and masking of pre-training.
        pretraining: how the encoder is pre-trained.
        loss: how hidden states are pulled towards their next items in fine-tuning.
        recipe: how it is fine-tuned.
    """

    paper: ClassVar[Paper] = PAPER

    def __init__(
        self,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        hidden: int = 256,
        dropout: float = 0.5,
        embedding_dropout: float = 0.5,
        max_len: int = 50,
        objectives: Objectives = Objectives(),
        pretraining: Recipe = Recipe(max_epochs=20),
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe)
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        check_heads(dim, num_heads)
        check_rate(dropout)
        check_rate(embedding_dropout)
        self.dim, self.num_layers, self.num_heads, self.hidden = dim, num_layers, num_heads, hidden
        self.dropout, self.embedding_dropout = dropout, embedding_dropout
        self.max_len = max_len
        self.objectives, self.pretraining = objectives, pretraining

    def build(self, catalog: Catalog) -> None:
        """Item table and encoder: all that is left of the method once it is trained."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        self.encoder = SequenceEncoder(
            self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            hidden=self.hidden,
            dropout=self.dropout,
            embedding_dropout=self.embedding_dropout,
            max_len=self.max_len + 1,  # pre-training sees history and target
        )
        self.apply(initialise)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Pre-train item table and encoder both ways (Sec. 4.2-4.5), then fine-tune them causally (Sec. 4.6).

        Raises:
            UsageError: the data set has no tags.
        """
        tags = item_tags(data.catalog, wanted_by="s3rec")
        pretraining = Pretraining(self.items, self.encoder, tags, self.objectives, recipe=self.pretraining)
        pretraining.build(data.catalog)
        yield Stage("pretrain", pretraining, data, self.pretraining)
        yield Stage("train", self, data, self.recipe)

    def run_blocks(self, history: Tensor, *, newest_only: bool) -> Tensor:
        """(B, L) items -> (B, L, D) states."""
        out: Tensor = self.encoder(self.items(history), causal_mask(history), newest_only=newest_only)
        return out


class Pretraining(DotScorer):
    """The four objectives over a table and an encoder that somebody else keeps.

    It recommends what it takes the mask after a history to be, which is how its epochs are compared.

    Args:
        items: the item table, trained in place.
        encoder: trained in place.
        tags: of every item.
        objectives: weights and masking.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = PAPER
    recipe_option: ClassVar[str] = "pretraining"
    ids: Tensor

    def __init__(
        self,
        items: nn.Embedding,
        encoder: SequenceEncoder,
        tags: ItemTags,
        objectives: Objectives,
        *,
        recipe: Recipe,
    ) -> None:
        super().__init__(recipe)
        self.items, self.encoder, self.objectives = items, encoder, objectives
        self.max_len = encoder.places.num_embeddings - 1
        self.num_tags = len(tags.names)
        self.register_buffer("ids", tags.ids.long())

    def build(self, catalog: Catalog) -> None:  # noqa: ARG002 - items and tags are given
        """The mask, the tags, and a bilinear form per objective."""
        dim = self.items.embedding_dim
        self.mask = nn.Embedding(1, dim)
        self.tags = nn.Embedding(self.num_tags + 1, dim, padding_idx=0)
        forms = [nn.Linear(dim, dim, bias=False) for _ in range(4)]
        for module in (self.mask, self.tags, *forms):
            initialise(module)
        self.associated, self.masked_item, self.masked_tag, self.segment = forms

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The weighted sum of the four."""
        window = torch.cat([batch.history, batch.target[:, None]], dim=1)[:, -self.max_len - 1 :]
        weights = self.objectives
        is_masked = draw_masks(window, weights.mask_rate)
        states, guessed = self._states(window, is_masked)[is_masked], window[is_masked]  # (P, D), (P,)
        present = torch.unique(window)
        present = present[present != 0]
        return (
            weights.associated_attributes * self._tag_loss(self.associated(self.items(present)), present)
            + weights.masked_items * FullSoftmax()(self.masked_item(states), guessed, self.items.weight)
            + weights.masked_attributes * self._tag_loss(self.masked_tag(states), guessed)
            + weights.segments * self._segment_loss(window)
        )

    def encode(self, batch: SequenceBatch) -> Tensor:
        """What the mask after the newest item stands for."""
        window = F.pad(batch.history[:, -self.max_len :], (0, 1), value=1)  # any item: it is masked
        is_masked = torch.zeros_like(window, dtype=torch.bool)
        is_masked[:, -1] = True
        user: Tensor = self.masked_item(self._states(window, is_masked, newest_only=True)[:, -1])
        return user

    def item_vectors(self) -> Tensor:
        """The item table, shared by input and output."""
        return self.items.weight

    def _states(self, window: Tensor, is_masked: Tensor, *, newest_only: bool = False) -> Tensor:
        """(B, L, D) states of `window` where it can be seen and of masks where it cannot."""
        x = torch.where(is_masked[..., None], self.mask.weight, self.items(window))
        states: Tensor = self.encoder(x, padding_mask(window), newest_only=newest_only)
        return states

    def _tag_loss(self, states: Tensor, items: Tensor) -> Tensor:
        """Eq. 5 and 9: whether each tag is one of the item's, summed over tags, averaged over items."""
        return tag_loss(states @ self.tags.weight.T, self.ids[items])

    def _segment_loss(self, window: Tensor) -> Tensor:
        """Eq. 11: the window without a segment finds that segment among those of the batch."""
        inside = draw_segments(window)
        views = torch.cat([inside, ~inside & (window != 0)])
        around, segment = self._states(window.repeat(2, 1), views, newest_only=True)[:, -1].chunk(2)
        scores = self.segment(around) @ segment.T  # (B, B)
        return F.cross_entropy(scores, torch.arange(len(window), device=window.device))


def tag_loss(scores: Tensor, tags: Tensor) -> Tensor:
    """Binary cross entropy over all tags, summed over them and averaged over rows.

    Args:
        scores: (P, T + 1) logits; column 0 is padding.
        tags: (P, K) the tags that are there, 0-padded, none twice.
    """
    there = (scores.gather(1, tags) * (tags != 0)).sum(1)
    return (F.softplus(scores[:, 1:]).sum(1) - there).mean()


def draw_masks(window: Tensor, rate: float) -> Tensor:
    """(B, L) True at the items to guess: of each window the newest, and others with probability `rate`."""
    is_masked = (torch.rand(window.shape, device=window.device) < rate) & (window != 0)
    is_masked[:, -1] = True
    return is_masked


def draw_segments(window: Tensor) -> Tensor:
    """(B, L) True in a run of items of each window: at least one, at most half of them, drawn uniformly."""
    real = window != 0
    count = real.sum(1, keepdim=True)
    size = 1 + (torch.rand(count.shape, device=window.device) * (count // 2)).long()
    size = size.minimum((count // 2).clamp_min(1))
    start = (torch.rand(count.shape, device=window.device) * (count - size + 1)).long().minimum(count - size)
    place = real.cumsum(1) - 1
    return real & (place >= start) & (place < start + size)
