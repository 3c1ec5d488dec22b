"""Generator: what methods share that write the next item, a few codes long, instead of scoring every item.

B users, N items, T codes of an item, V tokens of the code vocabulary, K beams.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from recbench.models.base import ListRecommender, Ranking, Recipe, Stage, at_least
from recbench.nn.beam import Decoder, Trie, beam_search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.nn.item_codes import ItemCodes


class Generator(ListRecommender):
    """A language model over item codes; recommends by a beam search that can only write real items.

    Its list is as long as the search is wide: an item that is not among the beams has no rank, and a target
    among those is a miss.

    Subclasses create their weights in `build`, after `super().build(catalog)`, which sets `num_tokens`.

    Args:
        codes: how items are written; never how they are numbered.
        num_beams: width of the search, and length of the list that is evaluated.
        recipe: how it is trained.
    """

    # users searched at once: their beams' caches stay small whatever the evaluation batch
    rows_per_block: ClassVar[int] = 256

    def __init__(self, *, codes: ItemCodes, num_beams: int, recipe: Recipe) -> None:
        super().__init__(recipe)
        at_least(1, num_beams=num_beams)
        self.codes, self.num_beams = codes, num_beams

    @property
    def track(self) -> str:
        """What sets its figures apart: `leaky` where the codes tell the targets."""
        return "leaky" if self.codes.reads_targets else ""

    def build(self, catalog: Catalog) -> None:
        """Room for the items' codes."""
        num_codes, self.num_tokens = self.codes.shape(catalog.num_items)
        self.trie = Trie(catalog.num_items, num_codes=num_codes)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Write the items, then train."""
        self.write_items(data)
        yield Stage("train", self, data, self.recipe)

    def write_items(self, data: InteractionData) -> None:
        """Give every item its codes, from what may be trained on unless they are meant to leak."""
        sequences = data.sequences if self.codes.reads_targets else data.train_sequences()
        self.trie.fill(torch.from_numpy(self.codes.write(data.catalog, sequences)))

    @property
    def item_tokens(self) -> Tensor:
        """(N + 1, T) codes of the items, row 0 all PAD."""
        return self.trie.codes

    @abstractmethod
    def decoder(self, batch: SequenceBatch) -> Decoder:
        """What writes the next item of every user of the batch."""

    @property
    def list_length(self) -> int:
        """As many as beams."""
        return self.num_beams

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` items by log-probability, a block of users at a time; item 0 and -inf for none."""
        found = []
        with torch.autocast(batch.history.device.type, enabled=False):  # half precision ties what differs
            for start in range(0, len(batch), self.rows_per_block):
                part = batch.rows(slice(start, start + self.rows_per_block))
                found.append(
                    beam_search(
                        self.decoder(part),
                        self.trie,
                        num_beams=max(k, self.num_beams),
                        num_items=k,
                        seen=part.seen,
                        allowed=part.allowed,
                    )
                )
        return Ranking(*(torch.cat(column) for column in zip(*found, strict=True)))
