from __future__ import annotations

import math

import pytest
import torch

from recbench.nn.dropout import Dropout

SIZE = 200_000


def dropped(rate: float, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """What a layer in training makes of ones."""
    torch.manual_seed(seed)
    result: torch.Tensor = Dropout(rate)(torch.ones(size))
    return result


# to the nearest of 256 levels, but neither to nothing nor to everything
@pytest.mark.parametrize(
    ("rate", "level"), [(0.5, 128), (0.2, 51), (0.3, 77), (0.9, 230), (1e-4, 1), (0.9999, 255)]
)
class TestRate:
    def test_is_the_share_of_zeros(self, rate: float, level: int) -> None:
        share = float((dropped(rate) == 0).double().mean())
        p = level / 256
        assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / SIZE))

    def test_what_stays_is_scaled_to_the_same_mean(self, rate: float, level: int) -> None:
        kept = dropped(rate)
        assert kept[kept != 0].unique().tolist() == pytest.approx([256 / (256 - level)], rel=1e-6)


def test_neighbours_are_independent() -> None:
    """Eight elements share a draw: each must have its own bits."""
    zeros = (dropped(0.5) == 0).reshape(-1, 8).double()
    together = zeros.T @ zeros / len(zeros)
    off_diagonal = together[~torch.eye(8, dtype=torch.bool)]
    assert (off_diagonal - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / len(zeros))


def test_follows_the_seed_of_torch() -> None:
    assert torch.equal(dropped(0.5, seed=1), dropped(0.5, seed=1))
    assert not torch.equal(dropped(0.5, seed=1), dropped(0.5, seed=2))


def test_changes_from_call_to_call() -> None:
    layer = Dropout(0.5)
    assert not torch.equal(layer(torch.ones(1000)), layer(torch.ones(1000)))


def test_is_the_identity_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4), (0, 4)])
def test_serves_every_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_number_format(dtype: torch.dtype) -> None:
    assert Dropout(0.5)(torch.ones(9, dtype=dtype)).dtype == dtype


def test_gradients_pass_where_values_did() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = Dropout(0.25)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # of ones, value and derivative are the same


@pytest.mark.parametrize("rate", [1.0, -0.1, math.nan])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"must lie in 0..1, 1 excluded, got {rate}"):
        Dropout(rate)
