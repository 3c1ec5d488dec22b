"""Items that are written like some others: the codes of these, put together anew.

What a model that writes items finds hard to tell apart are items with codes in common (LSC4Rec, Lv et al.,
KDD 2025, Sec. 3.2.2). B users, C listed items, M draws, N items, T codes of an item, V tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.nn.trie import Trie


def find(trie: Trie, codes: Tensor) -> Tensor:
    """(...) the items that (..., T) codes stand for; 0 where they stand for none."""
    base = int(trie.codes.max()) + 1
    node = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
    is_real = torch.ones_like(node, dtype=torch.bool)
    for level, tokens in zip(trie.levels, codes.unbind(-1), strict=True):
        counts = level.first.diff()
        parents = torch.arange(len(counts), device=codes.device).repeat_interleave(counts)
        edges = parents * base + level.tokens  # ascending, as children are
        wanted = node * base + tokens
        node = torch.searchsorted(edges, wanted.contiguous()).clamp(max=len(edges) - 1)
        is_real &= edges[node] == wanted
        node = node.masked_fill(~is_real, 0)
    return trie.items[node].masked_fill(~is_real, 0)


def recombine(trie: Trie, items: Tensor, num_draws: int) -> Tensor:
    """(B, M) items whose every code is that of some listed item; 0 where a draw is no item, listed, or twice.

    Every code is drawn from the list on its own: the whole product of T codes of C items is large.

    Args:
        trie: how the items are written.
        items: (B, C) the list, 0 where it is shorter.
        num_draws: M.
    """
    counts = (items != 0).sum(1)
    packed = items.gather(1, (items == 0).to(torch.int8).argsort(dim=1, stable=True))  # real ones first
    num_codes = trie.codes.shape[1]
    shape = (len(items), num_draws, num_codes)
    drawn = (torch.rand(shape, device=items.device) * counts[:, None, None]).long()
    drawn = drawn.clamp(max=items.shape[1] - 1)  # a float may round up to its bound
    codes = trie.codes[packed.gather(1, drawn.flatten(1))]  # (B, M T, T)
    places = torch.arange(num_codes, device=items.device).repeat(num_draws)[:, None]
    found = find(trie, codes.gather(2, places.expand(len(items), -1, 1))[..., 0].view(shape))
    found = found.sort(dim=1).values
    found[:, 1:] = found[:, 1:].masked_fill(found[:, 1:] == found[:, :-1], 0)
    return found.masked_fill((found[..., None] == items[:, None]).any(2), 0)
