"""SURGE: a history as a graph of interests that every candidate reads anew (Chang et al., SIGIR 2021).

Items of a history are joined where a learned cosine finds them alike; each is fused with its neighbours, most
with those at the centre of their cluster; what fits the cluster and the candidate best is kept, in order; a
GRU whose gates attention to the candidate moves reads it; a net of its state, of the graph's readout and of
the candidate gives the score. Pooling begins above `pool_len` items: for histories of about eight, as on
Amazon, nothing is pooled and SURGE is attention along a graph and a GRU.

Ranking is in two stages. A recurrence per candidate is 1.6 x 10^5 multiplications for eight items, 4 x 10^13
for each pass over the users and items of Beauty: more than an hour of a core. And no server could do it per
request. So the same encoder, asked with the newest item (`surge_tf`), gives a user vector whose inner product
chooses `num_listed` items, and only these are scored. What is not listed has no rank: a target among it is a
miss, never a guess. With `num_listed` 0 the whole catalogue is listed, and ranks are exact among all items.
Candidates come in blocks, so memory does not grow with their number.

What differs from the authors' code:
- In its fusion attention runs over f1_j + f2_i of the neighbours j of node i, where f2 is what the candidate
  adds; both are positive, so the leaky ReLU between is the identity and f2_i cancels in the softmax over j.
  What it computes is a fusion that no candidate changes. That is taken as it is: graph and fusion are then
  done once per history.
- It takes a softmax of softmaxes, whose weights never differ by more than a factor of e (e^2 for two of them
  added); here attention is the softmax of logits.
- Edges are chosen by the cosine, as in the paper, not by a cosine stretched per row, which is one-sided and
  0 / 0 for one item; and the cosine's weights learn (see `metric_graph`). Pooling never reads past a history.
- Not batch normalisation but dropout in the net. The pooled graph's own edges, which nothing reads after a
  single pooling, are not computed. Items have no category; it would be a part of their vector.
- The score adds the inner product that lists (`has_shortcut`), and the loss the full softmax of it.
B users, L history, C candidates, N items, D width, S listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from recbench.models.base import ListRecommender, Paper, Ranking, Recipe, at_least
from recbench.models.causal import check_prefixes
from recbench.nn.dropout import Dropout
from recbench.nn.interest_reader import InterestReader, Past, Reading
from recbench.nn.losses import FullSoftmax, other_items
from recbench.nn.ranking import best_of

if TYPE_CHECKING:
    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog


class Surge(ListRecommender):
    """A graph of interests, read anew for every listed candidate (Chang et al., SIGIR 2021).

    Args:
        dim: width of item embeddings.
        hidden: width of the recurrent state and of the net's first layer; its second has half of it.
        attention_hidden: width of the attentions' first layer; the second has half of it.
        keep_rate: share of a history's pairs of items that the graph joins, 0 excluded to 1.
        pool_len: most nodes that pooling leaves.
        dropout: on the net's input and on what the user vector is made of.
        embedding_dropout: on the item embeddings that are fused.
        max_len: most recent items that are looked at.
        num_listed: items that the first stage hands to the second; 0 for the whole catalogue.
        has_shortcut: whether the inner product of the first stage is added to the score.
        num_negatives: uniform negatives that the second stage tells the next item from.
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
        num_listed: int = 100,
        has_shortcut: bool = True,
        num_negatives: int = 8,
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(recipe)
        at_least(1, num_negatives=num_negatives)
        at_least(2, hidden=hidden)  # the net's second layer has half of it
        at_least(0, num_listed=num_listed)
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
        self.num_listed, self.has_shortcut, self.num_negatives = num_listed, has_shortcut, num_negatives
        self.criterion = FullSoftmax()

    def build(self, catalog: Catalog) -> None:
        """Item table, what reads histories, and the net that scores."""
        dim, hidden = self.reading.dim, self.reading.hidden
        self.items = self.reading.item_table(catalog.num_items)
        self.reader = InterestReader(self.reading)
        self.net = nn.Sequential(
            Dropout(self.reading.dropout),
            nn.Linear(hidden + 3 * dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, 1),
        )

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The first stage learns the next item among all, the second among its negatives."""
        negatives = other_items(batch.target, self.num_negatives, num_items=len(self.items.weight) - 1)
        past: Past = self.reader(batch.history, self.items)
        scores = self._meet(past, torch.cat([batch.target[:, None], negatives], dim=1))
        listing = self.criterion(past.user, batch.target, self.items.weight)
        return listing + (scores.logsumexp(1) - scores[:, 0]).mean()

    def score(self, batch: SequenceBatch, items: Tensor) -> Tensor:
        """(B, C) scores of the (B, C) `items`, a block of users and candidates at a time."""
        with torch.autocast(items.device.type, enabled=False):  # half precision ties what differs
            return self._score(self.reader(batch.history, self.items), items)

    def listed(self, batch: SequenceBatch) -> Tensor:
        """(B, S) items of the first stage, best first, seen ones left out; 0 where fewer may be shown."""
        with torch.autocast(batch.history.device.type, enabled=False):
            return self._listed(self.reader(batch.history, self.items), batch)

    @property
    def list_length(self) -> int:
        """Items of the first stage."""
        return self.num_listed or len(self.items.weight) - 1

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` of the listed items; item 0 and a score of -inf where fewer are listed."""
        with torch.autocast(batch.history.device.type, enabled=False):
            past: Past = self.reader(batch.history, self.items)
            items = self._listed(past, batch)
            scores = self._score(past, items).masked_fill(items == 0, -torch.inf)
        best = scores.topk(min(k, items.shape[1]), dim=1)
        return Ranking(items.gather(1, best.indices), best.values)

    def _meet(self, past: Past, items: Tensor) -> Tensor:
        """(B, C) scores of (B, C) items, all at once."""
        vector = self.items(items)
        state, readout = self.reader.encoder.ask(past.interests, vector)
        seen_as = torch.cat([state, readout, vector, readout * vector], dim=-1)
        out: Tensor = self.net(seen_as)[..., 0]
        if self.has_shortcut:
            out = out + torch.einsum("bd,bcd->bc", past.user, vector)
        return out

    def _score(self, past: Past, items: Tensor) -> Tensor:
        """(B, C) scores, of which no more than a block's pairs of candidate and history are held at once."""
        numbers = _BLOCK_GPU if items.is_cuda else _BLOCK_CPU
        pairs = max(1, numbers // (past.interests.x[0].numel()))
        wide = min(items.shape[1], pairs)
        scores = past.user.new_empty(items.shape)
        for rows, interests in past.interests.blocks(max(1, pairs // wide)):
            own = Past(interests, past.user[rows])
            for left in range(0, items.shape[1], wide):
                columns = slice(left, left + wide)
                scores[rows, columns] = self._meet(own, items[rows, columns])
        return scores

    def _listed(self, past: Past, batch: SequenceBatch) -> Tensor:
        """(B, S) the largest inner products; 0 where fewer may be shown."""
        scores = past.user @ self.items.weight.T
        return best_of(scores, self.list_length, seen=batch.seen, allowed=batch.allowed).items


_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 26  # numbers of pairs' items in a block: near the cache; fill a GPU
