"""The graph's propagation against dense matrices, written as the paper does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbench.nn.graph import InteractionGraph

USERS, ITEMS = np.array([0, 0, 0, 1, 1, 3]), np.array([1, 2, 2, 2, 3, 1])  # user 0 took item 2 twice
U, N = 4, 4  # user 2 and item 4 have no edge


@pytest.fixture
def graph() -> InteractionGraph:
    graph = InteractionGraph(U, N)
    graph.fill(USERS, ITEMS)
    return graph


def dense_adjacency() -> torch.Tensor:
    """D^-1/2 A D^-1/2 with A = [[0, R], [R', 0]] (Eq. 6 and 8); where nobody is, nothing."""
    taken = torch.zeros(U, N + 1, dtype=torch.float64)
    taken[USERS, ITEMS] = 1
    size = U + N + 1
    adjacency = torch.zeros(size, size, dtype=torch.float64)
    adjacency[:U, U:], adjacency[U:, :U] = taken, taken.T
    root = adjacency.sum(1).clamp_min(1).rsqrt()
    return root[:, None] * adjacency * root


def layers_by_definition(first: torch.Tensor, num_layers: int) -> list[torch.Tensor]:
    layers = [first]
    for _ in range(num_layers):
        layers.append(dense_adjacency() @ layers[-1])
    return layers


def first_layer() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(U + N + 1, 3, generator=draw, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_mean_of_layers_is_that_of_dense_products(graph: InteractionGraph, num_layers: int) -> None:
    first = first_layer()
    wanted = torch.stack(layers_by_definition(first, num_layers)).mean(0)
    torch.testing.assert_close(graph.layers_mean(first, num_layers), wanted, rtol=1e-6, atol=1e-6)


def test_its_gradient_is_that_of_dense_products(graph: InteractionGraph) -> None:
    first, weights = first_layer(), torch.randn(U + N + 1, 3, dtype=torch.float64)
    wanted = torch.autograd.grad((torch.stack(layers_by_definition(first, 3)).mean(0) * weights).sum(), first)
    found = torch.autograd.grad((graph.layers_mean(first, 3) * weights).sum(), first)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=1e-6)


def test_sum_of_layers(graph: InteractionGraph) -> None:
    first = first_layer()
    wanted = torch.stack(layers_by_definition(first, 2)).sum(0)
    torch.testing.assert_close(graph.layers_sum(first, 2), wanted.detach(), rtol=1e-6, atol=1e-6)


def test_repeats_are_one_edge(graph: InteractionGraph) -> None:
    assert graph.num_edges == 5
    assert graph.degree.tolist() == [2, 2, 0, 1, 0, 2, 2, 1, 0]


def test_filling_again_forgets_what_was_there(graph: InteractionGraph) -> None:
    graph.fill(np.array([2]), np.array([4]))
    assert graph.num_edges == 1
    assert graph.degree.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_a_graph_that_was_not_filled_says_so() -> None:
    with pytest.raises(RuntimeError, match="no edges; fill it with the training interactions"):
        InteractionGraph(U, N).layers_mean(torch.zeros(U + N + 1, 2), 1)


def test_the_adjacency_is_no_part_of_a_checkpoint(graph: InteractionGraph) -> None:
    assert graph.state_dict() == {}
