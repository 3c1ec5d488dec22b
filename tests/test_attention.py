from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from recbench.nn.attention import SelfAttention, TransformerBlock, causal_mask

DIM, HEADS = 6, 2


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rows_of(history: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Items, and a random vector at each place."""
    items = torch.tensor(history)
    return items, torch.randn(*items.shape, DIM)


def attend_by_loop(attention: SelfAttention, x: Tensor, items: list[int]) -> Tensor:
    """One history; every position looks at itself and at the real ones before it, one head at a time."""
    q, k, v = attention.project_in(x).chunk(3, dim=-1)
    width = DIM // HEADS

    def bias_of(head: int, distance: int) -> float:
        return 0.0 if attention.distance_bias is None else float(attention.distance_bias[head, distance])

    out = torch.zeros_like(x)
    for here in range(len(items)):
        visible = [place for place in range(here + 1) if items[place] != 0 or place == here]
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            weights = [
                math.exp(
                    float(q[here, part] @ k[place, part]) / math.sqrt(width) + bias_of(head, here - place)
                )
                for place in visible
            ]
            for place, weight in zip(visible, weights, strict=True):
                out[here, part] += weight / sum(weights) * v[place, part]
    projected: Tensor = attention.project_out(out)
    return projected


class TestMask:
    def test_by_hand(self) -> None:
        mask = causal_mask(torch.tensor([[0, 0, 7], [0, 4, 5], [1, 2, 3]]))
        assert mask is not None
        assert mask.shape == (3, 1, 3, 3)
        assert mask.int()[:, 0].tolist() == [
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[1, 0, 0], [0, 1, 0], [0, 1, 1]],
            [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        ]

    def test_without_padding_there_is_none(self) -> None:
        assert causal_mask(torch.tensor([[1, 2], [3, 3]])) is None


class TestSelfAttention:
    @pytest.mark.parametrize("max_distance", [0, 4, 9])
    @pytest.mark.parametrize("history", [[[3, 1, 2, 5]], [[0, 0, 4, 2], [0, 1, 1, 3], [0, 0, 0, 0]]])
    @torch.inference_mode()
    def test_equals_a_loop(self, history: list[list[int]], max_distance: int) -> None:
        attention = SelfAttention(DIM, num_heads=HEADS, dropout=0, max_distance=max_distance).eval()
        if attention.distance_bias is not None:
            attention.distance_bias.normal_()
        items, x = rows_of(history)
        found = attention(x, causal_mask(items))
        wanted = torch.stack([attend_by_loop(attention, *row) for row in zip(x, history, strict=True)])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)

    @torch.inference_mode()
    def test_it_may_begin_as_a_mean_of_what_is_seen(self) -> None:
        attention = SelfAttention(DIM, num_heads=HEADS, dropout=0).eval()
        attention.begin_as_mean()
        items, x = rows_of([[0, 3, 1, 2]])
        attention.project_in.weight[:DIM].zero_()
        attention.project_in.bias[:DIM].zero_()  # everybody looks at all alike
        found = attention(x, causal_mask(items))[0]
        torch.testing.assert_close(found[1], x[0, 1])
        torch.testing.assert_close(found[3], x[0, 1:].mean(0))

    @torch.inference_mode()
    def test_dropout_is_off_in_evaluation_and_on_in_training(self) -> None:
        attention = SelfAttention(DIM, num_heads=1, dropout=0.5)
        _, x = rows_of([[1, 2, 3, 4]])
        assert not torch.equal(attention(x, None), attention(x, None))
        attention.eval()
        assert torch.equal(attention(x, None), attention(x, None))

    def test_distances_must_be_known(self) -> None:
        _, x = rows_of([[1, 2, 3]])
        with pytest.raises(ValueError, match="a history may have 2 items, got 3"):
            SelfAttention(DIM, num_heads=1, dropout=0, max_distance=2)(x, None)

    def test_heads_must_divide_the_width(self) -> None:
        with pytest.raises(ValueError, match="num_heads must divide dim, got 4 and 6"):
            SelfAttention(6, num_heads=4, dropout=0)


class TestBlock:
    @pytest.fixture(params=[0, 6], ids=["no bias", "distance bias"])
    def block(self, request: pytest.FixtureRequest) -> TransformerBlock:
        made = TransformerBlock(
            DIM, num_heads=HEADS, hidden=10, dropout=0.3, max_distance=request.param
        ).eval()
        if made.attention.distance_bias is not None:
            nn.init.normal_(made.attention.distance_bias)
        return made

    @torch.inference_mode()
    def test_is_the_pre_norm_layer_of_pytorch(self) -> None:
        block = TransformerBlock(DIM, num_heads=HEADS, hidden=10, dropout=0.3).eval()
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, 10, activation="gelu", norm_first=True, batch_first=True
        )
        copies = {
            "self_attn.in_proj_": block.attention.project_in,
            "self_attn.out_proj.": block.attention.project_out,
            "linear1.": block.feed_forward[0],
            "linear2.": block.feed_forward[3],
            "norm1.": block.norm_attention,
            "norm2.": block.norm_forward,
        }
        for module in copies.values():  # norms start as the identity, biases at zero
            for weights in module.parameters():
                nn.init.normal_(weights)
        layer.load_state_dict(
            {
                f"{to}{end}": getattr(module, end)
                for to, module in copies.items()
                for end in ("weight", "bias")
            }
        )
        _, x = rows_of([[1, 2, 3, 4, 5]])
        causal = nn.Transformer.generate_square_subsequent_mask(5)
        torch.testing.assert_close(
            block(x, None), layer.eval()(x, src_mask=causal, is_causal=True), rtol=1e-4, atol=1e-5
        )

    @torch.inference_mode()
    def test_a_later_item_changes_no_earlier_state(self, block: TransformerBlock) -> None:
        for history in ([[1, 2, 3, 4]], [[0, 2, 3, 4]]):
            items, x = rows_of(history)
            changed = x.clone()
            changed[:, 2] += 1
            before, after = block(x, causal_mask(items)), block(changed, causal_mask(items))
            torch.testing.assert_close(before[:, :2], after[:, :2], rtol=0, atol=0)
            assert not torch.allclose(before[:, 2:], after[:, 2:])

    @torch.inference_mode()
    def test_padding_changes_no_state(self, block: TransformerBlock) -> None:
        items, x = rows_of([[0, 0, 0, 4, 2]])
        padded = block(x, causal_mask(items))
        torch.testing.assert_close(
            padded[:, 3:], block(x[:, 3:], causal_mask(items[:, 3:])), rtol=1e-4, atol=1e-6
        )
        assert padded.isfinite().all()

    def test_padding_leaves_the_gradient_finite(self, block: TransformerBlock) -> None:
        items, x = rows_of([[0, 0, 1], [0, 0, 0]])
        x.requires_grad_()
        block(x, causal_mask(items))[:, -1].sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad[0, :2].abs().max() == 0
