"""The codes of all items and the tree of their prefixes, as a few flat tensors.

With the codes in lexicographic order a node of the tree is a number, its children are a range of numbers of
the next level, and the items below it are a range of rows. N items, T codes of an item, S nodes of a depth
and S' of the next, B users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.nn.item_codes import PAD

if TYPE_CHECKING:
    from torch import Tensor


class Level(nn.Module):
    """The edges from the S nodes of one depth to the S' nodes of the next.

    Args:
        parents: (S',) the node that each child hangs on, ascending.
        tokens: (S',) the code that leads to each child, ascending below one parent.
        rows: (S' + 1,) the first of the sorted codes that lie below each child, and their end.
        num_nodes: S.
    """

    first: Tensor
    tokens: Tensor
    rows: Tensor
    places: Tensor
    keys: Tensor

    def __init__(self, parents: Tensor, tokens: Tensor, rows: Tensor, *, num_nodes: int) -> None:
        super().__init__()
        num_children = parents.bincount(minlength=num_nodes)
        self.width = int(num_children.max())
        self.num_tokens = int(tokens.max()) + 1
        self.has_pad = bool((tokens == PAD).any())
        tables = {
            "first": F.pad(num_children.cumsum(0), (1, 0)),  # (S + 1,) each node's first child
            "tokens": tokens,
            "rows": rows,
            "places": torch.arange(self.width, device=tokens.device),
            "keys": parents * self.num_tokens + tokens,  # ascending, as children are
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def children_of(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(..., W) the children of each node, W at most; and which of these entries there are."""
        child = self.first[nodes][..., None] + self.places
        exists = child < self.first[nodes + 1][..., None]
        return child.clamp_(max=len(self.tokens) - 1), exists

    def child_by(self, nodes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The child of each node that each token leads to; and whether there is one."""
        wanted = (nodes * self.num_tokens + tokens).contiguous()
        child = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return child, (self.keys[child] == wanted) & (tokens < self.num_tokens)


class Trie(nn.Module):
    """The codes of all items. A checkpoint holds them alone; the tree is made of them when they are loaded.

    Args:
        num_items: N.
        num_codes: T.
    """

    codes: Tensor
    items: Tensor

    def __init__(self, num_items: int, *, num_codes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(num_items + 1, num_codes, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64), persistent=False)
        self._levels = nn.ModuleList()
        self.register_load_state_dict_post_hook(_index_what_was_loaded)  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, codes: Tensor) -> Trie:
        """The trie of (N + 1, T) codes, row 0 padding.

        Raises:
            ValueError: two items have the same codes.
        """
        trie = cls(len(codes) - 1, num_codes=codes.shape[1]).to(codes.device)
        trie.fill(codes)
        return trie

    def fill(self, codes: Tensor) -> None:
        """Take these (N + 1, T) codes, row 0 padding.

        Raises:
            ValueError: two items have the same codes.
        """
        self.codes.copy_(codes)
        self.index()

    @property
    def levels(self) -> list[Level]:
        """The edges, depth by depth.

        Raises:
            RuntimeError: the trie has no codes yet.
        """
        if not len(self._levels):
            raise RuntimeError(
                "the trie is empty; give it codes by `fill` or load a checkpoint that has them"
            )
        return [cast("Level", level) for level in self._levels]

    def index(self) -> None:
        """Sort the codes and number their prefixes, depth by depth.

        Raises:
            ValueError: two items have the same codes.
        """
        codes = self.codes[1:]
        order = torch.arange(len(codes), device=codes.device)
        for column in reversed(codes.unbind(1)):
            order = order[column[order].argsort(stable=True)]
        codes = codes[order]
        begins = torch.ones(codes.shape, dtype=torch.bool, device=codes.device)  # a prefix does, in this row
        begins[1:] = (codes[1:] != codes[:-1]).cumsum(1) > 0
        if not begins[:, -1].all():
            row = int((~begins[:, -1]).nonzero()[0])
            first, second = (order[row - 1 : row + 1] + 1).tolist()
            raise ValueError(f"items {first} and {second} have the same codes {codes[row].tolist()}")
        node = torch.zeros_like(order)  # (N,) the node of each row
        levels, num_nodes = [], 1
        for begin, column in zip(begins.unbind(1), codes.unbind(1), strict=True):
            rows = begin.nonzero()[:, 0]
            ends = F.pad(rows, (0, 1), value=len(codes))
            levels.append(Level(node[rows], column[rows], ends, num_nodes=num_nodes))
            node, num_nodes = begin.cumsum(0) - 1, len(rows)
        self.items, self._levels = order + 1, nn.ModuleList(levels)

    def find(self, codes: Tensor) -> Tensor:
        """(...) the items that (..., T) codes stand for; 0 where they stand for none."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
        is_real = torch.ones_like(node, dtype=torch.bool)
        for level, tokens in zip(self.levels, codes.unbind(-1), strict=True):
            node, exists = level.child_by(node, tokens)
            is_real &= exists
        return self.items[node].masked_fill(~is_real, 0)

    def alive(self, allowed: Tensor) -> list[Tensor]:
        """(B, N + 1) items that may be recommended -> per depth (B, S') nodes that lead to one of them."""
        rows = allowed[:, self.items]
        below = F.pad(rows.cumsum(1, dtype=torch.int32), (1, 0))
        inner = [below[:, level.rows] for level in self.levels[:-1]]
        return [count[:, 1:] > count[:, :-1] for count in inner] + [rows]


def _index_what_was_loaded(trie: nn.Module, _: object) -> None:
    """Make the tree of codes that came from a checkpoint, unless that was written before there were any."""
    assert isinstance(trie, Trie)
    if trie.codes.any():
        trie.index()
