"""BSARec against the Fourier transform of the whole window and PyTorch's own attention, user by user."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from recbench.models import BSARec
from recbench.models.base import Recipe
from recbench.models.bsarec import BSARecBlock, FrequencyRescaler, low_pass
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]
DIM, HEADS, PLACES, CUTOFF, ALPHA = 8, 2, 6, 3, 0.7


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., BSARec]:
    """Makes a model of five items, no weight of which is small; padding stays zero."""

    def make(**options: Any) -> BSARec:
        torch.manual_seed(0)
        sizes = {"dim": DIM, "num_heads": HEADS, "hidden": 12, "max_len": PLACES, "cutoff": CUTOFF}
        model = BSARec(**sizes, alpha=ALPHA, loss=FullSoftmax(half=False), **options)
        model.build(data_of([[1, 2, 3, 4, 5]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.5)
            model.items.weight[0].zero_()
        return model.eval()

    return make


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def filtered_by_fft(rescaler: FrequencyRescaler, x: Tensor) -> Tensor:
    """(L, D): zeros before the history up to the window, there and back through the spectrum."""
    window = F.pad(x, (0, 0, PLACES - len(x), 0))
    spectrum = torch.fft.rfft(window, dim=0, norm="ortho")
    spectrum[CUTOFF // 2 + 1 :] = 0
    slow = torch.fft.irfft(spectrum, n=PLACES, dim=0, norm="ortho")[-len(x) :]
    return slow + rescaler.sqrt_beta**2 * (x - slow)


def attention_of_pytorch(block: BSARecBlock) -> nn.MultiheadAttention:
    """PyTorch's own attention with the weights of ours."""
    theirs, ours = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval(), block.attention
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.project_in.weight,
            "in_proj_bias": ours.project_in.bias,
            "out_proj.weight": ours.project_out.weight,
            "out_proj.bias": ours.project_out.bias,
        }
    )
    return theirs


def alone(model: BSARec, items: list[int]) -> Tensor:
    """(L, D) states of one history without padding."""
    places = torch.arange(len(items)).flip(0)
    x = model.input_norm(model.items(torch.tensor(items)) + model.places(places))
    mask = nn.Transformer.generate_square_subsequent_mask(len(items))
    for block in model.blocks:
        assert isinstance(block, BSARecBlock)
        attended = attention_of_pytorch(block)(x[None], x[None], x[None], attn_mask=mask)[0][0]
        by_filter = block.norm_filter(x + filtered_by_fft(block.filter, x))
        x = ALPHA * by_filter + (1 - ALPHA) * block.norm_attention(x + attended)
        x = block.norm_forward(x + block.feed_forward(x))
    return x


class TestFilter:
    def test_by_hand(self) -> None:
        # (1 + 2 cos(pi d / 2)) / 4 at distances 0, 1, 2, 3 of four places
        wanted = [[3, 1, -1, 1], [1, 3, 1, -1], [-1, 1, 3, 1], [1, -1, 1, 3]]
        torch.testing.assert_close(low_pass(4, cutoff=3) * 4, torch.tensor(wanted).float())

    def test_the_slowest_component_is_the_mean(self) -> None:
        torch.testing.assert_close(low_pass(5, cutoff=1), torch.full((5, 5), 0.2))

    @pytest.mark.parametrize("cutoff", [6, 99])
    def test_no_cut_keeps_everything(self, cutoff: int) -> None:
        torch.testing.assert_close(low_pass(6, cutoff=cutoff), torch.eye(6))

    def test_slow_waves_pass_and_fast_ones_are_scaled(self) -> None:
        rescaler = FrequencyRescaler(2, num_places=PLACES, cutoff=CUTOFF)
        with torch.no_grad():
            rescaler.sqrt_beta.copy_(torch.tensor([0.5, -3.0]))
        steps = torch.arange(PLACES)
        slow = torch.cos(2 * math.pi * steps / PLACES)[None, :, None].expand(1, -1, 2)
        fast = torch.cos(math.pi * steps)[None, :, None].expand(1, -1, 2)
        torch.testing.assert_close(rescaler(slow), slow)
        torch.testing.assert_close(rescaler(fast), fast * torch.tensor([0.25, 9.0]))


class TestModel:
    @torch.inference_mode()
    def test_equals_the_literal_composition(self, built: Callable[..., BSARec], batch: SequenceBatch) -> None:
        model = built()
        states = [alone(model, items) for items in HISTORIES]
        for row, wanted in zip(model.hidden_states(batch.history), states, strict=True):
            torch.testing.assert_close(row[-len(wanted) :], wanted, rtol=1e-4, atol=1e-5)
        newest = torch.stack([own[-1] for own in states])
        torch.testing.assert_close(model.newest_state(batch.history), newest, rtol=1e-4, atol=1e-5)
        table = model.items.weight
        torch.testing.assert_close(model.score(batch), newest @ table.T, rtol=1e-4, atol=1e-4)
        wanted = F.cross_entropy(newest @ table[1:].T, torch.tensor(TARGET) - 1)
        torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-5)

    @torch.inference_mode()
    def test_looks_at_the_newest_items_only(
        self, built: Callable[..., BSARec], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = built()
        long, short = batch_of([[3, 4, 1, 2, 5, 1, 2, 4]]), batch_of([[1, 2, 5, 1, 2, 4]])
        assert torch.equal(model.score(long), model.score(short))

    def test_padding_gets_no_gradient(self, built: Callable[..., BSARec], batch: SequenceBatch) -> None:
        model = built()
        model.loss(batch).backward()
        assert all(
            weights.grad is not None and weights.grad.isfinite().all() for weights in model.parameters()
        )
        assert model.places.weight.grad is not None
        used = model.places.weight.grad.abs().sum(1) > 0  # places 0..3 of the longest history, none beyond
        assert used.tolist() == [True] * 4 + [False] * 2


class TestBothWays:
    """Why positions of one window cannot learn at once."""

    @torch.inference_mode()
    def test_an_earlier_state_has_seen_later_items(self, built: Callable[..., BSARec]) -> None:
        model = built(num_layers=1)
        states = model.hidden_states(torch.tensor([[1, 2], [1, 3]]))
        assert not torch.allclose(states[0, 0], states[1, 0], atol=1e-3)

    def test_by_the_filter_and_not_by_attention(self, built: Callable[..., BSARec]) -> None:
        for alpha, is_seen in ((0.0, False), (1.0, True)):
            model = built(num_layers=1)
            model.blocks[0].alpha = alpha
            model.hidden_states(torch.tensor([[1, 2]]))[0, 0].square().sum().backward()
            grad = model.items.weight.grad
            assert grad is not None
            assert bool(grad[2].abs().max() > 1e-4) == is_seen  # item 2 is what the first state must guess

    def test_so_they_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"samples must be prefixes, got positions: .* both ways") as e:
            BSARec(recipe=Recipe(samples="positions"))
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.1}, "alpha must lie in 0..1, got 1.1"),
        ({"alpha": -0.1}, "alpha must lie in 0..1, got -0.1"),
        ({"cutoff": 0}, "cutoff must be at least 1, got 0"),
        ({"num_heads": 3}, "num_heads must divide dim, got 3 and 64"),
        ({"dropout": 1.0}, "dropout rate must lie in 0..1"),
        ({"embedding_dropout": 1.0}, "dropout rate must lie in 0..1"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BSARec(**options)
