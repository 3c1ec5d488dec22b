from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.stats import chisquare
from torch import Tensor

from recbench.nn import losses
from recbench.nn.losses import BCE, BPR, GBCE, FullSoftmax, Loss, SampledSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("_has_bfloat16")
NUM_POSITIONS, DIM, NUM_ITEMS = 600, 8, 30  # more positions than a block holds


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, targets, item table; both matrices want gradients."""
    made = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_POSITIONS, DIM, generator=made, requires_grad=True)
    target = torch.randint(1, NUM_ITEMS + 1, (NUM_POSITIONS,), generator=made)
    return hidden, target, torch.randn(NUM_ITEMS + 1, DIM, generator=made, requires_grad=True)


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], None]:
    """Makes `torch.randint` return a tensor of our choice."""
    return lambda drawn: monkeypatch.setattr(torch, "randint", lambda *_, **__: drawn)


def value_and_gradients(loss: Tensor, hidden: Tensor, table: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, [hidden, table])]


def off_by(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


class TestFullSoftmax:
    @pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 0.02)])
    @pytest.mark.parametrize("scale", [1.0, 0.25])  # a gradient that comes in is passed on
    def test_is_cross_entropy_over_the_items(
        self, inputs: tuple[Tensor, Tensor, Tensor], half: bool, tolerance: float, scale: float
    ) -> None:
        hidden, target, table = inputs
        found = value_and_gradients(scale * FullSoftmax(half=half)(hidden, target, table), hidden, table)
        reference = scale * F.cross_entropy(hidden @ table[1:].T, target - 1)
        wanted = value_and_gradients(reference, hidden, table)
        assert all(off_by(f, w) < tolerance for f, w in zip(found, wanted, strict=True))

    def test_halves_nothing_where_bfloat16_would_be_emulated(
        self, inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hidden, target, table = inputs
        single = FullSoftmax(half=False)(hidden, target, table)
        assert FullSoftmax(half=True)(hidden, target, table) != single
        monkeypatch.setattr(losses, "multiplies_bfloat16", lambda _: False)
        assert FullSoftmax(half=True)(hidden, target, table) == single

    def test_divides_cosines_by_the_temperature(self, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        hidden, target, table = inputs
        loss = FullSoftmax(half=False, temperature=0.1, cosine=True)(hidden, target, table)
        cosines = F.cosine_similarity(hidden[:, None], table[None, 1:], dim=-1)
        reference = F.cross_entropy(cosines / 0.1, target - 1)
        found, wanted = (value_and_gradients(value, hidden, table) for value in (loss, reference))
        assert all(off_by(f, w) < 1e-5 for f, w in zip(found, wanted, strict=True))

    def test_padding_is_no_item(self, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        hidden, target, table = inputs
        loss = FullSoftmax(half=False)(hidden, target, table)
        loud = table.detach().clone()
        loud[0] = 100
        assert FullSoftmax(half=False)(hidden, target, loud) == loss
        assert torch.autograd.grad(loss, table)[0][0].abs().max() == 0

    def test_a_hopeless_target_costs_a_finite_loss(self) -> None:
        table = torch.tensor([[0.0], [1.0], [-1.0]])
        assert torch.isfinite(FullSoftmax()(torch.tensor([[500.0]]), torch.tensor([2]), table))


class TestSampledSoftmax:
    def test_equals_a_loop_over_the_negatives(
        self, inputs: tuple[Tensor, Tensor, Tensor], draw: Callable[[Tensor], None]
    ) -> None:
        hidden, target, table = (value[:40] for value in inputs)
        negatives = [3, 7, 7, 19, 25]  # one twice; some are targets
        assert set(negatives) & set(target.tolist())
        draw(torch.tensor(negatives))
        total = 0.0
        for state, own in zip(hidden.tolist(), target.tolist(), strict=True):
            scores = {
                item: sum(a * b for a, b in zip(state, table[item].tolist(), strict=True))
                for item in {own, *negatives}
            }
            others = sum(math.exp(scores[item]) for item in negatives if item != own)
            total -= math.log(math.exp(scores[own]) / (math.exp(scores[own]) + others))
        found = SampledSoftmax(num_negatives=5)(hidden, target, table)
        assert found.item() == pytest.approx(total / 40, rel=1e-5)

    def test_with_every_item_once_is_the_full_softmax(
        self, inputs: tuple[Tensor, Tensor, Tensor], draw: Callable[[Tensor], None]
    ) -> None:
        hidden, target, table = inputs
        draw(torch.arange(1, NUM_ITEMS + 1))
        options: dict[str, Any] = {"temperature": 0.5, "cosine": True}
        sampled = SampledSoftmax(num_negatives=NUM_ITEMS, **options)(hidden, target, table)
        full = FullSoftmax(half=False, **options)(hidden, target, table)
        assert sampled.item() == pytest.approx(full.item(), rel=1e-5)

    def test_only_accidental_hits_leave_no_loss(self, draw: Callable[[Tensor], None]) -> None:
        draw(torch.tensor([2, 2]))
        loss = SampledSoftmax(num_negatives=2)(torch.ones(1, 3), torch.tensor([2]), torch.randn(4, 3))
        assert float(loss) == pytest.approx(0, abs=1e-6)

    def test_negatives_are_all_items_alike(self) -> None:
        torch.manual_seed(0)
        table = torch.zeros(13, 1, requires_grad=True)
        SampledSoftmax(num_negatives=12_000)(torch.ones(1, 1), torch.tensor([4]), table).backward()
        assert table.grad is not None
        drawn = torch.cat([table.grad[1:4, 0], table.grad[5:, 0]]).double()
        assert table.grad[0] == 0
        assert chisquare((drawn / drawn.sum() * 11_000).numpy()).pvalue > 1e-4


class TestPointwise:
    """Every item but the target has the same score, so the draw decides nothing."""

    POSITIVE, NEGATIVE = 0.7, -0.4

    @pytest.fixture
    def scored(self) -> tuple[Tensor, Tensor, Tensor]:
        table = torch.full((18, 1), self.NEGATIVE)  # 17 items
        table[5] = self.POSITIVE
        return torch.ones(3, 1), torch.tensor([5, 5, 5]), table

    @pytest.mark.parametrize("num_negatives", [1, 4])
    def test_bce_by_hand(self, scored: tuple[Tensor, Tensor, Tensor], num_negatives: int) -> None:
        wanted = softplus(-self.POSITIVE) + num_negatives * softplus(self.NEGATIVE)
        found = BCE(num_negatives=num_negatives)(*scored)
        assert float(found) == pytest.approx(wanted, rel=1e-6)

    @pytest.mark.parametrize("num_negatives", [1, 4])
    def test_bpr_by_hand(self, scored: tuple[Tensor, Tensor, Tensor], num_negatives: int) -> None:
        wanted = num_negatives * softplus(self.NEGATIVE - self.POSITIVE)
        assert float(BPR(num_negatives=num_negatives)(*scored)) == pytest.approx(wanted, rel=1e-6)

    def test_gbce_by_hand(self, scored: tuple[Tensor, Tensor, Tensor]) -> None:
        # alpha = 4 / (17 - 1) = 1/4; beta = 1/4 (1/2 (1 - 4) + 4) = 5/8
        wanted = (0.625 * softplus(-self.POSITIVE) + 4 * softplus(self.NEGATIVE)) / 5
        found = GBCE(num_negatives=4, calibration=0.5)(*scored)
        assert float(found) == pytest.approx(wanted, rel=1e-6)

    def test_full_calibration_raises_to_the_sampling_rate(
        self, scored: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        wanted = (4 / 16 * softplus(-self.POSITIVE) + 4 * softplus(self.NEGATIVE)) / 5
        assert float(GBCE(num_negatives=4, calibration=1)(*scored)) == pytest.approx(wanted, rel=1e-6)

    def test_gbce_without_calibration_is_bce_averaged_over_its_terms(
        self, inputs: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        torch.manual_seed(1)
        bce = BCE(num_negatives=4)(*inputs)
        torch.manual_seed(1)
        gbce = GBCE(num_negatives=4, calibration=0)(*inputs)
        assert gbce.item() == pytest.approx(bce.item() / 5, rel=1e-6)

    def test_temperature_divides_the_scores(self, scored: tuple[Tensor, Tensor, Tensor]) -> None:
        wanted = softplus(-self.POSITIVE / 0.5) + softplus(self.NEGATIVE / 0.5)
        assert float(BCE(temperature=0.5)(*scored)) == pytest.approx(wanted, rel=1e-6)

    @pytest.mark.parametrize("target", [1, 6, 12])
    @pytest.mark.parametrize(
        "loss",
        [BCE(num_negatives=8), GBCE(num_negatives=8), BPR(num_negatives=8)],
        ids=["bce", "gbce", "bpr"],
    )
    def test_negatives_are_all_other_items_alike(self, loss: Loss, target: int) -> None:
        """At scores of zero an item's gradient is proportional to how often it was drawn."""
        torch.manual_seed(0)
        table = torch.zeros(13, 1, requires_grad=True)
        loss(torch.ones(1500, 1), torch.full((1500,), target), table).backward()
        assert table.grad is not None
        drawn = table.grad[:, 0].double()
        assert drawn[0] == 0
        assert drawn[target] < 0  # pushed up only
        others = torch.cat([drawn[1:target], drawn[target + 1 :]])
        counts = others / others.sum() * 1500 * 8
        assert chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (FullSoftmax, {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        (SampledSoftmax, {"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        (BCE, {"num_negatives": -2}, "num_negatives must be at least 1, got -2"),
        (BPR, {"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        (GBCE, {"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        (GBCE, {"calibration": 1.5}, "calibration must lie in 0..1, got 1.5"),
    ],
)
def test_impossible_options_are_refused(
    make: Callable[..., Loss], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
