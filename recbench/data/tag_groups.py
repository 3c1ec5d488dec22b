"""A catalogue as some forty groups, each named by a tag: what CDA4Rec retrieves from (arXiv 2509.01551).

The paper counts 37, 57, 42 and 38 tags in its domains (Table I) and does not say how they came about. The
rule here is the same for every data set and reads the catalogue alone, never an interaction:

1.  A tag qualifies when at most half of the items have it, for one that more have tells nothing apart, and at
    least one in 500 items and two items. An item's own brand is no tag of it.
2.  Tags are taken one by one: the one that covers most, where an item that has `c` of the taken tags already
    counts for 1 / (1 + c)^2. So broad tags come first, then what splits them or reaches what they left.
3.  It ends one tag before `max_groups`, or when no tag is left. Items that have none of the taken tags are
    the group `other`.

By default Beauty gives 39 groups and leaves no item over, Sports gives 40 with 1.6 % in `other`, Yelp 40 with
3.0 % ("Restaurants", 69 % of the items, does not qualify).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.catalog import Catalog

OTHER = "other"
_LARGEST, _SMALLEST = 1 / 2, 1 / 500  # shares of the items


class TagGroups(NamedTuple):
    """Groups that cover a catalogue; an item may be in several.

    Args:
        members: name of the group -> ascending indices of its items; `other` comes last, where it is needed.
        other_rate: share of the items that are in `other`.
    """

    members: dict[str, NDArray[np.int64]]
    other_rate: float


def tag_groups(catalog: Catalog, *, max_groups: int = 40) -> TagGroups:
    """Group the items by the tags that cover them best; see the rule above.

    Args:
        catalog: whose items have tags.
        max_groups: groups at most, `other` included.

    Raises:
        LookupError: the data set has no tags.
        ValueError: `max_groups` is below 2.
    """
    if max_groups < 2:
        raise ValueError(f"max_groups must be at least 2, one of them for what is left, got {max_groups}")
    waiting = _qualified(catalog)
    taken = np.zeros(catalog.num_items + 1)  # tags taken, per item
    members: dict[str, NDArray[np.int64]] = {}
    while waiting and len(members) < max_groups - 1:
        value = (1 + taken) ** -2
        best = min(waiting, key=lambda tag: (-round(float(value[waiting[tag]].sum()), 9), tag))
        members[best] = waiting.pop(best)
        taken[members[best]] += 1
    left = np.flatnonzero(taken[1:] == 0) + 1
    if len(left):
        members[OTHER] = left
    return TagGroups(members, len(left) / catalog.num_items)


def _qualified(catalog: Catalog) -> dict[str, NDArray[np.int64]]:
    """Tag -> ascending indices of its items, for the tags that are neither too broad nor too rare."""
    brands = catalog.brands() if "brand" in catalog.features else [None] * catalog.num_items
    found: dict[str, list[int]] = {}
    for item, (tags, brand) in enumerate(zip(catalog.tags(), brands, strict=True), start=1):
        for tag in set(tags) - {brand, OTHER}:
            found.setdefault(tag, []).append(item)
    least, most = max(2.0, _SMALLEST * catalog.num_items), _LARGEST * catalog.num_items
    return {tag: np.array(items) for tag, items in found.items() if least <= len(items) <= most}
