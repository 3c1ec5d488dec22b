"""Base models with places for weights of a user's own, added to the weights that all users share.

Where a user's own are zero, or none have come, the model is its base to the last bit. A state of the history
gets two layers above it, which is what the two-layer head of the DUET code is for its encoders; of DIN the
whole net gets a second set. B users, L history, D width of items, H width of the inner layer, C candidates,
N items, P columns of a net.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from recbench.edge.parameters import Personal
from recbench.models.din import DIN, Candidates, Past
from recbench.nn.losses import other_items

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.models.causal import CausalScorer

_BLOCK = 1 << 22  # numbers of a net's first layer that are held at once


class Learner(Personal):
    """A personal model that says how wrong it is about what comes next."""

    @abstractmethod
    def loss(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Mean loss of the users' targets, with (B, *shape) weights or with none."""


class PersonalHead(Learner):
    """An encoder and a residual head of two layers on its newest state: x + W2 tanh(W1 x + b1) + b2.

    What all users share of the second layer begins at zero, so that the head changes nothing at first; what
    they share of the first begins anywhere, or nothing could be learnt.

    Args:
        base: makes the state; its item table and loss are used.
    """

    def __init__(self, base: CausalScorer) -> None:
        super().__init__()
        self.base = base
        dim = base.items.embedding_dim
        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def slots(self) -> dict[str, tuple[int, ...]]:
        """Both layers."""
        return _slots(up=self.up, down=self.down)

    def state(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """(B, D) the newest state after its head."""
        x = self.base.newest_of(batch)
        inner = torch.tanh(_map(self.up, x[:, None], "up", weights))
        return x + _map(self.down, inner, "down", weights)[:, 0]

    def loss(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """As the base learns."""
        return self.base.criterion(self.state(batch, weights), batch.target, self.base.items.weight)

    def score(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Inner products with all items, or cosines where the base's loss compares by them."""
        return self.base.criterion.compared(self.state(batch, weights)) @ self.base.item_vectors().T


class PersonalNet(Learner):
    """DIN, whose net has weights of the user's own in every layer.

    Args:
        base: attention, towers and tables, and what all users share of the net.
    """

    def __init__(self, base: DIN) -> None:
        super().__init__()
        self.base = base

    def slots(self) -> dict[str, tuple[int, ...]]:
        """The first layer in its two halves, then the others."""
        return _slots(own=self.base.own, share=self.base.share, **self._layers())

    def loss(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """As the base learns, from the newest position."""
        base, num_items = self.base, len(self.base.items.weight) - 1
        negatives = other_items(batch.target, base.num_negatives, num_items=num_items)
        items = torch.cat([batch.target[:, None], negatives], dim=1)
        past = base.past(batch.history[:, -base.max_len :], 1)
        return base.compare(self._meet(base.candidates(items[:, None]), past, weights))

    def score(self, batch: SequenceBatch, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Scores of all items, as many users at a time as memory should hold."""
        base = self.base
        if weights is None:
            return base.score(batch)
        past = base.past(batch.history[:, -base.max_len :], 1)
        table = base.candidates(torch.arange(len(base.items.weight), device=batch.history.device))
        table = Candidates(*(part[None, None] for part in table))
        tall = max(1, _BLOCK // (len(base.items.weight) * base.hidden))
        blocks = []
        for top in range(0, len(batch), tall):
            rows = slice(top, top + tall)
            some = {name: value[rows] for name, value in weights.items()}
            blocks.append(self._meet(table, Past(*(part[rows] for part in past)), some))
        return torch.cat(blocks)

    def _meet(self, candidates: Candidates, past: Past, weights: Mapping[str, Tensor] | None) -> Tensor:
        """(B or 1, 1, C, ...) candidates -> (B, C)."""
        if weights is None:
            return self.base.meet(candidates, past)[:, 0]
        own = candidates.vector @ weights["own.weight"].mT[:, None] + weights["own.bias"][:, None, None]
        share = past.value @ weights["share.weight"].mT
        raised = candidates._replace(own=candidates.own + own)
        return self.base.meet(raised, past._replace(share=past.share + share), self._net(weights))[:, 0]

    def _net(self, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """What comes after layer 1: (B, H, P) -> (B, 1, P)."""

        def run(x: Tensor) -> Tensor:
            for number, layer in enumerate(self.base.net):
                x = layer(x) + _of_columns(x, f"net-{number}", weights) if _is_map(layer) else layer(x)
            return x

        return run

    def _layers(self) -> dict[str, nn.Module]:
        return {f"net-{number}": layer for number, layer in enumerate(self.base.net) if _is_map(layer)}


def personal(base: CausalScorer | DIN) -> Learner:
    """The base, which must be built, with its places."""
    return PersonalNet(base) if isinstance(base, DIN) else PersonalHead(base)


def _is_map(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv1d)


def _slots(**layers: nn.Module) -> dict[str, tuple[int, ...]]:
    """Weights and biases of some linear maps; a convolution of width 1 is one."""
    return {
        f"{layer}.{name}": tuple(value.shape[:2])
        for layer, module in layers.items()
        for name, value in module.named_parameters()
    }


def _map(layer: nn.Linear, x: Tensor, name: str, weights: Mapping[str, Tensor] | None) -> Tensor:
    """(B, P, D) -> (B, P, H): the layer, plus the users' own."""
    shared: Tensor = layer(x)
    if weights is None:
        return shared
    return shared + torch.baddbmm(weights[f"{name}.bias"][:, None], x, weights[f"{name}.weight"].mT)


def _of_columns(x: Tensor, name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """(B, H, P) -> (B, H', P) the users' own map of each column."""
    return torch.baddbmm(weights[f"{name}.bias"][..., None], weights[f"{name}.weight"], x)
