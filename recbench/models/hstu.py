"""HSTU: pointwise aggregated attention over the history (Zhai et al., ICML 2024).

Softmax attention makes weights that sum to one and so forgets how much of a taste was seen. Here a weight is
SiLU of query times key plus a bias for how far apart the two items are, in places and in time: the sum grows
with what agrees. The sum, normalised, is gated elementwise by a fourth projection of the asking position,
which stands in for the feed-forward of a transformer. States meet items by cosine. B users, L history, D
width, H heads, E width of each of the four projections.

What differs from the authors' code. Time differences are counted from the asking item, not from the one that
follows it, whose time is not known when a recommendation is asked for. Sums are divided by `max_len`, as
theirs by the length they pad to, which here no history is padded to. Embeddings of places are an argument:
theirs count from the oldest item, and where every position of a window learns, the biases of distances are
all that means the same in training as in a request. The norm of the sum learns a scale and a shift. Negatives
are shared by the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.causal import CausalScorer
from recbench.nn.attention import is_unpadded
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.losses import SampledSoftmax

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.nn.losses import Loss

Places = Literal["none", "from_newest", "from_oldest"]


def time_buckets(times: Tensor, *, num_buckets: int) -> Tensor:
    """(B, L) seconds -> (B, L, L) bucket of the time between who asks (row) and what is looked at (column).

    Buckets widen as powers of e ** 0.301, which is 1.35: bucket 0 is up to a second, 37 a day, 49 a month.

    Args:
        times: seconds.
        num_buckets: all longer spans share the last.
    """
    span = (times[:, :, None] - times[:, None, :]).abs().clamp_min(1)
    return (span.float().log() / 0.301).long().clamp_max(num_buckets - 1)


class RelativeBias(nn.Module):
    """A learned number per distance in places, plus one per bucket of distance in time (rab of Eq. 2).

    Args:
        max_distance: distances known, 0 included.
        num_buckets: of time.
    """

    def __init__(self, *, max_distance: int, num_buckets: int) -> None:
        super().__init__()
        self.distance = nn.Parameter(torch.empty(max_distance).normal_(std=0.02))
        self.time = nn.Parameter(torch.empty(num_buckets).normal_(std=0.02))

    def forward(self, length: int, buckets: Tensor | None, *, newest_only: bool) -> Tensor:
        """(1 or B, 1, L, L), or (1 or B, 1, 1, L) of the newest position; without times all spans are 0."""
        steps = torch.arange(length, device=self.distance.device)
        rows = steps[-1:] if newest_only else steps
        bias = self.distance[(rows[:, None] - steps).clamp_min(0)]
        if buckets is None:
            return (bias + self.time[0])[None, None]
        return (bias + self.time[buckets[:, -1:] if newest_only else buckets])[:, None]


class HSTUBlock(nn.Module):
    """One layer: X + f(norm(A V) * U), with U, V, Q, K = SiLU(f(norm(X))), A = SiLU(Q K^T + rab) (Eq. 1-3).

    Args:
        dim: width D.
        num_heads: heads H.
        hidden: width E of each of U, V, Q and K, all heads together.
        dropout: on what the output map reads.
        max_len: distances the bias knows, and what sums are divided by.
        num_buckets: of time.
    """

    def __init__(
        self, dim: int, *, num_heads: int, hidden: int, dropout: float, max_len: int, num_buckets: int
    ) -> None:
        super().__init__()
        self.num_heads, self.hidden, self.max_len = num_heads, hidden, max_len
        self.norm_input = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * hidden, bias=False)
        self.bias = RelativeBias(max_distance=max_len, num_buckets=num_buckets)
        self.norm_sum = nn.LayerNorm(hidden)
        self.dropout = Dropout(dropout)
        self.project_out = nn.Linear(hidden, dim)
        nn.init.normal_(self.project_in.weight, std=0.02)
        nn.init.xavier_uniform_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(
        self, x: Tensor, visible: Tensor, buckets: Tensor | None, *, newest_only: bool = False
    ) -> Tensor:
        """(B, L, D) -> (B, L, D); with `newest_only` (B, 1, D), its last.

        Args:
            x: states.
            visible: (1 or B, 1, L, L) 1 where a row may look at a column, else 0.
            buckets: (B, L, L) of time, None where times are unknown.
            newest_only: whether only the last position is wanted.
        """
        gate, query, key, value = self._project(x, newest_only=newest_only)
        scores = self._split(query) @ self._split(key).mT  # (B, H, L, L)
        scores = scores + self.bias(x.shape[1], buckets, newest_only=newest_only)
        if newest_only:
            x, visible = x[:, -1:], visible[:, :, -1:]
        weights = F.silu(scores) * (visible / self.max_len)
        mixed = (weights @ self._split(value)).transpose(1, 2).flatten(2)  # (B, L, E)
        out: Tensor = x + self.project_out(self.dropout(self.norm_sum(mixed) * gate))
        return out

    def _project(self, x: Tensor, *, newest_only: bool) -> tuple[Tensor, ...]:
        """U, Q, K and V; only the newest position gates and asks where only its answer is wanted."""
        x = self.norm_input(x)
        if not newest_only:
            return F.silu(self.project_in(x)).chunk(4, dim=-1)
        asks, is_asked = self.project_in.weight.chunk(2)
        newest = F.silu(F.linear(x[:, -1], asks))[:, None]
        return *newest.chunk(2, dim=-1), *F.silu(F.linear(x, is_asked)).chunk(2, dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, H, L, E / H)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class HSTU(CausalScorer):
    """Pointwise aggregated attention over the history (Zhai et al., ICML 2024).

    Args:
        dim: width of item embeddings.
        num_layers: blocks.
        num_heads: heads per block; must divide `hidden`.
        hidden: width of each of a block's four projections, all heads together.
        dropout: before the output map of a block.
        embedding_dropout: on the sum of item and place.
        max_len: most recent items that are looked at.
        places: an embedding of the place beside the biases of distances: none, or counted back from the
            newest item, or forward from the oldest one shown.
        num_time_buckets: of the bias of time differences; of no effect where a data set has no times.
        loss: how states are pulled towards their next items; when None softmax of cosines / 0.1 among 512
            negatives.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative "
        "Recommendations",
        "ICML",
        2024,
        "https://arxiv.org/abs/2402.17152",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        num_layers: int = 4,
        num_heads: int = 2,
        hidden: int = 64,
        dropout: float = 0.2,
        embedding_dropout: float = 0.5,
        max_len: int = 50,
        places: Places = "none",
        num_time_buckets: int = 128,
        loss: Loss | None = None,
        recipe: Recipe = Recipe(),
    ) -> None:
        loss = loss or SampledSoftmax(num_negatives=512, temperature=0.1, cosine=True)
        super().__init__(loss=loss, recipe=recipe)
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        at_least(1, num_time_buckets=num_time_buckets)
        check_rate(dropout)
        check_rate(embedding_dropout)
        if hidden % num_heads:
            raise ValueError(f"num_heads must divide hidden, got {num_heads} and {hidden}")
        self.dim, self.num_layers, self.num_heads, self.hidden = dim, num_layers, num_heads, hidden
        self.dropout, self.embedding_dropout, self.max_len = dropout, embedding_dropout, max_len
        self.places, self.num_time_buckets = places, num_time_buckets

    def build(self, catalog: Catalog) -> None:
        """Item and place tables, blocks."""
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0].zero_()
        self.place_table = None if self.places == "none" else nn.Embedding(self.max_len, self.dim)
        if self.place_table is not None:
            nn.init.normal_(self.place_table.weight, std=self.dim**-0.5)
        self.input_dropout = Dropout(self.embedding_dropout)
        self.blocks = nn.ModuleList(
            HSTUBlock(
                self.dim,
                num_heads=self.num_heads,
                hidden=self.hidden,
                dropout=self.dropout,
                max_len=self.max_len,
                num_buckets=self.num_time_buckets,
            )
            for _ in range(self.num_layers)
        )

    def hidden_states(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, L) items, and their times -> (B, L', D) states of the newest `max_len` items."""
        return self._encode(history, times, newest_only=False)

    def newest_state(self, history: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, L) items, and their times -> (B, D); the last block computes one position only."""
        return self._encode(history, times, newest_only=True)[:, -1]

    def states_of(self, batch: SequenceBatch) -> Tensor:
        """States of items at their times."""
        return self.hidden_states(batch.history, batch.times)

    def newest_of(self, batch: SequenceBatch) -> Tensor:
        """State after the newest item, at its time."""
        return self.newest_state(batch.history, batch.times)

    def _encode(self, history: Tensor, times: Tensor | None, *, newest_only: bool) -> Tensor:
        history = history[:, -self.max_len :]
        buckets = None
        if times is not None:
            buckets = time_buckets(times[:, -self.max_len :], num_buckets=self.num_time_buckets)
        x: Tensor = self.items(history) * self.dim**0.5
        if self.place_table is not None:
            x = x + self.place_table(self._places(history))
        x = self.input_dropout(x)
        visible = _visible(history, x.dtype)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, visible, buckets, newest_only=newest_only and number == self.num_layers)
        return x

    def _places(self, history: Tensor) -> Tensor:
        """(B, L) the place of each item; the oldest real one, or the newest, is at 0 whatever the padding."""
        if self.places == "from_oldest":
            return ((history != 0).cumsum(1) - 1).clamp_min(0)
        length = history.shape[1]
        return (length - 1 - torch.arange(length, device=history.device)).expand_as(history)


def _visible(history: Tensor, dtype: torch.dtype) -> Tensor:
    """(1 or B, 1, L, L): 1 where a row may look at a column, a real item not newer than itself; else 0.

    A sum over nothing is zero, so, unlike in a softmax, a padded position needs nobody to look at.
    """
    real = history != 0
    causal = torch.ones(1, 1, *history.shape[1:] * 2, dtype=dtype, device=history.device).tril()
    return causal if is_unpadded(history) else causal * real[:, None, None]
