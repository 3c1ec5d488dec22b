"""BERT4Rec: where masks fall, what a masked position may see, and that a request is a window's last mask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from recbench.models import BERT4Rec
from recbench.nn.losses import BCE, FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

N = 9


def model_of(**options: Any) -> BERT4Rec:
    sizes = {"dim": 8, "num_heads": 2, "hidden": 12, "dropout": 0.0, "embedding_dropout": 0.0}
    return BERT4Rec(loss=FullSoftmax(half=False), **sizes | options)


@pytest.fixture
def built(data_of: Callable[..., InteractionData]) -> Callable[..., BERT4Rec]:
    """Makes a model of nine items with weights large enough to tell apart."""

    def make(**options: Any) -> BERT4Rec:
        torch.manual_seed(0)
        model = model_of(**options)
        model.build(data_of([[1, 2, 3, N]]).catalog)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "norm" not in name:
                    weights.normal_(std=0.5)
        return model.eval()

    return make


class TestMasks:
    def test_their_share_is_the_rate(self) -> None:
        torch.manual_seed(0)
        window = torch.ones(2000, 20, dtype=torch.long)
        rate = 0.3
        share = float(model_of(mask_rate=rate, last_only_rate=0.0).draw_masks(window).float().mean())
        forced = (1 - rate) ** 20 / 20  # windows without any get one
        assert abs(share - rate - forced) < 5 * math.sqrt(rate * (1 - rate) / window.numel())

    def test_padding_is_never_masked_and_every_window_has_one(self) -> None:
        torch.manual_seed(0)
        window = torch.tensor([[0, 0, 0, 4, 5]]).repeat(500, 1)
        masks = model_of().draw_masks(window)
        assert not masks[:, :3].any()
        assert masks.any(1).all()
        assert masks[:, 3].any()
        assert not masks[:, 3].all()

    def test_of_some_windows_the_newest_alone_is_masked(self) -> None:
        torch.manual_seed(0)
        window = torch.ones(2000, 20, dtype=torch.long)
        alone = model_of(mask_rate=0.9, last_only_rate=0.25).draw_masks(window).sum(1) == 1
        assert abs(float(alone.float().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)
        always = model_of(last_only_rate=1.0).draw_masks(window)
        assert torch.equal(always.nonzero(), torch.tensor([[row, 19] for row in range(2000)]))

    def test_they_follow_the_seed(self) -> None:
        window = torch.ones(50, 20, dtype=torch.long)
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(model_of().draw_masks(window))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


class TestLoss:
    @torch.no_grad()
    def test_is_the_cross_entropy_of_masked_items_among_all(
        self,
        built: Callable[..., BERT4Rec],
        batch_of: Callable[..., SequenceBatch],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        model = built()
        batch = batch_of([[3, 1, 4], [5]], target=[2, 6])
        masked = {(0, 1), (0, 3), (1, 2)}  # rows are [3 1 4 2] and [. . 5 6]
        is_masked = torch.tensor([[(row, column) in masked for column in range(4)] for row in range(2)])
        monkeypatch.setattr(model, "draw_masks", lambda window: is_masked)  # noqa: ARG005
        hide = model.mask.weight[0]
        item = model.items.weight
        first = torch.stack([item[3], hide, item[4], hide])[None]
        second = torch.stack([hide, item[6]])[None]
        everybody = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        terms = []
        for x, places, answers in ((first, (1, 3), (1, 2)), (second, (0,), (5,))):
            states = model.encoder(x, everybody.expand(1, 1, 1, x.shape[1]))[0]
            for place, answer in zip(places, answers, strict=True):
                scores = [float(model.head(states[place]) @ item[other]) for other in range(1, N + 1)]
                terms.append(math.log(sum(map(math.exp, scores))) - scores[answer - 1])
        assert float(model.loss(batch)) == pytest.approx(sum(terms) / 3, rel=1e-5)

    @torch.no_grad()
    def test_with_the_newest_masked_it_is_that_of_a_request(
        self, built: Callable[..., BERT4Rec], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = built(last_only_rate=1.0)
        batch = batch_of([[3, 1, 4], [5], [2, 2]], target=[2, 6, 9])
        wanted = F.cross_entropy(model.score(batch)[:, 1:], batch.target - 1)
        torch.testing.assert_close(model.loss(batch), wanted)

    @torch.no_grad()
    def test_only_the_newest_items_are_in_a_window(
        self, built: Callable[..., BERT4Rec], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = built(max_len=2, last_only_rate=1.0)
        long, short = (batch_of([items], target=[7]) for items in ([5, 6, 1, 2], [1, 2]))
        torch.testing.assert_close(model.loss(long), model.loss(short))
        torch.testing.assert_close(model.score(long), model.score(short))

    def test_the_mask_learns(
        self, built: Callable[..., BERT4Rec], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = built()
        model.loss(batch_of([[3, 1, 4]], target=[2])).backward()
        assert model.mask.weight.grad is not None
        assert model.mask.weight.grad.abs().sum() > 0


class TestWhatIsSeen:
    @pytest.fixture
    def states(self, built: Callable[..., BERT4Rec]) -> Callable[[list[int]], Tensor]:
        """States of a window whose second item of four is masked."""
        model = built()
        is_masked = torch.tensor([[False, True, False, False]])

        def of(items: list[int]) -> Tensor:
            with torch.no_grad():
                return model._states(torch.tensor([items]), is_masked)[0]

        return of

    def test_a_masked_item_is_not_seen_by_anybody(self, states: Callable[[list[int]], Tensor]) -> None:
        assert torch.equal(states([3, 1, 4, 2]), states([3, 7, 4, 2]))

    @pytest.mark.parametrize("items", [[8, 1, 4, 2], [3, 1, 8, 2], [3, 1, 4, 8]])
    def test_a_masked_position_sees_both_sides(
        self, states: Callable[[list[int]], Tensor], items: list[int]
    ) -> None:
        assert not torch.allclose(states(items)[1], states([3, 1, 4, 2])[1], atol=1e-3)


class TestRequest:
    def test_nothing_but_items_has_a_score(
        self, built: Callable[..., BERT4Rec], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = built()
        batch = batch_of([[3, 1], [2]])
        assert model.score(batch).shape == (2, N + 1)
        best = model.recommend(batch, 100).items
        assert sorted(best[0].tolist()) == list(range(1, N + 1))

    @torch.no_grad()
    def test_by_cosine_where_the_loss_is(
        self, built: Callable[..., BERT4Rec], batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model, batch = built(last_only_rate=1.0), batch_of([[3, 1], [2]], target=[4, 5])
        model.criterion = FullSoftmax(half=False, cosine=True, temperature=0.1)
        scores = model.score(batch)
        assert scores[:, 1:].abs().max() <= 1 + 1e-6
        wanted = F.cross_entropy(scores[:, 1:] / 0.1, batch.target - 1)
        torch.testing.assert_close(model.loss(batch), wanted)


@torch.no_grad()
def test_a_mask_begins_with_the_items_that_it_sees(
    data_of: Callable[..., InteractionData], batch_of: Callable[..., SequenceBatch]
) -> None:
    """With the identity for a start the newest state leans to the items of the history, at random to none."""

    def pull(**options: Any) -> float:
        pulls = []
        for seed in range(20):
            torch.manual_seed(seed)
            model = model_of(dim=64, has_head=False, **options)
            model.build(data_of([[*range(1, N + 1)]]).catalog)
            scores = model.eval().score(batch_of([[3, 1, 4]]))[0]
            pulls.append((scores[[3, 1, 4]].mean() - scores[1:].mean()) / scores[1:].std())
        return float(torch.stack(pulls).mean())

    assert pull(begin_as_mean=True) > 0.6
    assert abs(pull(begin_as_mean=False)) < 0.3


def test_masks_may_be_kept_whole_in_training(data_of: Callable[..., InteractionData]) -> None:
    """A lone mask has nothing else to be dropped, so what it gives is the same every time."""

    def states(*, drops_masks: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = model_of(embedding_dropout=0.5, drops_masks=drops_masks)
        model.build(data_of([[1, 2, 3, N]]).catalog)
        model.train()
        window, is_masked = torch.tensor([[5]]), torch.tensor([[True]])
        return [model._states(window, is_masked) for _ in range(2)]

    assert torch.equal(*states(drops_masks=False))
    assert not torch.equal(*states(drops_masks=True))


@torch.no_grad()
def test_without_a_head_states_meet_the_items_as_they_are(
    built: Callable[..., BERT4Rec], batch_of: Callable[..., SequenceBatch]
) -> None:
    model, batch = built(has_head=False), batch_of([[3, 1]])
    window, is_masked = torch.tensor([[3, 1, 1]]), torch.tensor([[False, False, True]])
    state = model._states(window, is_masked)[0, -1]
    torch.testing.assert_close(model.score(batch)[0, 1:], model.items.weight[1:] @ state)


def test_another_loss_may_be_given() -> None:
    loss = BCE()
    assert BERT4Rec(loss=loss).criterion is loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 0.0}, "mask_rate must lie between 0 and 1, both excluded, got 0.0"),
        ({"mask_rate": 1.0}, "mask_rate must lie between 0 and 1, both excluded, got 1.0"),
        ({"last_only_rate": -0.1}, "last_only_rate must lie in 0..1, got -0.1"),
        ({"last_only_rate": 1.1}, "last_only_rate must lie in 0..1, got 1.1"),
        ({"dim": 5, "num_heads": 2}, "num_heads must divide dim"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BERT4Rec(**options)
