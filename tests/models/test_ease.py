"""EASE against what it is: a ridge regression of each item on all others."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from recbench.data.sequences import Sequences
from recbench.errors import ResourceError
from recbench.models import EASE, ease
from recbench.models.ease import item_products, weigh_in_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

N = 6
TRAINED = [[1, 2, 3], [2, 3, 3, 4], [1, 4], [5, 1, 2], [2, 5]]
PENALTY = 0.7


def regressions() -> np.ndarray:
    """(N + 1, N + 1) column j: weights of all items but j that predict item j, by normal equations."""
    x = np.zeros((len(TRAINED), N + 1))
    for user, items in enumerate(TRAINED):
        x[user, items] = 1
    weights = np.zeros((N + 1, N + 1))
    for j in range(1, N + 1):
        others = [i for i in range(1, N + 1) if i != j]
        products = x[:, others].T @ x[:, others] + PENALTY * np.eye(len(others))
        weights[others, j] = np.linalg.solve(products, x[:, others].T @ x[:, j])
    return weights


@pytest.fixture
def solved(data_of: Callable[..., InteractionData]) -> Callable[..., EASE]:
    """Makes a model that has learnt from TRAINED; the two items after them are targets."""

    def make(**options: Any) -> EASE:
        data = data_of([[*items, N, 1] for items in TRAINED])
        model = EASE(**{"penalty": PENALTY, "num_neighbours": N} | options)
        model.build(data.catalog)
        (stage,) = model.stages(data)
        assert stage.solve is not None
        stage.solve()
        return model

    return make


def test_scores_are_those_of_the_regressions(
    solved: Callable[..., EASE], batch_of: Callable[..., SequenceBatch]
) -> None:
    found = solved().score(batch_of([[1, 4], [3, 2, 3], []]))
    weights = torch.from_numpy(regressions()).float()
    wanted = torch.stack([weights[[1, 4]].sum(0), weights[[3, 2]].sum(0), torch.zeros(N + 1)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_newer_items_may_weigh_more(
    solved: Callable[..., EASE], batch_of: Callable[..., SequenceBatch]
) -> None:
    found = solved(decay=0.5).score(batch_of([[4, 2, 4, 1]]))
    weights = torch.from_numpy(regressions()).float()
    wanted = weights[1] + 0.5 * weights[4] + 0.25 * weights[2]  # of the two 4s the newer
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)


def test_the_largest_weights_are_kept_whatever_their_sign(solved: Callable[..., EASE]) -> None:
    table = solved(num_neighbours=2).neighbours
    weights = regressions()
    assert (weights[1:] < -0.01).any()
    for item in range(1, N):
        kept = sorted(abs(weights[item]))[-2:]
        assert sorted(table.weights[item].abs().tolist()) == pytest.approx(kept, rel=1e-3)
        assert table.weights[item].tolist() == pytest.approx(weights[item][table.items[item]], rel=1e-3)


def random_products(size: int) -> np.ndarray:
    x = np.random.default_rng(0).random((3 * size, size), dtype=np.float32)
    return np.ascontiguousarray(x.T @ x)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_products(50)
    inverse = np.linalg.inv(matrix.astype(np.float64) + 2 * np.eye(50))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    monkeypatch.setattr(ease, "_ROWS", 7)
    weigh_in_place(matrix, 2.0)
    np.testing.assert_allclose(matrix, wanted, rtol=1e-2, atol=1e-4)


def test_no_second_matrix_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_products(600)
    monkeypatch.setattr(ease, "_ROWS", 32)
    tracemalloc.start()
    weigh_in_place(matrix, 2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.3 * matrix.nbytes


def test_products_count_users() -> None:
    flat = np.array([item for items in TRAINED for item in items])
    offsets = np.cumsum([0, *map(len, TRAINED)])
    products = item_products(Sequences(flat, offsets), N + 1)
    assert products[2, 3] == products[3, 2] == 2
    assert products[3, 3] == 2  # who took it twice is one user
    assert products[1, 3] == 1
    assert not products[0].any()


def test_no_room_for_the_matrix_says_what_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("scipy.sparse._compressed._cs_matrix.toarray", full)
    with pytest.raises(ResourceError, match=r"all pairs of 100,000 items, 40.0 GB.*take itemknn"):
        item_products(Sequences(np.array([1, 2]), np.array([0, 2])), 100_001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0.0}, "penalty must be above 0, or there is no inverse, got 0"),
        ({"decay": 1.1}, r"decay must lie in 0..1, got 1.1"),
        ({"num_neighbours": 0}, "num_neighbours must be at least 1, got 0"),
    ],
    ids=["penalty", "decay", "neighbours"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EASE(**options)
