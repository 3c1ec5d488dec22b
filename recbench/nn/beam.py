"""Beam search over the items' codes: valid, unique, unseen items with their exact log-probabilities.

A step of the search is a handful of gathers for all users and beams at once; the only loop is over the codes
of an item. A prefix below which nothing may be recommended is never gone on with, so a search of K beams
lists K items, or all that may be recommended if they are fewer. B users, K beams, V tokens, N items, T codes
of an item, W children of a node of the trie at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.errors import DivergedError
from recbench.nn.item_codes import PAD
from recbench.nn.trie import Level, Trie

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Decoder", "Found", "Trie", "beam_search", "score_items"]


class Decoder(Protocol):
    """What is searched: gives the logits of the next code; owns its cache and reorders it."""

    def start(self) -> Tensor:
        """(B, V) logits of the first code."""

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, K, V) logits after `tokens`.

        Args:
            tokens: (B, K) codes chosen for K beams.
            parents: (B, K) which beam of the last call each of them goes on from; 0 after `start`.
        """


class Found(NamedTuple):
    """(B, n) items, best first, and their log-probabilities; item 0 and -inf where fewer than n exist."""

    items: Tensor
    log_probs: Tensor


def beam_search(
    decoder: Decoder,
    trie: Trie,
    *,
    num_beams: int,
    num_items: int | None = None,
    seen: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Found:
    """The most probable items, as far as `num_beams` beams find them.

    With as many beams as there are prefixes of T - 1 codes this is the exact ranking. Equal probabilities are
    ordered by their parents' rank, then by code. After END an item's code is certain, so PAD costs nothing.

    Args:
        decoder: where the probabilities come from, at its beginning.
        trie: how the items are written.
        num_beams: K, prefixes that are gone on with.
        num_items: how many to list; as many as beams if not given.
        seen: (B, S) items that must not be recommended, 0-padded.
        allowed: (B, N + 1) the only items that may be recommended.

    Raises:
        DivergedError: a probability is no number.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, got {num_beams}")
    num_items = num_beams if num_items is None else num_items
    logits = decoder.start()[:, None]  # (B, 1, V)
    alive = _alive(trie, len(logits), seen, allowed)
    scores, nodes = wide(logits).new_zeros(len(logits), 1), trie.codes.new_zeros(1, 1)
    last = len(trie.levels) - 1
    for depth, level in enumerate(trie.levels):
        limit = num_items if depth == last else num_beams
        scores, nodes, parents = _extend(level, logits, scores, nodes, alive[depth], limit)
        is_dead = scores.isneginf()
        nodes = nodes.masked_fill(is_dead, 0)
        if depth < last:
            logits = decoder.step(level.tokens[nodes].masked_fill(is_dead, PAD), parents)
    if scores.isnan().any():
        raise DivergedError(
            "a probability of the search is no number: lower the learning rate or clip the gradient"
        )
    items, missing = trie.items[nodes].masked_fill(is_dead, 0), num_items - nodes.shape[1]
    return Found(F.pad(items, (0, missing)), F.pad(scores, (0, missing), value=-torch.inf))


def score_items(decoder: Decoder, trie: Trie, items: Tensor) -> Tensor:
    """(B, C) log-probabilities of (B, C) items, each code given those before it; -inf for item 0.

    Args:
        decoder: where the probabilities come from, at its beginning.
        trie: how the items are written.
        items: (B, C) items.
    """
    codes = trie.codes[items]  # (B, C, T)
    logits = decoder.start()[:, None].expand(-1, items.shape[1], -1)
    parents = torch.zeros_like(items)
    total = wide(logits).new_zeros(items.shape)
    for depth, tokens in enumerate(codes.unbind(2)):
        if depth:
            logits = decoder.step(codes[:, :, depth - 1], parents)
            parents = torch.arange(items.shape[1], device=items.device).expand_as(items)
        gained = wide(logits).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        total = total + gained.masked_fill(tokens == PAD, 0)
    return total.masked_fill(items == 0, -torch.inf)


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of each row and where they stand, equals by place whatever the device.

    `topk` promises no order among equals; a whole sort does but takes longer than a decoder's step. So the
    sort is kept for batches where an equal of the last one kept is left out.
    """
    values, places = scores.topk(k, dim=1)
    last = values[:, -1]
    if (((scores >= last[:, None]).sum(1) > k) & ~last.isneginf()).any():
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        return scores.gather(1, order), order
    places = places.sort(dim=1).values
    order = scores.gather(1, places).argsort(dim=1, descending=True, stable=True)
    places = places.gather(1, order)
    return scores.gather(1, places), places


def _extend(
    level: Level, logits: Tensor, scores: Tensor, nodes: Tensor, alive: Tensor | None, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K) beams -> the scores, nodes and parents of the best `limit` beams that are one code longer.

    Args:
        level: the edges to the next codes.
        logits: (B, K, V) of the next code.
        scores: (B, K) log-probabilities.
        nodes: (B, K) where the beams stand; (1, 1) at the root, whose children are then gathered once.
        alive: (B, S') children that lead to an item that may be recommended; None for all.
        limit: beams to keep, as far as there are so many.
    """
    child, exists = level.children_of(nodes)  # (B, K, W)
    tokens = level.tokens[child]
    gained = wide(logits).log_softmax(-1).gather(-1, tokens.expand(len(logits), -1, -1))
    if level.has_pad:
        gained = gained.masked_fill(tokens == PAD, 0)
    total = (scores[..., None] + gained).masked_fill(~exists, -torch.inf).flatten(1)  # (B, K W)
    if alive is not None:
        total = total.masked_fill(~alive.gather(1, child.expand_as(gained).flatten(1)), -torch.inf)
    limit = min(limit, total.shape[1], len(level.tokens))
    scores, places = top(total, limit)
    parents = places // level.width
    nodes = level.first[nodes].expand(len(logits), -1).gather(1, parents) + places % level.width
    return scores, nodes, parents


def _alive(trie: Trie, num_users: int, seen: Tensor | None, allowed: Tensor | None) -> list[Tensor | None]:
    """Per depth (B, S') nodes that lead to an item that may be recommended; None where all do."""
    if seen is None and allowed is None:
        return [None] * len(trie.levels)
    if allowed is None:
        allowed = trie.codes.new_ones((num_users, len(trie.codes)), dtype=torch.bool)
    if seen is not None:
        allowed = allowed.scatter(1, seen, False)
    return [*trie.alive(allowed)]


def wide(logits: Tensor) -> Tensor:
    """At least float32: half precision would tie what differs."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
