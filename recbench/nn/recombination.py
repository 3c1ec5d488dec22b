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
    found = trie.find(codes.gather(2, places.expand(len(items), -1, 1))[..., 0].view(shape))
    found = found.sort(dim=1).values
    found[:, 1:] = found[:, 1:].masked_fill(found[:, 1:] == found[:, :-1], 0)
    return found.masked_fill((found[..., None] == items[:, None]).any(2), 0)
