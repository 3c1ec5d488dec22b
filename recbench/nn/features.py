"""Item tags as models read them: ids per item, and one vector per item by attention over its tags.

N items, T tags, K tags of the item that has most, D width, M items asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog

_WAY_OUT = "take a data set that has them (beauty, sports, toys, yelp, demo) or a method without features"
_LEAST = -60.0  # nats below the top score: e^-60 is still a normal float32, and nothing beside 1


class ItemTags(NamedTuple):
    """(N + 1, K) `ids` of each item's tags, 1..T, 0-padded on the right; the T `names` in order of id."""

    ids: Tensor
    names: list[str]


def item_tags(catalog: Catalog, *, wanted_by: str) -> ItemTags:
    """The tags of every item, its brand among them where the data set has brands; none twice.

    Args:
        catalog: what is known of the items.
        wanted_by: the method, for the message.

    Raises:
        UsageError: the data set has no tags.
    """
    try:
        catalog.tags()
    except LookupError as error:
        raise UsageError(f"{wanted_by} learns from item tags: {error}; {_WAY_OUT}") from None
    columns = [name for name in ("tags", "brand") if name in catalog.items.columns]
    parts = [catalog.items.select("item", name).rename({name: "tag"}) for name in columns]
    parts[0] = parts[0].explode("tag")
    pairs = pl.concat(parts).filter(pl.col("tag").is_not_null() & (pl.col("tag") != "")).unique()
    if pairs.is_empty():
        raise UsageError(f"{wanted_by} learns from item tags, and no item here has one; {_WAY_OUT}")
    pairs = pairs.sort("item", "tag").with_columns(
        id=pl.col("tag").rank("dense"), place=pl.col("item").cum_count().over("item") - 1
    )
    ids = np.zeros((catalog.num_items + 1, int(pairs["place"].max()) + 1), dtype=np.int32)  # type: ignore[arg-type]
    ids[pairs["item"].to_numpy(), pairs["place"].to_numpy()] = pairs["id"].to_numpy()
    return ItemTags(torch.from_numpy(ids), pairs["tag"].unique().sort().to_list())


class TagPooling(nn.Module):
    """An item's tags as one vector, by attention (Zhang et al., IJCAI 2019, Eq. 2-4).

    How a tag scores does not depend on the item that has it, so scores are made once per tag, and the softmax
    over an item's tags is a quotient of two sums over them. The bias of Eq. 3 adds the same to every tag of
    an item, which no softmax sees, and is left out. An item without tags is the zero vector.

    Args:
        tags: of every item.
        dim: width D.
    """

    ids: Tensor

    def __init__(self, tags: ItemTags, dim: int) -> None:
        super().__init__()
        self.register_buffer("ids", tags.ids)
        self.vectors = nn.Embedding(len(tags.names) + 1, dim, padding_idx=0)
        self.attention = nn.Linear(dim, dim, bias=False)

    def forward(self, items: Tensor) -> Tensor:
        """Items of any shape -> the same shape with D at its end; each distinct item is pooled once."""
        distinct, place = torch.unique(items, return_inverse=True)
        return F.embedding(place, self.pool(distinct))

    def pool(self, items: Tensor) -> Tensor:
        """(M,) items -> (M, D)."""
        scores = self.attention(self.vectors.weight)  # (T + 1, D): one attention per dimension, Eq. 3
        weights = (scores - scores.detach().amax(0)).clamp_min(_LEAST).exp()
        terms = torch.cat([weights * self.vectors.weight, weights], dim=1)
        sums = F.embedding_bag(self.ids[items], terms, mode="sum", padding_idx=0)
        weighted, total = sums.chunk(2, dim=1)
        return weighted / total.clamp_min(torch.finfo(total.dtype).tiny)  # 0 / 0 is an item without tags
