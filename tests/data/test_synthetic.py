"""The demo world is what its docstring says: seeded, fast, of known signal, with all that methods need."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from recbench.data import prepare, synthetic, town
from recbench.data.certificate import certificate
from recbench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.synthetic import World


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic.world(num_users=2000, num_items=800)


def _hit_rate(scores: NDArray[np.float64], target: NDArray[np.int64], k: int = 10) -> float:
    """HR@k, ties in the target's favour never."""
    own = scores[np.arange(len(target)), target][:, None]
    return float(((scores[:, 1:] >= own).sum(axis=1) <= k).mean())


def _split(world: World) -> tuple[pl.DataFrame, NDArray[np.int64], NDArray[np.int64]]:
    """Interactions but the last of every user; the one before the last; the last."""
    frame = world.prepared.interactions
    head = frame.filter(pl.int_range(pl.len()).reverse().over("user") > 0)
    last = frame.group_by("user", maintain_order=True).last()["item"].to_numpy()
    previous = head.group_by("user", maintain_order=True).last()["item"].to_numpy()
    return head, previous, last


def test_probabilities_are_probabilities(world: World) -> None:
    for table in (world.probabilities, world.after_query):
        assert table.shape == (2000, 801)
        assert table.sum(axis=1) == pytest.approx(np.ones(2000))
        assert table.min() == 0
        assert not table[:, 0].any()


def test_last_items_are_drawn_from_the_stated_probabilities(world: World) -> None:
    _, _, target = _split(world)
    promised = world.probabilities[np.arange(len(target)), target]
    assert promised.min() > 0
    # the mean of p(drawn item) is the mean of sum(p^2); four standard errors of 2,000 draws
    expected = (world.probabilities**2).sum(axis=1)
    spread = np.sqrt((world.probabilities**3).sum(axis=1) - expected**2)
    assert abs(promised.mean() - expected.mean()) < 4 * np.sqrt((spread**2).sum()) / len(target)


@pytest.mark.parametrize("with_query", [False, True])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_oracle_reaches_the_hit_rate_it_promises(world: World, k: int, *, with_query: bool) -> None:
    _, _, target = _split(world)
    promised = world.oracle_hit_rate(k, with_query=with_query)
    table = world.after_query if with_query else world.probabilities
    reached = _hit_rate(table + 1e-12 * np.arange(801), target, k)  # equal probabilities: any order will do
    assert reached == pytest.approx(promised, abs=4 * np.sqrt(promised * (1 - promised) / len(target)))


def test_popularity_is_worse_than_markov_is_worse_than_the_oracle(world: World) -> None:
    head, previous, target = _split(world)
    popularity = np.bincount(head["item"].to_numpy(), minlength=801).astype(float)
    steps = head.with_columns(before=pl.col("item").shift().over("user")).drop_nulls("before")
    counts = np.zeros((801, 801))
    np.add.at(counts, (steps["before"].to_numpy(), steps["item"].to_numpy()), 1)
    noise = 1e-9 * np.arange(801)
    popular = _hit_rate(np.broadcast_to(popularity, (2000, 801)) + noise, target)
    markov = _hit_rate(counts[previous] + 1e-4 * popularity + noise, target)
    assert 0.05 < popular < 0.2
    assert popular + 0.1 < markov < world.oracle_hit_rate(10) - 0.1
    assert world.oracle_hit_rate(10) + 0.2 < world.oracle_hit_rate(10, with_query=True) < 1


def test_followers_follow_at_the_stated_rate(world: World) -> None:
    places = town.build(800, np.random.default_rng(0))
    raw = world.prepared.items.sort("raw_id")["item"].to_numpy()  # raw id i + 1 -> index
    follower = np.zeros(801, dtype=int)
    follower[raw] = raw[places.followers[:, 0]]
    steps = world.prepared.interactions.with_columns(before=pl.col("item").shift().over("user")).drop_nulls(
        "before"
    )
    share = (follower[steps["before"].to_numpy()] == steps["item"].to_numpy()).mean()
    least = synthetic.FOLLOW * town.FOLLOWER_RATES[0]
    assert least - 0.01 < share < least + 0.03  # taste and returns lead there now and then


def test_world_has_everything_that_methods_need(world: World) -> None:
    prepared = world.prepared
    assert prepared.interactions.columns == ["user", "item", "time"]
    assert prepared.items.columns == ["item", "raw_id", "title", "tags", "text", "latitude", "longitude"]
    assert prepared.items["title"].n_unique() == 800
    assert set(prepared.items["tags"].explode()) == set(town.TAGS)
    assert prepared.items.null_count().sum_horizontal().item() == 0
    assert prepared.queries is not None
    assert prepared.queries["user"].to_list() == list(range(2000))
    found = certificate(prepared)
    assert found.faults() == []
    assert 0.1 < found.repeat_target_rate < 0.3


def test_queries_name_the_tag_of_the_last_item_and_sometimes_its_brand(world: World) -> None:
    items, queries = world.prepared.items, world.prepared.queries
    assert queries is not None
    last = world.prepared.interactions.group_by("user", maintain_order=True).last()
    rows = (
        queries.join(last, on="user")
        .join(items, on="item")
        .with_columns(brand=pl.col("title").str.split(" ").list.first())
    )
    main = rows.select(pl.col("query").str.contains(pl.col("tags").list.first(), literal=True)).to_series()
    brand = rows.select(pl.col("query").str.contains(pl.col("brand"), literal=True)).to_series()
    assert main.all()
    assert brand.mean() == pytest.approx(synthetic.BRAND, abs=0.04)


def test_times_ascend_and_follow_the_day(world: World) -> None:
    frame = world.prepared.interactions
    assert frame.select((pl.col("time").diff().over("user").drop_nulls() >= 0).all()).item()
    hour = pl.from_epoch(frame["time"]).dt.hour()
    night, evening = hour.is_between(0, 5).mean(), hour.is_between(17, 21).mean()
    assert isinstance(night, float)
    assert isinstance(evening, float)
    assert evening > 5 * night


def test_visitors_stay_near_home(world: World) -> None:
    places = world.prepared.interactions.join(
        world.prepared.items.select("item", "latitude", "longitude"), on="item"
    )
    spread = places.group_by("user").agg(pl.col("latitude").std())["latitude"].mean()
    overall = world.prepared.items["latitude"].std()
    assert isinstance(spread, float)
    assert isinstance(overall, float)
    assert spread < 0.9 * overall


def test_same_seed_same_world_other_seed_another() -> None:
    first, again, other = (synthetic.demo(num_users=40, num_items=30, seed=seed) for seed in (1, 1, 2))
    assert first.card == again.card
    assert first.card.fingerprint != other.card.fingerprint


def test_probabilities_follow_the_index_seed() -> None:
    plain, moved = (synthetic.world(num_users=30, num_items=40, seed=5, index_seed=seed) for seed in (0, 9))
    for each in (plain, moved):
        each_raw = each.prepared.items["raw_id"].arg_sort().to_numpy() + 1
        assert each.probabilities[:, each_raw].sum() == pytest.approx(30)
    by_raw = [
        each.probabilities[:, each.prepared.items["raw_id"].arg_sort().to_numpy() + 1]
        for each in (plain, moved)
    ]
    assert np.array_equal(by_raw[0], by_raw[1])


def test_load_knows_the_demo_and_takes_little_time() -> None:
    start = time.perf_counter()
    card = prepare.load("demo").card
    assert time.perf_counter() - start < 5  # 0.5 s on a quiet core
    assert (card.num_users, card.num_items) == (1000, 400)


@pytest.mark.parametrize(
    ("sizes", "says"), [({"num_users": 1}, "num_users"), ({"num_items": 23}, "num_items")]
)
def test_worlds_too_small_are_refused(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=f"{says} must be at least"):
        synthetic.demo(**sizes)
