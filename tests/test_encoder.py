"""The encoder against PyTorch's own layers, and what its places count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recbench.nn.attention import causal_mask, padding_mask
from recbench.nn.encoder import SequenceEncoder

DIM, HEADS, HIDDEN, LAYERS = 8, 2, 12, 2


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder(*, max_len: int = 6) -> SequenceEncoder:
    made = SequenceEncoder(
        DIM,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden=HIDDEN,
        dropout=0.5,
        embedding_dropout=0.5,
        max_len=max_len,
    )
    for weights in made.parameters():
        nn.init.normal_(weights, std=0.5)
    return made.eval()


def by_torch(ours: SequenceEncoder, x: Tensor, hidden_keys: Tensor) -> Tensor:
    """The same weights in `nn.TransformerEncoderLayer`s, the slow path; nobody may look at `hidden_keys`."""
    length = x.shape[1]
    x = x + torch.stack([ours.places.weight[length - 1 - column] for column in range(length)])
    x = ours.input_norm(x)
    for block in ours.blocks:
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        names = {
            "self_attn.in_proj_weight": block.attention.project_in.weight,
            "self_attn.in_proj_bias": block.attention.project_in.bias,
            "self_attn.out_proj.weight": block.attention.project_out.weight,
            "self_attn.out_proj.bias": block.attention.project_out.bias,
            "linear1.weight": block.feed_forward[0].weight,
            "linear1.bias": block.feed_forward[0].bias,
            "linear2.weight": block.feed_forward[-1].weight,
            "linear2.bias": block.feed_forward[-1].bias,
            "norm1.weight": block.norm_attention.weight,
            "norm1.bias": block.norm_attention.bias,
            "norm2.weight": block.norm_forward.weight,
            "norm2.bias": block.norm_forward.bias,
        }
        layer.load_state_dict(names)
        x = layer.train()(x, src_key_padding_mask=hidden_keys)
    out: Tensor = ours.output_norm(x)
    return out


class TestPaddingMask:
    def test_by_hand(self) -> None:
        mask = padding_mask(torch.tensor([[0, 4, 5], [0, 0, 7], [1, 2, 3]]))
        assert mask.shape == (3, 1, 1, 3)
        assert mask.int()[:, 0, 0].tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]

    def test_the_newest_place_of_an_empty_history_is_seen(self) -> None:
        assert padding_mask(torch.tensor([[0, 0]])).int().flatten().tolist() == [0, 1]


class TestBothWays:
    @pytest.mark.parametrize("history", [[[3, 1, 2, 5]], [[0, 0, 4, 2], [0, 1, 1, 3], [6, 1, 2, 3]]])
    @torch.no_grad()
    def test_equals_torch(self, history: list[list[int]]) -> None:
        items, ours = torch.tensor(history), encoder()
        x, real = torch.randn(*items.shape, DIM), items != 0
        found, wanted = ours(x, padding_mask(items)), by_torch(ours, x, ~real)
        torch.testing.assert_close(found[real], wanted[real])

    @torch.no_grad()
    def test_the_newest_alone_is_the_newest_of_all(self) -> None:
        items, ours = torch.tensor([[0, 1, 2], [3, 4, 5]]), encoder()
        x = torch.randn(*items.shape, DIM)
        for mask in (padding_mask(items), causal_mask(items)):
            torch.testing.assert_close(ours(x, mask, newest_only=True), ours(x, mask)[:, -1:])

    @torch.no_grad()
    def test_an_empty_history_has_a_finite_state(self) -> None:
        items = torch.zeros(1, 3, dtype=torch.long)
        assert encoder()(torch.randn(1, 3, DIM), padding_mask(items)).isfinite().all()


@torch.no_grad()
def test_places_count_back_from_the_newest() -> None:
    ours = encoder(max_len=3)
    ours.blocks = nn.ModuleList()  # every position by itself
    x = torch.zeros(1, 2, DIM)
    wanted = ours.output_norm(ours.input_norm(ours.places.weight[[1, 0]]))
    torch.testing.assert_close(ours(x, None)[0], wanted)


@torch.no_grad()
def test_without_a_mask_nobody_looks_ahead() -> None:
    ours = encoder()
    x, later = torch.randn(1, 4, DIM), torch.randn(1, DIM)
    changed = torch.cat([x[:, :-1], later[:, None]], dim=1)
    torch.testing.assert_close(ours(x, None)[:, :-1], ours(changed, None)[:, :-1])


def test_dropout_is_for_training() -> None:
    ours, x = encoder(), torch.randn(1, 4, DIM)
    assert torch.equal(ours(x, None), ours(x, None))
    ours.train()
    assert not torch.equal(ours(x, None), ours(x, None))
