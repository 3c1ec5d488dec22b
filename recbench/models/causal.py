"""CausalScorer: what encoders of the history share, whatever they are made of.

B users, L history, D width, N items, P samples.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from recbench.models.base import DotScorer, Recipe, Stage, require_prefixes
from recbench.nn.losses import FullSoftmax, Loss
from recbench.nn.semantics import begin_with_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.nn.lm_options import LanguageModelOptions


class CausalScorer(DotScorer):
    """A state per position of the history, which has seen the items up to its own, meets the item table.

    Where the recipe's samples are positions, every real position of a window learns its next item at once.
    Where they are prefixes, a batch holds histories cut at every place, and only the newest state of each
    learns: the one way to train an encoder that mixes positions both ways (a Fourier filter), and what makes
    places that count back from the newest item mean the same in training as in a request.

    Subclasses set `items` in `build`, an embedding whose row 0 is padding.

    Args:
        loss: how states are pulled towards their next items; softmax over the catalogue when None.
        recipe: how it is trained.
        table_from: the language model whose view of the item texts the item table begins as; random numbers
            when None.
    """

    items: nn.Embedding

    def __init__(
        self, *, loss: Loss | None, recipe: Recipe, table_from: LanguageModelOptions | None = None
    ) -> None:
        super().__init__(recipe)
        self.criterion = loss or FullSoftmax()
        self.table_from = table_from

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Read the items' texts, where the table begins with them; then train."""
        if self.table_from is not None:
            lm = self.table_from
            yield Stage("read", self, data, solve=lambda: begin_with_texts(self.items, lm, data.catalog))
        yield from super().stages(data)

    @abstractmethod
    def hidden_states(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, L', D) states, L' at most L: the newest ones, right-aligned."""

    def newest_state(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, D): the last of `hidden_states`; override where it comes cheaper alone."""
        return self.hidden_states(history)[:, -1]

    def states_of(self, batch: SequenceBatch) -> Tensor:
        """`hidden_states` of a batch; override where more than its items is read, such as its times."""
        return self.hidden_states(batch.history)

    def newest_of(self, batch: SequenceBatch) -> Tensor:
        """`newest_state` of a batch; override together with `states_of`."""
        return self.newest_state(batch.history)

    @torch.no_grad()
    def fixed_state(self, batch: SequenceBatch) -> Tensor:
        """(B, D) `newest_of` as in service, for what is trained upon an encoder that learns no more."""
        self.eval()
        return self.newest_of(batch)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every sample learns the item that comes next."""
        if self.recipe.samples == "prefixes":
            return self.criterion(self.newest_of(batch), batch.target, self.items.weight)
        hidden = self.states_of(batch)
        length = hidden.shape[1]
        real = batch.history[:, -length:] != 0
        target = batch.next_items()[:, -length:]
        return self.criterion(hidden[real], target[real], self.items.weight)

    def encode(self, batch: SequenceBatch) -> Tensor:
        """The state after the newest item, of length 1 where the loss compares by cosine."""
        return self.criterion.compared(self.newest_of(batch))

    def item_vectors(self) -> Tensor:
        """The item table, shared by input and output; rows of length 1 where the loss compares by cosine."""
        return self.criterion.compared(self.items.weight)


class BlockScorer(CausalScorer):
    """Blocks over the newest items, of which the last one can be asked for the newest position alone.

    Subclasses set `max_len`, the most recent items that are looked at.
    """

    max_len: int

    @abstractmethod
    def run_blocks(self, history: Tensor, *, newest_only: bool) -> Tensor:
        """(B, L) items, L at most `max_len` -> (B, L, D) states; with `newest_only` (B, 1, D), the last."""

    def hidden_states(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, L', D) states of the newest `max_len` items."""
        return self.run_blocks(history[:, -self.max_len :], newest_only=False)

    def newest_state(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, D); the last block computes one position only."""
        return self.run_blocks(history[:, -self.max_len :], newest_only=True)[:, -1]


def check_prefixes(recipe: Recipe, *, what: str) -> None:
    """Refuse samples of which every position learns, for encoders that look both ways.

    Raises:
        ValueError: the recipe's samples are not prefixes; `what` says how a state would see its target.
    """
    require_prefixes(recipe, f"{what}, so a state inside a window has seen its own target")


def initialise(module: nn.Module) -> None:
    """Normal(0, 0.02), as BERT and its heirs; linear biases and padding rows at zero; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
