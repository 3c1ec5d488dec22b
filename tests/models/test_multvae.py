"""Mult-VAE against dense rows of the catalogue's width, as the paper writes it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from recbench.models import MultVAE

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

N = 5


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., MultVAE]:
    """Makes a model of five items, no weight of which is small."""

    def make(**options: Any) -> MultVAE:
        torch.manual_seed(0)
        model = MultVAE(**{"dim": 3, "hidden": 6} | options)
        model.build(data_of([[*range(1, N + 1)]]).catalog)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(std=0.5)
            model.input.weight[0] = 0
        return model.eval()

    return make


def dense(bag: set[int]) -> torch.Tensor:
    """(N,) ones at the items of the bag."""
    return torch.tensor([float(item in bag) for item in range(1, N + 1)])


def posterior(model: MultVAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log variance of a dense row x / |x|."""
    hidden = torch.tanh(x / x.norm().clamp_min(1e-9) @ model.input.weight[1:] + model.input_bias)
    both = model.to_latent.weight @ hidden + model.to_latent.bias
    return both[: model.dim], both[model.dim :]


def logits(model: MultVAE, latent: torch.Tensor) -> torch.Tensor:
    hidden = torch.tanh(model.from_latent.weight @ latent + model.from_latent.bias)
    return model.output[1:, :-1] @ hidden + model.output[1:, -1]


@torch.inference_mode()
def test_scores_are_the_decoder_at_the_mean(
    built: Callable[..., MultVAE], batch_of: Callable[..., SequenceBatch]
) -> None:
    model = built()
    found = model.score(batch_of([[4, 1, 4], [2], []]))
    for row, bag in zip(found, ({1, 4}, {2}, set()), strict=True):
        wanted = logits(model, posterior(model, dense(bag))[0])
        torch.testing.assert_close(row[1:], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0.0), (50, 0.1), (100, 0.2), (1000, 0.2)], ids=["0", "50", "100", "1000"]
)
def test_loss_is_the_annealed_evidence_bound(
    built: Callable[..., MultVAE],
    batch_of: Callable[..., SequenceBatch],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    weight: float,
) -> None:
    model = built(kl_weight=0.2, annealing_steps=100, halves_products=False)
    noise = torch.tensor([[0.3, -1.0, 0.7], [1.5, 0.2, -0.4]])
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    monkeypatch.setattr(model, "_trainer", SimpleNamespace(global_step=step))
    terms = []
    for bag, drawn in zip(({1, 4, 2}, {3, 5}), noise, strict=True):
        mean, log_variance = posterior(model, dense(bag))
        log_p = logits(model, mean + drawn * (log_variance / 2).exp()).log_softmax(0)
        best = -len(bag) * math.log(len(bag))  # all probability shared by the bag
        prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
        own = torch.distributions.Normal(mean, (log_variance / 2).exp())
        divergence = torch.distributions.kl_divergence(own, prior).sum()
        terms.append(best - (log_p * dense(bag)).sum() + weight * divergence)
    found = model.loss(batch_of([[1, 4, 1], [3]], target=[2, 5]))
    torch.testing.assert_close(found, torch.stack(terms).mean(), rtol=1e-5, atol=1e-5)


def test_the_kl_term_counts_from_the_start_where_nothing_is_annealed(built: Callable[..., MultVAE]) -> None:
    assert built(annealing_steps=1, kl_weight=0.3)._current_kl_weight() == 0
    assert built(annealing_steps=0, kl_weight=0.3)._current_kl_weight() == 0.3


def test_training_hides_items_from_the_encoder(built: Callable[..., MultVAE]) -> None:
    model = built(dropout=0.5)
    bag = torch.arange(1, N + 1).repeat(64, 1)
    still = model._posterior(bag)[0]
    torch.testing.assert_close(still, still[:1].expand_as(still))
    hidden = model.train()._posterior(bag)[0].detach().numpy().round(4)
    assert 2 < len(np.unique(hidden, axis=0)) <= 2**N


def test_fresh_weights_are_small_and_padding_is_nothing(data_of: Callable[..., InteractionData]) -> None:
    model = MultVAE(dim=8, hidden=16)
    model.build(data_of([[*range(1, 400)]]).catalog)
    assert float(model.input.weight[0].detach().abs().sum()) == 0
    assert float(model.output[0].detach().abs().sum()) == 0
    assert float(model.output[1:, :-1].detach().std()) == pytest.approx(math.sqrt(2 / (399 + 16)), rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"annealing_steps": -1}, "annealing_steps must be at least 0, got -1"),
        ({"kl_weight": -0.5}, "kl_weight must be 0 or more, got -0.5"),
        ({"dropout": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
    ],
    ids=["hidden", "annealing", "kl", "dropout"],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultVAE(**options)
