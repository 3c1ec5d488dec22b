"""DIN: the history as the candidate sees it (Zhou et al., KDD 2018).

A candidate attends to the items of the history, and what it gathers meets it in a small net: a user is
another vector for every candidate. This is the form in which device-cloud papers (DUET, LSC4Rec) use it:
attention is a scaled inner product with a softmax over the real items, where the first paper has a net per
pair and no softmax, and activations are ReLU or tanh, where that has Dice.

Scoring the whole catalogue costs no forward pass per candidate. With weights w_l of the history's items,
the net's first layer sees the candidate t and sum_l w_l v_l, so it is A t + sum_l w_l (B v_l): A t is made
once per item for all users, B v_l once per item of a history, and what is left for a pair is a product of L
by H numbers. Candidates come in blocks, so that memory does not grow with the catalogue. In training every
position of a history is a target whose candidates see the items before it.

Beyond the paper, as arguments: an inner product of candidate and gathered history beside the net, which
learns retrieval from few pairs as the net alone does not (Rendle et al., RecSys 2020), and a learned bias for
how long ago an item was. B users, L history, P positions, C candidates, N items, D width, H width of layer 1.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recbench.models.base import Paper, Recipe, Scorer, at_least
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.losses import other_items

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog


class Candidates(NamedTuple):
    """What of an item is the same for all: (..., D) `query` and `vector`, (..., H) `own` part of layer 1."""

    query: Tensor
    vector: Tensor
    own: Tensor


class Past(NamedTuple):
    """What of a history does not depend on the candidate: (B, L, D) `key` and `value`, (B, L, H) `share`."""

    key: Tensor
    value: Tensor
    share: Tensor  # of the value in layer 1
    bias: Tensor  # (B, L, P) what a position's attention to an item is raised by; -inf where it may not look


class DIN(Scorer):
    """Target-aware attention over the history, then a small net (Zhou et al., KDD 2018).

    Args:
        dim: width of item embeddings.
        hidden: width of the net's first layer; each further one has half of it.
        num_layers: layers of the net before its output.
        embedding_dropout: on the item vectors of the history.
        max_len: most recent items that are looked at.
        activation: in the net.
        has_towers: a tanh layer on candidates and one on history before attention, as in LSC4Rec.
        has_shortcut: whether the inner product of candidate and gathered history is added to the score.
        has_ages: whether attention learns a bias for each distance of an item from the newest.
        objective: cross entropy among the next item and its negatives, or binary over each.
        num_negatives: uniform negatives per position.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Deep Interest Network for Click-Through Rate Prediction",
        "KDD",
        2018,
        "https://arxiv.org/abs/1706.06978",
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        hidden: int = 64,
        num_layers: int = 1,
        embedding_dropout: float = 0.5,
        max_len: int = 50,
        activation: Literal["relu", "tanh"] = "relu",
        has_towers: bool = False,
        has_shortcut: bool = True,
        has_ages: bool = True,
        objective: Literal["softmax", "bce"] = "softmax",
        num_negatives: int = 64,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim, hidden=hidden, num_layers=num_layers)
        at_least(1, max_len=max_len, num_negatives=num_negatives)
        if hidden < 2 ** (num_layers - 1):
            raise ValueError(f"hidden must be halved {num_layers - 1} times and stay above 0, got {hidden}")
        check_rate(embedding_dropout)
        self.dim, self.hidden, self.num_layers = dim, hidden, num_layers
        self.embedding_dropout, self.max_len = embedding_dropout, max_len
        self.activation = activation
        self.has_towers, self.has_shortcut, self.has_ages = has_towers, has_shortcut, has_ages
        self.objective, self.num_negatives = objective, num_negatives

    def build(self, catalog: Catalog) -> None:
        """Item table, towers, attention, and the net, whose first layer is in two halves."""
        dim = self.dim
        self.items = nn.Embedding(catalog.num_items + 1, dim, padding_idx=0)
        self.input_dropout = Dropout(self.embedding_dropout)
        self.candidate_tower = self._tower()
        self.history_tower = self._tower()
        self.to_query, self.to_key, self.to_value = (nn.Linear(dim, dim) for _ in range(3))
        self.ages = nn.Parameter(torch.zeros(self.max_len)) if self.has_ages else None
        self.own = nn.Linear(dim, self.hidden)
        self.share = nn.Linear(dim, self.hidden, bias=False)
        widths = [self.hidden >> n for n in range(self.num_layers)] + [1]
        self.net = nn.Sequential()
        for wide, narrow in itertools.pairwise(widths):
            self.net.append(nn.ReLU(inplace=True) if self.activation == "relu" else nn.Tanh())
            self.net.append(nn.Conv1d(wide, narrow, 1))  # a linear map of each column, which is a pair
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """Xavier; items of length 1: from smaller ones attention stays flat and the net blind for long."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain(self.activation))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.dim**-0.5)
            with torch.no_grad():
                module.weight[0].zero_()

    def _tower(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.dim, self.dim), nn.Tanh()) if self.has_towers else nn.Identity()

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every position, or of a prefix the newest, tells its next item from negatives."""
        history, target = batch.history[:, -self.max_len :], batch.next_items()[:, -self.max_len :]
        real = history != 0
        if self.recipe.samples == "prefixes":
            real, target = real[:, -1:], target[:, -1:]
        num_items = len(self.items.weight) - 1
        negatives = other_items(target.clamp_min(1), self.num_negatives, num_items=num_items)
        items = torch.cat([target[..., None], negatives], dim=-1)  # (B, P, 1 + M)
        scores = self._meet_in_blocks(self.candidates(items), self.past(history, target.shape[1]))[real]
        return self.compare(scores)

    def compare(self, scores: Tensor) -> Tensor:
        """Mean loss of (P, 1 + M) scores: of the next item, then of its negatives."""
        if self.objective == "bce":
            return (F.softplus(-scores[:, 0]) + F.softplus(scores[:, 1:]).sum(1)).mean()
        return (scores.logsumexp(1) - scores[:, 0]).mean()

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """Scores of all items, a block of users and candidates at a time, or of those named."""
        with torch.autocast(batch.history.device.type, enabled=False):  # half precision ties what differs
            past = self.past(batch.history[:, -self.max_len :], 1)
            if items is not None:
                return self.meet(self.candidates(items[:, None]), past)[:, 0]
            return self._score_all(past)

    def _meet_in_blocks(self, candidates: Candidates, past: Past) -> Tensor:
        """(B, P, C) scores to learn from; long histories meet a block of users at a time.

        What a block computes on its way is forgotten and computed again for the gradient.
        """
        num_users, num_positions, num_each = candidates.query.shape[:3]
        pair = 2 * (past.key.shape[1] + self.hidden)  # numbers that the gradient wants of a pair
        tall = max(1, _LEARN_BLOCK // (num_positions * num_each * pair))
        if num_users <= tall:
            return self.meet(candidates, past)
        blocks = []
        for top in range(0, num_users, tall):
            some = Candidates(*(part[top : top + tall] for part in candidates))
            rows = Past(*(part[top : top + tall] for part in past))
            blocks.append(checkpoint(self.meet, some, rows, use_reentrant=False))
        return torch.cat(blocks)

    def _score_all(self, past: Past) -> Tensor:
        """(B, N + 1), of which no more than a block's first layer is held at once."""
        table = self.candidates(torch.arange(len(self.items.weight), device=past.key.device))
        table = table._replace(own=table.own.mT.contiguous().mT)  # as the net reads it: pairs are columns
        num_users, num_items = len(past.key), len(table.own)
        scores = past.key.new_empty(num_users, num_items)
        numbers = _BLOCK_GPU if scores.is_cuda else _BLOCK_CPU
        budget = max(1, numbers // self.hidden)  # pairs of user and candidate
        wide = min(num_items, budget)
        tall = max(1, budget // wide)
        for top in range(0, num_users, tall):
            rows = Past(*(part[top : top + tall] for part in past))
            for left in range(0, num_items, wide):
                block = Candidates(*(part[None, None, left : left + wide] for part in table))
                scores[top : top + tall, left : left + wide] = self.meet(block, rows)[:, 0]
        return scores

    def candidates(self, items: Tensor) -> Candidates:
        """Of any shape; where there are more than the catalogue has, each item is computed once."""
        table = self.items.weight
        is_many = items.numel() > len(table)
        vector = self.candidate_tower(table if is_many else F.embedding(items, table))
        parts = (self.to_query(vector) / math.sqrt(self.dim), vector, self.own(vector))
        return Candidates(*(F.embedding(items, part) if is_many else part for part in parts))

    def past(self, history: Tensor, num_positions: int) -> Past:
        """The history as its newest `num_positions` positions may see it."""
        x = self.history_tower(self.input_dropout(self.items(history)))
        is_padding = (history == 0)[..., None]
        value = self.to_value(x).masked_fill(is_padding, 0)
        steps = torch.arange(history.shape[1], device=history.device)
        age = steps[-num_positions:] - steps[:, None]  # (L, P)
        bias = x.new_zeros(age.shape) if self.ages is None else self.ages[age.clamp_min(0)]
        # a padded position sees itself, whose value is zero, or its softmax would be 0 / 0
        is_hidden = (age < 0) | (is_padding & (age != 0))  # (B, L, P)
        return Past(self.to_key(x), value, self.share(value), bias.masked_fill(is_hidden, -torch.inf))

    def meet(
        self, candidates: Candidates, past: Past, net: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """(B or 1, P, C, ...) candidates -> (B, P, C) scores; `net` in place of the net after its layer 1."""
        shape = (len(past.key), *candidates.query.shape[1:3])
        query, vector, own = (part.flatten(1, 2) for part in candidates)  # (B or 1, P C, ...)
        if len(query) == 1:  # the same candidates for all: one product instead of B
            query, vector = query[0], vector[0]
        logits = (past.key @ query.mT).view(*past.key.shape[:2], *shape[1:])  # (B, L, P, C)
        weight = (logits + past.bias[..., None]).softmax(1).flatten(2)
        out: Tensor = (net or self.net)((past.share.mT @ weight).add_(own.mT))[:, 0]  # from (B, H, P C)
        if self.has_shortcut:
            out = out + (weight * (past.value @ vector.mT)).sum(1)
        return out.view(shape)


_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 26  # numbers of the first layer in a block: near the cache; fill a GPU
_LEARN_BLOCK = 1 << 26  # numbers kept for the gradient, 256 MB
