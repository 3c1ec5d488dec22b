"""The demo world: a seeded town where the probability of every next visit, and so the best score, is known.

With probability `REPEAT` a visitor returns to one of the last `MEMORY` visits, each equally likely; with
`FOLLOW` goes on to a follower of the last place (see `town`). Otherwise a tag is drawn, from the visitor's
taste or, with probability `HABIT`, by what usually comes after the last place's tag; and then a place of that
tag by popularity and nearness to the visitor's home district. Tastes drift: a visitor starts with one and
ends with another. The first visit has no past and follows taste alone. So, for place i with tag g, after
history h,

    p(i | h) = REPEAT * returns(i) + FOLLOW * follows(i) + (1 - REPEAT - FOLLOW) * tag(g) * within(i | g,
    home) tag(g)   = (1 - HABIT) * taste(g, progress) + HABIT * usual(g | tag of the last place)

`World.probabilities` is p at the test position of every user. Before the last visit the visitor says what
for: always the place's main tag, with probability 1/2 its second tag if it has one, with `BRAND` its brand;
`World.after_query` is p given the words as well. Popularity sees the skew only, a first-order chain sees
followers and habits, a sequence model can also learn taste, drift, home and returns; nothing can beat
`World.oracle_hit_rate` but by chance.

Visits have unix seconds: days between visits are geometric, hours follow the town's day, with peaks at noon
and in the evening. Uniform draws of one generator decide everything, in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from recbench.data import town as places
from recbench.data.prepared import Prepared, assemble, item_indices
from recbench.data.source import Source
from recbench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.town import Town

REPEAT, FOLLOW, HABIT, BRAND = 0.10, 0.30, 0.25, 0.3
MEMORY = 5
NUM_USERS, NUM_ITEMS = 1000, 400  # so that the first run of a new user takes less than a minute
SHORTEST, LONGEST, MEAN_EXTRA = 5, 60, 10.0
START = 1_704_067_200  # 2024-01-01 00:00 UTC
DAY_S = 86_400
_HOURS = np.array([1, 1, 1, 1, 1, 1, 2, 4, 6, 6, 6, 8, 12, 10, 7, 6, 7, 10, 14, 16, 14, 9, 5, 2], dtype=float)
_REQUESTS = (
    "I feel like {}.",
    "Where can I go for {}?",
    "Something with {}, please.",
    "Looking for {}, near me.",
)


@dataclass(frozen=True)
class World:
    """The data, and what only its maker knows.

    Args:
        prepared: what methods see.
        probabilities: (U, N + 1) probability of each item to be a user's last one, given the history before
            it; 0 at padding.
        after_query: the same, given what the user asked for as well.
    """

    prepared: Prepared
    probabilities: NDArray[np.float64]
    after_query: NDArray[np.float64]

    def oracle_hit_rate(self, k: int, *, with_query: bool = False) -> float:
        """The HR@k that the true probabilities promise: nothing can do better but by luck of the draw."""
        table = self.after_query if with_query else self.probabilities
        return float(np.sort(table, axis=1)[:, -k:].sum(axis=1).mean())


@dataclass(frozen=True, slots=True)
class _Visitors:
    """What drives U visitors: (U,) home and number of visits, (U, T) first and last taste, (T, T) habits."""

    home: NDArray[np.int64]
    length: NDArray[np.int64]
    first_taste: NDArray[np.float64]
    last_taste: NDArray[np.float64]
    usual: NDArray[np.float64]


def demo(
    *, num_users: int = NUM_USERS, num_items: int = NUM_ITEMS, seed: int = 0, index_seed: int = 0
) -> Prepared:
    """The demo data set.

    Args:
        num_users: visitors, at least 2.
        num_items: places, at least 24.
        seed: decides the world.
        index_seed: decides the order of item indices.

    Raises:
        UsageError: a size is too small.
    """
    return world(num_users=num_users, num_items=num_items, seed=seed, index_seed=index_seed).prepared


def world(
    *, num_users: int = NUM_USERS, num_items: int = NUM_ITEMS, seed: int = 0, index_seed: int = 0
) -> World:
    """The demo data set and its true probabilities; arguments as for `demo`."""
    if num_users < 2:
        raise UsageError(f"num_users must be at least 2, got {num_users}")
    if num_items < 2 * len(places.TAGS):
        raise UsageError(f"num_items must be at least 2 per tag, {2 * len(places.TAGS)}, got {num_items}")
    rng = np.random.default_rng(seed)
    town = places.build(num_items, rng)
    visitors = _visitors(num_users, rng)
    visits, last = _walk(town, visitors, rng)
    times = _times(visitors.length, rng)
    target = visits[np.arange(num_users), visitors.length - 1]
    queries, match = _queries(town, target, rng)
    position = np.arange(visits.shape[1])
    is_visit = position < visitors.length[:, None]
    user, pos = np.nonzero(is_visit)
    interactions = pl.DataFrame(
        {"user": user + 1, "item": visits[is_visit] + 1, "pos": pos, "time": times[is_visit]},
        schema={"user": pl.Int32, "item": pl.Int32, "pos": pl.Int32, "time": pl.Int64},
    )
    requests = pl.DataFrame({"user": np.arange(1, num_users + 1, dtype=np.int32), "query": queries})
    about = f"made-up town, {num_users:,} visitors, {num_items:,} places, seed {seed}"
    source = Source(interactions, town.table, "unix", {}, requests)
    prepared = assemble("demo", about, source, index_seed=index_seed)
    answer = last * match
    columns = item_indices(town.table["item"], index_seed).sort("item")["raw_item"].to_numpy()
    return World(
        prepared, _indexed(last, columns), _indexed(answer / answer.sum(axis=1, keepdims=True), columns)
    )


def _visitors(num_users: int, rng: np.random.Generator) -> _Visitors:
    """Homes, lengths, tastes and the town's habits; tastes and habits favour few tags."""
    num_tags = len(places.TAGS)
    home = places.pick(np.ones(len(places.DISTRICTS)), rng.random(num_users))
    extra = -MEAN_EXTRA * np.log1p(-rng.random(num_users))
    first, last = rng.random((2, num_users, num_tags)) ** 8
    usual = rng.random((num_tags, num_tags)) ** 12
    return _Visitors(
        home,
        np.minimum(SHORTEST + extra.astype(np.int64), LONGEST),
        first / first.sum(axis=1, keepdims=True),
        last / last.sum(axis=1, keepdims=True),
        usual / usual.sum(axis=1, keepdims=True),
    )


def _walk(
    town: Town, visitors: _Visitors, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(U, T) visited places, -1 past a visitor's end; (U, N) probabilities before everyone's last visit."""
    num_users, steps = len(visitors.home), int(visitors.length.max())
    visits = np.full((num_users, steps), -1)
    last = np.zeros((num_users, len(town.tag)))
    for step in range(steps):
        active = np.flatnonzero(visitors.length > step)
        p = _next(town, visitors, active, visits[active, :step])
        cumulative = np.cumsum(p, axis=1)
        drawn = rng.random(len(active)) * cumulative[:, -1]
        visits[active, step] = (cumulative <= drawn[:, None]).sum(axis=1)
        ending = visitors.length[active] == step + 1
        last[active[ending]] = p[ending]
    return visits, last


def _next(
    town: Town, visitors: _Visitors, users: NDArray[np.int64], history: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(B, N) probability of each place to follow (B, t) `history`: the formula above."""
    step = history.shape[1]
    progress = (step / visitors.length[users])[:, None]
    tags = (1 - progress) * visitors.first_taste[users] + progress * visitors.last_taste[users]  # (B, T)
    if step:
        tags = (1 - HABIT) * tags + HABIT * visitors.usual[town.tag[history[:, -1]]]
    p: NDArray[np.float64] = tags[:, town.tag] * town.within[visitors.home[users]]
    if step == 0:
        return p
    p *= 1 - REPEAT - FOLLOW
    rows = np.arange(len(users))
    recent = history[:, -MEMORY:]
    for column in recent.T:  # one column at a time, so that a place visited twice counts twice
        p[rows, column] += REPEAT / recent.shape[1]
    for rate, follower in zip(places.FOLLOWER_RATES, town.followers[history[:, -1]].T, strict=True):
        p[rows, follower] += FOLLOW * rate
    return p


def _times(length: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(U, T) unix seconds, ascending up to each visitor's length."""
    shape = (len(length), int(length.max()))
    start = (300 * rng.random((len(length), 1))).astype(np.int64)
    day = start + np.cumsum((-2.5 * np.log1p(-rng.random(shape))).astype(np.int64), axis=1)
    second = 3600 * places.pick(_HOURS, rng.random(shape)) + (3600 * rng.random(shape)).astype(np.int64)
    times = START + DAY_S * day + second
    past_end = np.arange(shape[1]) >= length[:, None]
    return np.sort(np.where(past_end, np.iinfo(np.int64).max, times), axis=1)


def _queries(
    town: Town, target: NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[str], NDArray[np.float64]]:
    """What each visitor says before visiting `target`, and (U, N) how likely the words are for each place."""
    names = list(places.TAGS)
    tag, second, brand = town.tag[target], town.second_tag[target], town.brand[target]
    says_second = (rng.random(len(target)) < 0.5) & (second >= 0)
    says_brand = rng.random(len(target)) < BRAND
    template = (len(_REQUESTS) * rng.random(len(target))).astype(np.int64)
    words = [
        names[tag[u]]
        + (f" and {names[second[u]]}" if says_second[u] else "")
        + (f", ideally {places.BRANDS[brand[u]]}" if says_brand[u] else "")
        for u in range(len(target))
    ]
    same_second = 0.5 * (town.second_tag == second[:, None])
    silent = np.where(town.second_tag >= 0, 0.5, 1.0)
    match = (town.tag == tag[:, None]) * np.where(says_second[:, None], same_second, silent)
    match *= np.where(says_brand[:, None], BRAND * (town.brand == brand[:, None]), 1 - BRAND)
    return [_REQUESTS[t].format(said) for t, said in zip(template, words, strict=True)], match


def _indexed(table: NDArray[np.float64], raw_items: NDArray[np.int64]) -> NDArray[np.float64]:
    """(U, N + 1): the columns in order of item index, a column of zeros first."""
    return np.concatenate([np.zeros((len(table), 1)), table[:, raw_items - 1]], axis=1)
