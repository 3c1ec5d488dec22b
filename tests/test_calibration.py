"""Reliability and calibration of a cached vector: features by hand, and what must not change it."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.stats import spearmanr
from torch import Tensor, nn

from recbench.nn.calibration import (
    CHANGED,
    Calibration,
    Situation,
    Use,
    ages,
    area_under_curve,
    calibration_error,
    features,
    places,
    possible_lag,
    situation,
    spearman,
)

DAY = 86_400.0
DIM, RECENT = 6, 4
USES = get_args(Use)


def calibration(use: Use = "calibrated", **options: float) -> Calibration:
    settings = {"num_recent": RECENT, "hidden": 5, "share": 0.3} | options
    return Calibration(DIM, use=use, **settings)  # type: ignore[arg-type]


def some(num_users: int = 5, *, lag: int = 2) -> Situation:
    torch.manual_seed(1)
    items = nn.Embedding(9, DIM)
    newest = torch.randint(1, 9, (num_users, RECENT))
    newest[0, :2] = 0  # one has but two items
    return situation(
        F.normalize(torch.randn(num_users, DIM), dim=1),
        3 * torch.randn(num_users, DIM),
        newest,
        items,
        lag=torch.full((num_users,), lag),
        seconds=torch.full((num_users,), 3 * DAY),
    )


def probes() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(7, DIM)


def stirred(model: Calibration) -> Calibration:
    """With weights that change things."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model


class TestFeatures:
    def test_by_hand(self) -> None:
        root = math.sqrt(0.5)
        now = Situation(
            semantic=torch.tensor([[1.0, 0.0]]),
            state=torch.tensor([[0.0, 1.0]]),
            window=torch.tensor([[[0.0, 0.0], [root, root], [0.0, 1.0]]]),
            real=torch.tensor([[False, True, True]]),
            lag=torch.tensor([1]),
            age=ages(torch.tensor([1]), torch.tensor([2 * DAY])),
        )
        evidence = torch.tensor([[0.6, 0.8]])
        rows = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])  # scored 1 2 3 and 3 2 1
        mean = root / 2
        wanted = [
            *(0.6, 0.0, mean, 0.0),
            math.sqrt(0.4**2 + 0.8**2),
            ((root - mean) ** 2 + mean**2) / 2,
            *(-1.0, math.log(2), math.log(3)),
        ]
        np.testing.assert_allclose(features(now, evidence, rows)[0], wanted, atol=1e-6)

    def test_without_items_there_is_nothing_to_compare(self) -> None:
        zero = torch.zeros(1, 2, DIM)
        real = torch.zeros(1, 2, dtype=torch.bool)
        unit = F.normalize(torch.ones(1, DIM), dim=1)
        now = Situation(unit, unit, zero, real, torch.tensor([1]), torch.zeros(1, 2))
        found = features(now, zero[:, 0], probes())[0]
        assert found[[0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
        out = calibration()(now, probes())
        assert out.vector.isfinite().all()
        assert out.reliability.isfinite().all()

    def test_rank_correlation_is_scipys(self) -> None:
        torch.manual_seed(0)
        first, second = torch.randn(2, 4, 30)
        wanted = [spearmanr(a, b).statistic for a, b in zip(first.numpy(), second.numpy(), strict=True)]
        np.testing.assert_allclose(spearman(first, second), wanted, atol=1e-6)
        assert spearman(first[:, :1], second[:, :1]).tolist() == [0] * 4

    def test_places_count_from_the_lowest(self) -> None:
        assert places(torch.tensor([[0.3, -1.0, 0.3, 0.0]])).tolist() == [[2, 0, 3, 1]]

    def test_no_age_is_above_ten_years_or_below_none(self) -> None:
        found = ages(torch.tensor([0, 9]), torch.tensor([-5.0, 1.7e9]))
        np.testing.assert_allclose(found, [[0, 0], [math.log(10), math.log(3651)]], rtol=1e-6)

    def test_padding_is_no_evidence(self) -> None:
        model, now = stirred(calibration()), some()
        real = torch.ones(1, 2, dtype=torch.bool)
        found = model.evidence(now.window[:1], now.real[:1])
        torch.testing.assert_close(found, model.evidence(now.window[:1, 2:], real))


class TestIdentity:
    @pytest.mark.parametrize("use", CHANGED)
    def test_it_starts_as_the_stale_mix(self, use: Use) -> None:
        now = some()
        found, stale = calibration(use)(now, probes()), calibration("stale")(now, probes())
        state = torch.randn(5, DIM)
        assert torch.equal(found.vector, stale.vector)
        assert torch.equal(found.fused(state), stale.fused(state))

    def test_what_is_reliable_is_left_as_it_is(self) -> None:
        model, now = stirred(calibration()), some()
        assert not torch.equal(model(now, probes()).vector, F.normalize(now.semantic, dim=1))
        with torch.no_grad():
            model.estimate[2].bias.fill_(1e4)
        found = model(now, probes())
        assert found.reliability.tolist() == [1] * 5
        assert torch.equal(found.vector, F.normalize(now.semantic, dim=1))

    @pytest.mark.parametrize("use", USES)
    def test_what_is_fresh_is_fused_by_one_share(self, use: Use) -> None:
        model, now = stirred(calibration(use)), some(lag=0)._replace(age=torch.zeros(5, 2))
        found, plain = model(now, probes()), model.plain(now.semantic)
        assert torch.equal(found.vector, plain.vector)
        assert torch.equal(found.share, plain.share)
        assert found.reliability.tolist() == [1] * 5

    @pytest.mark.parametrize("use", sorted(set(USES) - {"none", "stale"}))
    def test_what_is_old_is_used_otherwise(self, use: Use) -> None:
        model, now = stirred(calibration(use)), some()
        state = torch.randn(5, DIM)
        assert not torch.allclose(model(now, probes()).fused(state), model.plain(now.semantic).fused(state))


def test_the_fused_vector_by_hand() -> None:
    model = calibration("stale", share=0.25)
    found = model(some(), probes())
    state = torch.zeros(5, DIM)
    state[:, 0] = 4
    wanted = 4 * (0.25 * found.vector + 0.75 * F.one_hot(torch.zeros(5, dtype=torch.long), DIM))
    torch.testing.assert_close(found.fused(state), wanted)


def test_a_moving_average_takes_in_each_newer_item() -> None:
    model, now = stirred(calibration("moving_average")), some(lag=3)
    keep = model.keep.sigmoid().item()
    for row in range(5):
        vector = now.semantic[row]
        for place in (1, 2, 3):  # of the window's four, oldest first
            if now.real[row, place]:
                vector = keep * vector + (1 - keep) * now.window[row, place]
        torch.testing.assert_close(model(now, probes()).vector[row], vector / vector.norm())


def test_what_it_means_to_be_reliable_is_not_for_the_ranking_to_learn() -> None:
    model = stirred(calibration())
    model(some(), probes()).fused(torch.randn(5, DIM)).sum().backward()
    assert all(weight.grad is None for weight in model.estimate.parameters())
    assert model.attention.out.weight.grad is not None


def test_at_the_presets_sizes_it_is_small() -> None:
    model = Calibration(128, num_recent=10, hidden=64, use="calibrated", share=0.2)
    assert sum(weight.numel() for weight in model.parameters()) < 60_000


def test_a_lag_leaves_as_many_items_as_it_must() -> None:
    history = torch.tensor([[0, 0, 0, 4], [0, 1, 2, 3], [1, 2, 3, 4]])
    assert possible_lag(history, torch.tensor([2, 2, 2]), num_left=2).tolist() == [0, 1, 2]


class TestJudgement:
    def test_calibration_error_by_hand(self) -> None:
        probabilities = torch.tensor([0.1, 0.15, 0.9, 1.0])
        outcomes = torch.tensor([0, 1, 1, 1])
        # two bins of two: |1 - .25| and |2 - 1.9|, of four
        assert calibration_error(probabilities, outcomes) == pytest.approx((0.75 + 0.1) / 4)

    def test_area_under_the_curve_by_hand(self) -> None:
        scores, outcomes = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
        assert area_under_curve(scores, outcomes) == (1 + 1 + 0.5 + 1) / 4
        assert area_under_curve(scores, torch.ones(4)) == 0.5


@pytest.mark.parametrize(("name", "value"), [("use", "fresh"), ("share", 1.0)])
def test_wrong_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        calibration(**{name: value})  # type: ignore[arg-type]
