"""HSTU against its equations in loops, one user, one head and one pair of positions at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import HSTU
from recbench.models.base import Recipe
from recbench.models.hstu import HSTUBlock, time_buckets
from recbench.nn.losses import FullSoftmax, SampledSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.models.hstu import Places

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]
HOUR, DAY = 3_600, 86_400
TIMES = [[0, 0, HOUR, 9 * DAY], [7], [5 * HOUR, 6 * DAY]]
DIM, HIDDEN, HEADS, MAX_LEN = 6, 8, 2, 5
WIDTH = HIDDEN // HEADS


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., HSTU]:
    """Makes a model of five items, no weight of which is small; padding stays zero."""

    def make(**options: Any) -> HSTU:
        torch.manual_seed(0)
        sizes = {"dim": DIM, "hidden": HIDDEN, "num_heads": HEADS, "num_layers": 2, "max_len": MAX_LEN}
        chosen = {"loss": FullSoftmax(half=False, cosine=True, temperature=0.1)} | options
        model = HSTU(**sizes, **chosen)
        model.build(data_of([[1, 2, 3, 4, 5]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.5)
            model.items.weight[0].zero_()
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    made = batch_of(HISTORIES, target=TARGET)
    return replace(made, times=torch.tensor([[0] * (4 - len(row)) + row for row in TIMES]))


def bucket(seconds: int) -> int:
    return int(math.log(max(abs(seconds), 1)) / 0.301)


def layer_by_loop(block: HSTUBlock, x: Tensor, times: list[int] | None) -> Tensor:
    """(L, D) -> (L, D): Eq. 1 to 3, a sum over the positions so far."""
    gate, query, key, value = F.silu(block.norm_input(x) @ block.project_in.weight.T).split(HIDDEN, dim=1)
    out = x.clone()
    for here in range(len(x)):
        total = torch.zeros(HIDDEN)
        for head in range(HEADS):
            part = slice(head * WIDTH, (head + 1) * WIDTH)
            for there in range(here + 1):
                span = 0 if times is None else bucket(times[here] - times[there])
                bias = block.bias.distance[here - there] + block.bias.time[span]
                weight = F.silu(query[here, part] @ key[there, part] + bias) / MAX_LEN
                total[part] += weight * value[there, part]
        out[here] += block.project_out(block.norm_sum(total) * gate[here])
    return out


def alone(model: HSTU, items: list[int], times: list[int] | None) -> Tensor:
    """(L, D) states of one history without padding."""
    x = model.items(torch.tensor(items)) * math.sqrt(DIM)
    steps = torch.arange(len(items))
    if model.place_table is not None:
        x = x + model.place_table(steps if model.places == "from_oldest" else steps.flip(0))
    for block in model.blocks:
        assert isinstance(block, HSTUBlock)
        x = layer_by_loop(block, x, times)
    return x


def cosine_cross_entropy(model: HSTU, states: Tensor, target: list[int]) -> Tensor:
    cosines = F.cosine_similarity(states[:, None], model.items.weight[None, 1:], dim=-1)
    return F.cross_entropy(cosines / 0.1, torch.tensor(target) - 1)


class TestTimeBuckets:
    def test_by_hand(self) -> None:
        # ln 3600 / .301 = 27.2, ln 86400 / .301 = 37.8, ln 82800 / .301 = 37.6
        found = time_buckets(torch.tensor([[0, HOUR, DAY]]), num_buckets=99)
        assert found.tolist() == [[[0, 27, 37], [27, 0, 37], [37, 37, 0]]]

    def test_a_second_is_no_time_and_two_are_some(self) -> None:
        assert time_buckets(torch.tensor([[0, 1, 2]]), num_buckets=99)[0, 0].tolist() == [0, 0, 2]

    def test_longer_spans_share_the_last(self) -> None:
        assert time_buckets(torch.tensor([[0, HOUR, DAY]]), num_buckets=20)[0, 0].tolist() == [0, 19, 19]


@pytest.mark.parametrize("is_timed", [True, False], ids=["times", "no times"])
@pytest.mark.parametrize("places", ["none", "from_newest", "from_oldest"])
@torch.inference_mode()
def test_equals_the_equations(
    built: Callable[..., HSTU], batch: SequenceBatch, places: Places, is_timed: bool
) -> None:
    model = built(places=places)
    batch = batch if is_timed else replace(batch, times=None)
    times = TIMES if is_timed else [None] * len(HISTORIES)
    states = [alone(model, items, own) for items, own in zip(HISTORIES, times, strict=True)]
    for row, wanted in zip(model.states_of(batch), states, strict=True):
        torch.testing.assert_close(row[-len(wanted) :], wanted, rtol=1e-4, atol=1e-5)
    newest = torch.stack([own[-1] for own in states])
    torch.testing.assert_close(model.newest_of(batch), newest, rtol=1e-4, atol=1e-5)

    wanted = F.cosine_similarity(newest[:, None], model.items.weight[None, 1:], dim=-1)
    torch.testing.assert_close(model.score(batch)[:, 1:], wanted, rtol=1e-4, atol=1e-5)
    following = [item for items, last in zip(HISTORIES, TARGET, strict=True) for item in [*items[1:], last]]
    wanted = cosine_cross_entropy(model, torch.cat(states), following)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-5)
    model.recipe = Recipe(samples="prefixes")
    wanted = cosine_cross_entropy(model, newest, TARGET)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_later_item_or_time_changes_no_earlier_state(built: Callable[..., HSTU]) -> None:
    model = built()
    items, times = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, HOUR, DAY, 2 * DAY]])
    before = model.hidden_states(items, times)
    other_item = model.hidden_states(torch.tensor([[1, 2, 5, 4]]), times)
    other_time = model.hidden_states(items, torch.tensor([[0, HOUR, 30 * DAY, 31 * DAY]]))
    for after in (other_item, other_time):
        torch.testing.assert_close(before[:, :2], after[:, :2], rtol=0, atol=0)
        assert not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-3)


@torch.inference_mode()
def test_only_spans_of_time_matter(built: Callable[..., HSTU], batch: SequenceBatch) -> None:
    model = built()
    assert batch.times is not None
    later = replace(batch, times=batch.times + 100 * DAY)
    assert torch.equal(model.score(later), model.score(batch))
    slower = replace(batch, times=batch.times * 10)
    assert not torch.allclose(model.score(slower)[0], model.score(batch)[0], atol=1e-3)
    assert torch.equal(model.score(slower)[1], model.score(batch)[1])  # one item, no span


@torch.inference_mode()
def test_what_is_seen_twice_counts_twice(built: Callable[..., HSTU]) -> None:
    """The reason for a sum instead of a softmax: here the norm that follows is taken out, to see the sum."""
    block = built().blocks[0]
    assert isinstance(block, HSTUBlock)
    block.norm_sum = torch.nn.Identity()
    torch.nn.init.zeros_(block.bias.distance)
    x = torch.randn(1, 1, DIM)
    once, twice = x, x.expand(1, 2, DIM)
    added = [
        block(seen, torch.ones(1, 1, len(seen[0]), len(seen[0])).tril(), None)[:, -1:] - x
        for seen in (once, twice)
    ]
    torch.testing.assert_close(added[1] - block.project_out.bias, 2 * (added[0] - block.project_out.bias))


@torch.inference_mode()
def test_looks_at_the_newest_items_only(
    built: Callable[..., HSTU], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built(places="from_oldest")
    long, short = batch_of([[3, 4, 1, 2, 5, 1, 2]]), batch_of([[1, 2, 5, 1, 2]])
    long = replace(long, times=torch.arange(7)[None] * HOUR)
    short = replace(short, times=torch.arange(5)[None] * HOUR)
    assert torch.equal(model.score(long), model.score(short))


@pytest.mark.parametrize("is_timed", [True, False], ids=["times", "no times"])
def test_every_weight_learns(built: Callable[..., HSTU], batch: SequenceBatch, is_timed: bool) -> None:
    model = built(places="from_newest")
    model.loss(batch if is_timed else replace(batch, times=None)).backward()
    for weights in model.parameters():
        assert weights.grad is not None
        assert weights.grad.isfinite().all()
        assert weights.grad.abs().max() > 0


def test_by_default_cosines_compete_with_512_negatives() -> None:
    loss = HSTU().criterion
    assert isinstance(loss, SampledSoftmax)
    assert (loss.num_negatives, loss.temperature, loss.cosine) == (512, 0.1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide hidden, got 3 and 64"),
        ({"num_time_buckets": 0}, "num_time_buckets must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout rate must lie in 0..1"),
        ({"embedding_dropout": -0.1}, "dropout rate must lie in 0..1"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HSTU(**options)
