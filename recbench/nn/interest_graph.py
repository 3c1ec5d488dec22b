"""The interest graph of SURGE (Chang et al., SIGIR 2021): items of a history, joined where they are alike.

Built from a learned cosine, fused along its edges, pooled to its most fitting nodes, and read in order by a
GRU whose update gate is moved by attention. What no query changes is computed once per history (`fuse`), what
a query changes once per pair (`ask`). Histories are right-aligned, padding comes first.

B users, C queries per user, L history, D width, H state, K attention's width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from recbench.nn.dropout import Dropout

if TYPE_CHECKING:
    from collections.abc import Iterator

# Pairs of repeated items are equally alike, and rounding must not tell them apart: differences below these
# count as none, and of equal nodes the newer stays. Else what is kept would depend on the amount of padding.
_SAME_COSINE, _SAME_FITNESS = 1e-5, 1e-4
_SLOPE = 0.2  # of the leaky ReLU below zero


def check_share(name: str, share: float) -> None:
    """Refuse a share of which nothing or more than everything would be left.

    Raises:
        ValueError: `share` is not in 0..1, or 0.
    """
    if not 0 < share <= 1:
        raise ValueError(f"{name} must lie in 0..1, 0 excluded, got {share}")


def metric_graph(x: Tensor, weight: Tensor, real: Tensor, *, keep_rate: float) -> Tensor:
    """(B, L, L) ones where two items are joined (SURGE, Sec. 3.1), and every item with itself.

    Of the n^2 pairs of a history, those as alike as the ceil(keep_rate n^2)-th stay, so that what is joined
    depends on the history and not on a fixed cosine. A comparison has no gradient and the metric would never
    learn: the ones are passed straight through to the cosines, whose gradient they take.

    Args:
        x: (B, L, D) item vectors, zero at padding.
        weight: (D,) of the cosine: cos(w * x_i, w * x_j).
        real: (B, L) True at items.
        keep_rate: share of pairs, self-pairs among them, that stay.
    """
    with torch.autocast(x.device.type, enabled=False):  # half precision ties what differs
        direction = F.normalize(x.float() * weight.float(), dim=-1)
        cosine = direction @ direction.mT
    pairs = real[:, :, None] & real[:, None, :]
    num_pairs = real.sum(1).double().square()
    place = (keep_rate * num_pairs - 1e-9).ceil().long().clamp_min(1)[:, None] - 1
    ranked = cosine.detach().masked_fill(~pairs, -torch.inf).flatten(1).sort(descending=True).values
    least = ranked.gather(1, place)[..., None] - _SAME_COSINE
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    joined = ((pairs & (cosine >= least)) | itself).to(cosine.dtype)
    return joined + (cosine - cosine.detach()) * joined


def normalised(adjacency: Tensor) -> Tensor:
    """(B, L, L) D^-1/2 A D^-1/2; every node has itself as a neighbour, so no degree is zero."""
    scale = adjacency.sum(-1).rsqrt()
    return scale[..., :, None] * adjacency * scale[..., None, :]


def masked_softmax(logits: Tensor, real: Tensor) -> Tensor:
    """Softmax over the last dimension's real entries; zeros where there is none."""
    return logits.masked_fill(~real, torch.finfo(logits.dtype).min).softmax(-1) * real


class InterestAttention(nn.Module):
    """How well a key answers a query: a net of [W k, q, W k - q, W k * q] (Sec. 3.2).

    The difference is a linear map of the first two, so it needs no weights of its own, and the first layer is
    a sum of a key's, a query's and a product's part, of which only the last is computed per pair.

    Args:
        dim: width D.
        hidden: width K of the first layer; the second has half of it.
    """

    def __init__(self, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.transform = nn.Linear(dim, dim, bias=False)
        self.of_key = nn.Linear(dim, hidden)
        self.of_query = nn.Linear(dim, hidden, bias=False)
        self.of_product = nn.Linear(dim, hidden, bias=False)
        self.rest = nn.Sequential(
            nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 1)
        )

    def forward(self, key: Tensor, query: Tensor) -> Tensor:
        """(..., D) keys and queries that broadcast -> (...) logits."""
        key = self.transform(key)
        first = self.of_product(key * query) + self.of_key(key) + self.of_query(query)
        out: Tensor = self.rest(first)[..., 0]
        return out


class AUGRU(nn.Module):
    """GRU that attention makes forgetful: 1 - a times its keep gate (Zhou et al., AAAI 2019, as in the code).

    With r, z, n as in `torch.nn.GRU`, whose z says how much of the state is kept, and a the attention to an
    item: h' = z' h + (1 - z') n, z' = (1 - a) z. Where a is 0 it is the plain GRU; where 1, the item replaces
    the state. (DIEN's Eq. 15 scales the other side: all but nothing is ever read where a softmax over a long
    history makes every a small.)

    Args:
        dim: width D of items.
        hidden: width H of the state.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.of_item = nn.Linear(dim, 3 * hidden)
        self.of_state = nn.Linear(hidden, 3 * hidden)
        for weights in self.parameters():
            nn.init.uniform_(weights, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def forward(self, x: Tensor, attention: Tensor, real: Tensor) -> Tensor:
        """Newest states (B, C, H); zero where there is no item.

        Args:
            x: (B, C or 1, L, D) items, oldest first, after padding.
            attention: (B, C, L) each in 0..1.
            real: (B, C or 1, L) True at items.
        """
        gates = self.of_item(x).unbind(-2)  # L of (B, C or 1, 3 H)
        leave = (1 - attention)[..., None].unbind(-2)
        is_item = real.to(attention.dtype)[..., None].unbind(-2)
        hidden = self.of_state.in_features
        state = attention.new_zeros(*attention.shape[:2], hidden)
        for item, left, here in zip(gates, leave, is_item, strict=True):
            own = self.of_state(state)
            reset, keep = torch.sigmoid(item[..., : 2 * hidden] + own[..., : 2 * hidden]).chunk(2, dim=-1)
            new = torch.tanh(item[..., 2 * hidden :] + reset * own[..., 2 * hidden :])
            state = (new + left * keep * (state - new)) * here  # padding comes first: zero it was
        return state


class Interests(NamedTuple):
    """What of a history no query changes."""

    x: Tensor  # (B, L, D) items fused with those they are joined with
    centre: Tensor  # (B, L) logits: how much each is the centre of its cluster
    real: Tensor  # (B, L) True at items

    def blocks(self, num_rows: int) -> Iterator[tuple[slice, Interests]]:
        """Some users at a time."""
        for start in range(0, len(self.x), num_rows):
            rows = slice(start, start + num_rows)
            yield rows, Interests(*(part[rows] for part in self))


class InterestEncoder(nn.Module):
    """Graph, fusion, pooling and recurrence of SURGE (Sec. 3.1-3.4).

    Args:
        dim: width of item vectors.
        hidden: width of the recurrent state.
        attention_hidden: width of the attentions' first layer.
        keep_rate: share of a history's pairs that are joined.
        pool_len: most items that the recurrence reads.
        embedding_dropout: on the item vectors that are fused; the graph is built from whole ones.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int,
        attention_hidden: int,
        keep_rate: float,
        pool_len: int,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        self.keep_rate, self.pool_len = keep_rate, pool_len
        self.metric = nn.Parameter(torch.ones(dim))
        self.dropout = Dropout(embedding_dropout)
        self.to_cluster, self.to_query, self.to_step = (
            InterestAttention(dim, hidden=attention_hidden) for _ in range(3)
        )
        self.mix = nn.Linear(dim, dim, bias=False)
        self.augru = AUGRU(dim, hidden)

    def fuse(self, x: Tensor, real: Tensor) -> Interests:
        """Each of (B, L, D) item vectors, zero at padding, fused with its neighbours (Sec. 3.2)."""
        adjacency = metric_graph(x, self.metric, real, keep_rate=self.keep_rate)
        spread = normalised(adjacency)
        x = self.dropout(x)
        toward = self.to_cluster(x, spread @ (spread @ x))  # (B, L)
        weight = masked_softmax(toward[:, None].expand_as(adjacency), adjacency > 0)  # of row i's neighbours
        x = F.leaky_relu(self.mix(weight @ x) + x, _SLOPE)
        return Interests(x, self.to_cluster(x, spread @ (spread @ x)), real)

    def ask(self, interests: Interests, query: Tensor) -> tuple[Tensor, Tensor]:
        """What a history says to (B, C, D) queries: (B, C, H) newest state and (B, C, D) readout."""
        # contiguous: how a product with a view is rounded depends on whether weights have gradients
        x, real, query_of = interests.x[:, None], interests.real[:, None], query.contiguous()[:, :, None]
        logits = interests.centre[:, None] + self.to_query(x, query_of)  # (B, C, L)
        fitness = masked_softmax(logits, real)
        if x.shape[2] > self.pool_len:
            kept = most_fitting(logits, real, self.pool_len)  # (B, C, pool_len)
            fitness = fitness * torch.zeros_like(fitness).scatter(2, kept, 1.0)
            real = real.expand_as(logits).gather(2, kept)
            rows = torch.arange(len(x), device=x.device)[:, None, None]
            x = interests.x[rows, kept]
        attention = masked_softmax(self.to_step(x, query_of), real)
        return self.augru(x, attention, real), fitness @ interests.x


def most_fitting(logits: Tensor, real: Tensor, num_kept: int) -> Tensor:
    """Places (..., num_kept) of the largest `logits` (..., L), in their order; of equals the newest.

    Where fewer are real, padding fills up; it comes first, so that what is kept stays right-aligned.
    """
    age = torch.arange(logits.shape[-1] - 1, -1, -1, device=logits.device)
    fit = logits.detach().float() - _SAME_FITNESS * age
    return fit.masked_fill(~real, -torch.inf).topk(num_kept, dim=-1).indices.sort(-1).values
