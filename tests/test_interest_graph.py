"""Graph, attention, pooling and recurrence of SURGE against loops over single numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from recbench.nn.interest_graph import (
    AUGRU,
    InterestAttention,
    InterestEncoder,
    check_share,
    masked_softmax,
    metric_graph,
    most_fitting,
    normalised,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DIM, HIDDEN, POOL = 4, 3, 3
LENGTHS = [5, 1, 2, 0]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def batch_of(lengths: list[int], *, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, L, D) vectors, zero at padding on the left, and (B, L) where they are real."""
    generator = torch.Generator().manual_seed(seed)
    x, real = torch.zeros(len(lengths), width, DIM), torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        if length:
            x[row, -length:] = torch.randn(length, DIM, generator=generator)
            real[row, -length:] = True
    return x, real


def encoder(**options: float) -> InterestEncoder:
    """No weight of it is small."""
    torch.manual_seed(0)
    sizes = {"hidden": HIDDEN, "attention_hidden": 6, "pool_len": POOL}
    made = InterestEncoder(DIM, **sizes | {"keep_rate": 0.5, "embedding_dropout": 0.0} | options)  # type: ignore[arg-type]
    with torch.no_grad():
        for weights in made.parameters():
            weights.normal_(std=0.7)
    return made.eval()


def cosine(a: Tensor, b: Tensor, weight: Tensor) -> float:
    a, b = a * weight, b * weight
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def graph_by_loop(x: Tensor, weight: Tensor, keep_rate: float) -> list[list[int]]:
    """Edges of one history without padding."""
    n = len(x)
    if n == 0:
        return []
    alike = [[cosine(x[i], x[j], weight) for j in range(n)] for i in range(n)]
    ranked = sorted((value for row in alike for value in row), reverse=True)
    least = ranked[math.ceil(keep_rate * n * n - 1e-9) - 1]
    return [[int(i == j or alike[i][j] >= least - 1e-5) for j in range(n)] for i in range(n)]


def spread_by_loop(edges: list[list[int]], x: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 x."""
    degree = [sum(row) for row in edges]
    out = torch.zeros_like(x)
    for i, row in enumerate(edges):
        for j, edge in enumerate(row):
            out[i] += edge * x[j] / math.sqrt(degree[i] * degree[j])
    return out


def logit_by_concat(attention: InterestAttention, key: Tensor, query: Tensor) -> Tensor:
    """One logit, the first layer applied to the four parts side by side; the difference has weights, too."""
    difference = torch.randn(attention.of_key.weight.shape, generator=torch.Generator().manual_seed(3))
    first = torch.cat(
        [
            attention.of_key.weight - difference,
            attention.of_query.weight + difference,
            difference,
            attention.of_product.weight,
        ],
        dim=1,
    )
    key = attention.transform.weight @ key
    hidden = first @ torch.cat([key, query, key - query, key * query]) + attention.of_key.bias
    out: Tensor = attention.rest(hidden)[0]
    return out


def fused_by_loop(made: InterestEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Fused items of one history and how much each is a centre."""
    edges = graph_by_loop(x, made.metric, made.keep_rate)
    around = spread_by_loop(edges, spread_by_loop(edges, x))
    logits = [float(logit_by_concat(made.to_cluster, x[j], around[j])) for j in range(len(x))]
    fused = []
    for i, row in enumerate(edges):
        near = [j for j, edge in enumerate(row) if edge]
        total = sum(math.exp(logits[j]) for j in near)
        gathered = torch.stack([math.exp(logits[j]) / total * x[j] for j in near]).sum(0)
        value = made.mix.weight @ gathered + x[i]
        fused.append(torch.where(value > 0, value, 0.2 * value))
    h = torch.stack(fused)
    around = spread_by_loop(edges, spread_by_loop(edges, h))
    return h, torch.stack([logit_by_concat(made.to_cluster, h[j], around[j]) for j in range(len(x))])


def augru_by_loop(augru: AUGRU, x: Tensor, attention: list[float]) -> list[float]:
    """The written equations, one number of the state at a time."""
    size = augru.of_state.in_features
    state = [0.0] * size
    for item, a in zip(x, attention, strict=True):
        given = (augru.of_item.weight @ item + augru.of_item.bias).tolist()
        own = (augru.of_state.weight @ torch.tensor(state) + augru.of_state.bias).tolist()
        new_state = []
        for k in range(size):
            r = 1 / (1 + math.exp(-given[k] - own[k]))
            z = 1 / (1 + math.exp(-given[size + k] - own[size + k]))
            n = math.tanh(given[2 * size + k] + r * own[2 * size + k])
            z = (1 - a) * z
            new_state.append(z * state[k] + (1 - z) * n)
        state = new_state
    return state


def answer_by_loop(made: InterestEncoder, x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """State and readout of one history and one query."""
    h, centre = fused_by_loop(made, x)
    fit = [float(centre[j] + logit_by_concat(made.to_query, h[j], query)) for j in range(len(h))]
    total = sum(map(math.exp, fit))
    best = sorted(range(len(h)), key=lambda j: -fit[j])[:POOL]
    kept = [j for j in range(len(h)) if j in best]  # in the order of the history
    readout = torch.stack([math.exp(fit[j]) / total * h[j] for j in kept]).sum(0)
    logits = [float(logit_by_concat(made.to_step, h[j], query)) for j in kept]
    weights = [math.exp(value) / sum(map(math.exp, logits)) for value in logits]
    return torch.tensor(augru_by_loop(made.augru, h[kept], weights)), readout


class TestGraph:
    def test_by_hand(self) -> None:
        """Directions at 0, 20 and 90 degrees: of nine pairs five stay, three of them self-pairs."""
        angles = torch.tensor([0.0, 20.0, 90.0]).deg2rad()
        x = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
        found = metric_graph(x, torch.ones(2), torch.ones(1, 3, dtype=torch.bool), keep_rate=0.5)
        assert found[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
        wanted = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
        torch.testing.assert_close(normalised(found)[0], wanted)

    def test_weights_say_what_is_alike(self) -> None:
        x = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]])
        real = torch.ones(1, 3, dtype=torch.bool)
        first, second = (
            metric_graph(x, torch.tensor(weight), real, keep_rate=0.5)[0].int().tolist()
            for weight in ([1.0, 0.1], [0.1, 1.0])
        )
        assert first == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
        assert second == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]

    @pytest.mark.parametrize("keep_rate", [0.1, 0.5, 0.8, 1.0])
    def test_each_history_keeps_its_share_whatever_its_length(self, keep_rate: float) -> None:
        x, real = batch_of(LENGTHS, width=7)
        weight = torch.tensor([0.5, 1.0, -2.0, 1.5])
        found = metric_graph(x, weight, real, keep_rate=keep_rate)
        for row, length in enumerate(LENGTHS):
            corner = found[row, 7 - length :, 7 - length :]
            assert corner.int().tolist() == graph_by_loop(x[row, 7 - length :], weight, keep_rate)
            around = torch.eye(7)
            around[7 - length :, 7 - length :] = corner
            assert torch.equal(found[row], around)  # padding knows itself and nobody else

    def test_repeated_items_are_joined_alike(self) -> None:
        """Rounding must not choose between pairs of the same two items."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            x = torch.randn(6, 16, generator=generator)[torch.tensor([0, 1, 2, 0, 1, 3, 4, 5, 2, 0])]
            for pad in (0, 3):
                real = torch.arange(10 + pad)[None] >= pad
                padded = F.pad(x, (0, 0, pad, 0))[None]
                found = metric_graph(padded, torch.ones(16), real, keep_rate=0.5)[0, pad:, pad:]
                assert torch.equal(found, found.T)
                assert torch.equal(found[0, [1, 2, 5, 6]], found[9, [1, 2, 5, 6]])
                assert torch.equal(found[0, [1, 2, 5]], found[0, [4, 8, 5]])

    @torch.inference_mode(mode=False)
    def test_the_metric_learns_though_edges_are_ones(self) -> None:
        x, real = batch_of(LENGTHS, width=5)
        weight = torch.ones(DIM, requires_grad=True)
        adjacency = metric_graph(x, weight, real, keep_rate=0.5)
        assert set(adjacency.flatten().tolist()) == {0.0, 1.0}
        (normalised(adjacency) @ x).square().sum().backward()
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().max() > 1e-3

    def test_normalised_by_loop(self) -> None:
        x, real = batch_of([6], width=6)
        adjacency = metric_graph(x, torch.ones(DIM), real, keep_rate=0.4)
        wanted = spread_by_loop(adjacency[0].int().tolist(), x[0])
        torch.testing.assert_close((normalised(adjacency) @ x)[0], wanted)


class TestAttention:
    def test_equals_a_net_of_the_four_parts(self) -> None:
        attention = encoder().to_query
        torch.manual_seed(1)
        key, query = torch.randn(2, 1, 5, DIM), torch.randn(2, 3, 1, DIM)
        found = attention(key, query)
        assert found.shape == (2, 3, 5)
        for b, c, j in ((0, 0, 0), (0, 2, 4), (1, 1, 3)):
            torch.testing.assert_close(
                found[b, c, j], logit_by_concat(attention, key[b, 0, j], query[b, c, 0])
            )

    def test_softmax_over_what_is_real(self) -> None:
        logits = torch.tensor([[9.0, 0.0, math.log(3)], [9.0, 9.0, 9.0]])
        real = torch.tensor([[False, True, True], [False, False, False]])
        torch.testing.assert_close(
            masked_softmax(logits, real), torch.tensor([[0, 0.25, 0.75], [0.0, 0.0, 0.0]])
        )


class TestPooling:
    def test_keeps_the_order_of_the_history(self) -> None:
        logits, real = torch.tensor([[3.0, 1.0, 2.0, 5.0, 4.0]]), torch.ones(1, 5, dtype=torch.bool)
        assert most_fitting(logits, real, 3).tolist() == [[0, 3, 4]]

    def test_of_equals_the_newest_stays(self) -> None:
        logits = torch.tensor([[2.0, 1.0 + 1e-7, 1.0, 1.0 - 1e-7, 0.0]])
        assert most_fitting(logits, torch.ones(1, 5, dtype=torch.bool), 2).tolist() == [[0, 3]]

    def test_padding_fills_up_in_front(self) -> None:
        logits, real = torch.tensor([[9.0, 9.0, 9.0, -5.0, -7.0]]), torch.tensor([[False] * 3 + [True] * 2])
        kept = most_fitting(logits, real, 3)
        assert kept[0, 1:].tolist() == [3, 4]
        assert kept[0, 0] < 3


class TestAUGRU:
    @pytest.fixture
    def augru(self) -> AUGRU:
        return encoder().augru

    def test_equals_the_written_equations(self, augru: AUGRU) -> None:
        x, real = batch_of([4], width=4)
        attention = torch.tensor([[[0.1, 0.7, 0.0, 0.2], [1.0, 0.3, 0.5, 0.9]]])
        found = augru(x[:, None], attention, real[:, None])
        for row, weights in enumerate(attention[0]):
            wanted = torch.tensor(augru_by_loop(augru, x[0], weights.tolist()))
            torch.testing.assert_close(found[0, row], wanted)

    def test_without_attention_it_is_the_gru_of_pytorch(self, augru: AUGRU) -> None:
        theirs = nn.GRU(DIM, HIDDEN, batch_first=True)
        given, own = augru.of_item, augru.of_state
        theirs.load_state_dict(
            {
                "weight_ih_l0": given.weight,
                "bias_ih_l0": given.bias,
                "weight_hh_l0": own.weight,
                "bias_hh_l0": own.bias,
            }
        )
        x, real = batch_of([5, 5], width=5)
        found = augru(x[:, None], torch.zeros(2, 1, 5), real[:, None])
        torch.testing.assert_close(found[:, 0], theirs(x)[1][0])

    def test_full_attention_replaces_the_state(self, augru: AUGRU) -> None:
        """With r at 0, n is tanh of the item's part alone, whatever came before."""
        with torch.no_grad():
            augru.of_item.bias[:HIDDEN] = -99.0
        x, real = batch_of([3], width=3)
        found = augru(x[:, None], torch.tensor([[[0.0, 0.5, 1.0]]]), real[:, None])
        torch.testing.assert_close(found[0, 0], torch.tanh(augru.of_item(x[0, -1])[2 * HIDDEN :]))

    def test_padding_leaves_the_state_at_zero(self, augru: AUGRU) -> None:
        x, real = batch_of([0], width=3)
        assert not augru(x[:, None], torch.zeros(1, 2, 3), real[:, None]).any()


class TestEncoder:
    def test_fusion_by_loop(self) -> None:
        made = encoder()
        x, real = batch_of(LENGTHS, width=6)
        fused, centre, _ = made.fuse(x, real)
        for row, length in enumerate(LENGTHS[:-1]):
            wanted, logits = fused_by_loop(made, x[row, -length:])
            torch.testing.assert_close(fused[row, -length:], wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(centre[row, -length:], logits, rtol=1e-4, atol=1e-5)

    def test_answers_by_loop(self) -> None:
        """The first history is longer than what pooling leaves, the others are not."""
        made = encoder()
        x, real = batch_of(LENGTHS, width=6)
        torch.manual_seed(2)
        query = torch.randn(len(LENGTHS), 7, DIM)
        state, readout = made.ask(made.fuse(x, real), query)
        for row, length in enumerate(LENGTHS[:-1]):
            for column in range(7):
                wanted = answer_by_loop(made, x[row, -length:], query[row, column])
                torch.testing.assert_close(state[row, column], wanted[0], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(readout[row, column], wanted[1], rtol=1e-4, atol=1e-5)
        assert not state[-1].any()  # an empty history says nothing
        assert not readout[-1].any()

    def test_queries_keep_different_nodes(self) -> None:
        """Pooling is done for each query, or the test above would not see the difference."""
        made = encoder()
        x, real = batch_of([5], width=5)
        torch.manual_seed(2)
        fused = made.fuse(x, real)
        logits = fused.centre[:, None] + made.to_query(fused.x[:, None], torch.randn(1, 20, 1, DIM))
        kept = most_fitting(logits, real[:, None], POOL)
        assert len({tuple(row) for row in kept[0].tolist()}) > 1

    @pytest.mark.parametrize("pool_len", [2, 50])
    def test_padding_changes_nothing(self, pool_len: int) -> None:
        made = encoder(pool_len=pool_len)
        torch.manual_seed(2)
        query = torch.randn(len(LENGTHS), 3, DIM)
        short, long = (
            made.ask(made.fuse(*batch_of(LENGTHS, width=width)), query) for width in (max(LENGTHS), 11)
        )
        torch.testing.assert_close(short, long)

    def test_repeated_items_are_pooled_alike_however_much_padding(self) -> None:
        made = encoder()
        for seed in range(20):
            x, real = batch_of([6], width=6, seed=seed)
            x = x[:, [0, 1, 0, 2, 1, 0]]
            torch.manual_seed(seed)
            query = torch.randn(1, 5, DIM)
            plain = made.ask(made.fuse(x, real), query)
            padded = made.ask(made.fuse(F.pad(x, (0, 0, 3, 0)), F.pad(real, (3, 0))), query)
            torch.testing.assert_close(plain, padded)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_of_nothing_or_too_much_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"keep_rate must lie in 0..1, 0 excluded, got"):
        check_share("keep_rate", share)
