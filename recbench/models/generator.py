"""Generator: what methods share that write the next item, a few codes long, instead of scoring every item.

B users, N items, T codes of an item, V tokens of the code vocabulary, K beams.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from recbench.models.base import ListRecommender, Ranking, Recipe, Stage, at_least
from recbench.nn.beam import Decoder, Found, Trie, beam_search
from recbench.nn.free_search import FreelyFound, free_search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.nn.item_codes import ItemCodes
    from recbench.nn.ranking import TargetRanks


Decoding = Literal["constrained", "free"]


class Generator(ListRecommender):
    """A language model over item codes; recommends by a beam search that can only write real items.

    Its list is as long as the search is wide: an item that is not among the beams has no rank, and a target
    among those is a miss. Free decoding, in which nothing holds the search to real items, exists to be
    compared with published figures: what is no item takes a place in the list that is evaluated, and so do
    items written twice or seen before; what is recommended has none of these.

    Subclasses create their weights in `build`, after `super().build(catalog)`, which sets `num_tokens`.

    Args:
        codes: how items are written; never how they are numbered.
        num_beams: width of the search, and length of the list that is evaluated.
        recipe: how it is trained.
        decoding: whether the search is constrained to real items.
    """

    # users searched at once: their beams' caches stay small whatever the evaluation batch
    rows_per_block: ClassVar[int] = 256

    def __init__(
        self, *, codes: ItemCodes, num_beams: int, recipe: Recipe, decoding: Decoding = "constrained"
    ) -> None:
        super().__init__(recipe)
        at_least(1, num_beams=num_beams)
        self.codes, self.num_beams, self.decoding = codes, num_beams, decoding
        self._forget()

    @property
    def track(self) -> str:
        """What sets its figures apart: `leaky` where the codes tell the targets, `free` decoding."""
        marks = {"leaky": self.codes.reads_targets, "free": self.decoding == "free"}
        return "-".join(mark for mark, is_so in marks.items() if is_so)

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
        num_beams = max(k, self.num_beams)
        if self.decoding == "free":
            written = self._write_freely(batch, num_beams)
            return Ranking(*written.shown(k, seen=batch.seen, allowed=batch.allowed))

        def search(part: SequenceBatch) -> Found:
            return beam_search(
                self.decoder(part),
                self.trie,
                num_beams=num_beams,
                num_items=k,
                seen=part.seen,
                allowed=part.allowed,
            )

        return Ranking(*self._in_blocks(batch, search))

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Places in the list; in what was written freely, places of strings."""
        if self.decoding == "constrained":
            return super().target_ranks(batch)
        written = self._write_freely(batch, self.num_beams)
        self._num_asked += len(batch)
        self._num_invalid += float(written.invalid_rate.sum())
        self._num_repeated += float(written.duplicate_rate.sum())
        return written.ranked(batch.target)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics; what is counted from here on is of the requests after training."""
        super().on_validation_epoch_end()
        self._forget()

    def notes(self) -> tuple[str, ...]:
        """How much of what was written freely is no item, or one once more."""
        if not self._num_asked:
            return ()
        invalid, repeated = self._num_invalid / self._num_asked, self._num_repeated / self._num_asked
        return (
            f"free decoding: {invalid:.2%} of the places hold no item, {repeated:.2%} one that has a better "
            "place",
        )

    def _write_freely(self, batch: SequenceBatch, num_beams: int) -> FreelyFound:
        def search(part: SequenceBatch) -> FreelyFound:
            return free_search(self.decoder(part), self.codes, self.item_tokens, num_beams=num_beams)

        return FreelyFound(*self._in_blocks(batch, search))

    def _in_blocks(
        self, batch: SequenceBatch, search: Callable[[SequenceBatch], tuple[Tensor, ...]]
    ) -> Iterator[Tensor]:
        """What `search` finds for every block of users, columns joined."""
        starts = range(0, len(batch), self.rows_per_block)
        with torch.autocast(batch.history.device.type, enabled=False):  # half precision ties what differs
            found = [search(batch.rows(slice(start, start + self.rows_per_block))) for start in starts]
        return (torch.cat(column) for column in zip(*found, strict=True))

    def _forget(self) -> None:
        """Begin to count anew what is written freely: users, and their shares of lost places."""
        self._num_asked, self._num_invalid, self._num_repeated = 0, 0.0, 0.0
