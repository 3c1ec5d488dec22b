"""SURGE without a target: the interest graph asked with the newest item (after Chang et al., SIGIR 2021).

SURGE reads a history anew for every candidate (`surge`), and no index of item vectors can serve that. Here
the newest item asks in the candidate's place: its attention says which nodes of the graph fit and moves the
gates of the recurrence, and a linear map of the recurrence's last state and the graph's readout is the user
vector. Full ranking is an inner product; this is the form that CDA4Rec needs on a device.

The graph joins items both ways, so only the newest state may learn, one sample per prefix; other recipes are
refused. Pooling begins above `pool_len` items: for histories of about eight, as on Amazon, nothing is pooled
and the method is attention along a graph and a GRU. What differs from the authors' code is said in `surge`.
B users, L history, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from recbench.models.base import Paper, Recipe
from recbench.models.causal import CausalScorer, check_prefixes
from recbench.nn.interest_reader import InterestReader, Reading
from recbench.nn.losses import Loss  # noqa: TC001 - the command line reads the annotation

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog


class SurgeTF(CausalScorer):
    """The interest graph of a history, asked with its newest item (after Chang et al., SIGIR 2021).

    Args:
        dim: width of item embeddings.
        hidden: width of the recurrent state.
        attention_hidden: width of the attentions' first layer; the second has half of it.
        keep_rate: share of a history's pairs of items that the graph joins, 0 excluded to 1.
        pool_len: most nodes that pooling leaves.
        dropout: on state and readout.
        embedding_dropout: on the item embeddings that are fused.
        max_len: most recent items that are looked at.
        loss: how user vectors are pulled towards their next items.
        recipe: how it is trained; its samples must be prefixes.
    """

    paper: ClassVar[Paper] = Paper(
        "Sequential Recommendation with Graph Neural Networks",
        "SIGIR",
        2021,
        "https://arxiv.org/abs/2106.14226",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        hidden: int = 64,
        attention_hidden: int = 32,
        keep_rate: float = 0.5,
        pool_len: int = 30,
        dropout: float = 0.2,
        embedding_dropout: float = 0.5,
        max_len: int = 50,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(loss=loss, recipe=recipe)
        check_prefixes(recipe, what="the graph joins items both ways")
        self.reading = Reading(
            dim=dim,
            hidden=hidden,
            attention_hidden=attention_hidden,
            keep_rate=keep_rate,
            pool_len=pool_len,
            dropout=dropout,
            embedding_dropout=embedding_dropout,
            max_len=max_len,
        )

    def build(self, catalog: Catalog) -> None:
        """Item table and what reads histories."""
        self.items = self.reading.item_table(catalog.num_items)
        self.reader = InterestReader(self.reading)

    def hidden_states(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, 1, D): the one state there is, of the newest `max_len` items."""
        out: Tensor = self.reader(history, self.items).user[:, None]
        return out
