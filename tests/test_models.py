"""What single methods compute, against independent compositions, and what the base class does for all."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recbench.errors import DivergedError
from recbench.models import GRU4Rec, ItemKNN, LastItem, Popularity, SASRec
from recbench.models.base import Paper, Recipe, Scorer
from recbench.nn.losses import FullSoftmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData

HISTORIES = [[2, 5, 5, 1], [3], [4, 1]]
TARGET = [3, 2, 5]


@pytest.fixture
def catalog(data_of: Callable[..., InteractionData]) -> Catalog:
    return data_of([[1, 2, 3, 4, 5]]).catalog


@pytest.fixture
def batch(batch_of: Callable[..., SequenceBatch]) -> SequenceBatch:
    return batch_of(HISTORIES, target=TARGET)


def shaken(model: Any, catalog: Catalog) -> Any:
    """Built, in evaluation, with no weight left at a value that hides a mistake; padding stays zero."""
    torch.manual_seed(0)
    model.build(catalog)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.5)
        model.items.weight[0].zero_()
    return model.eval()


def check_states(model: Any, batch: SequenceBatch, alone: Callable[[Tensor], Tensor]) -> None:
    """States in the padded batch equal those of every user `alone`; scores and loss follow from them."""
    states = [alone(torch.tensor(items)) for items in HISTORIES]  # (l, D) each
    found = model.hidden_states(batch.history)
    for row, wanted in zip(found, states, strict=True):
        torch.testing.assert_close(row[-len(wanted) :], wanted, rtol=1e-4, atol=1e-5)
    newest = torch.stack([own[-1] for own in states])
    table = model.items.weight
    torch.testing.assert_close(model.score(batch), newest @ table.T, rtol=1e-4, atol=1e-5)
    following = [item for items, last in zip(HISTORIES, TARGET, strict=True) for item in [*items[1:], last]]
    wanted = F.cross_entropy(torch.cat(states) @ table[1:].T, torch.tensor(following) - 1)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-5)
    model.recipe = Recipe(samples="prefixes")
    wanted = F.cross_entropy(newest @ table[1:].T, torch.tensor(TARGET) - 1)
    torch.testing.assert_close(model.loss(batch), wanted, rtol=1e-4, atol=1e-5)


class TestSASRec:
    @pytest.mark.parametrize("positions", ["relative", "from_newest", "from_oldest"])
    @pytest.mark.parametrize("normalise_input", [True, False])
    @torch.inference_mode()
    def test_is_a_pre_norm_encoder_of_items_and_places(
        self,
        catalog: Catalog,
        batch: SequenceBatch,
        positions: Literal["relative", "from_newest", "from_oldest"],
        normalise_input: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        model = SASRec(
            dim=8,
            num_layers=2,
            num_heads=2,
            hidden=12,
            max_len=6,
            positions=positions,
            normalise_input=normalise_input,
            loss=FullSoftmax(half=False),
        )
        shaken(model, catalog)
        layers = [encoder_layer(block) for block in model.blocks]
        monkeypatch.setattr(
            torch.backends.mha, "_is_fastpath_enabled", False
        )  # it takes one mask for all heads

        def alone(items: Tensor) -> Tensor:
            steps = torch.arange(len(items))
            x = model.items(items)
            if model.places is not None:
                x = x + model.places(steps.flip(0) if positions == "from_newest" else steps)
            x = model.input_norm(x)[None]
            for block, layer in zip(model.blocks, layers, strict=True):
                mask = nn.Transformer.generate_square_subsequent_mask(len(items)).repeat(2, 1, 1)
                if positions == "relative":  # one mask per head: its bias of how far back a place lies
                    mask += block.attention.distance_bias[:, (steps[:, None] - steps).clamp_min(0)]
                x = layer(x, src_mask=mask)
            return model.output_norm(x)[0]

        check_states(model, batch, alone)

    @torch.inference_mode()
    def test_looks_at_the_newest_items_only(
        self, catalog: Catalog, batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = shaken(SASRec(dim=8, max_len=2, loss=FullSoftmax(half=False)), catalog)
        long, short = batch_of([[3, 4, 1, 2]], target=[5]), batch_of([[1, 2]], target=[5])
        assert torch.equal(model.score(long), model.score(short))
        assert torch.equal(model.loss(long), model.loss(short))


def encoder_layer(block: nn.Module) -> nn.TransformerEncoderLayer:
    """PyTorch's own layer with the weights of ours."""
    heads, dim = block.attention.num_heads, block.attention.project_out.in_features
    hidden = block.feed_forward[0].out_features
    layer = nn.TransformerEncoderLayer(
        dim, heads, hidden, activation="gelu", norm_first=True, batch_first=True
    ).eval()
    pairs = [
        (layer.self_attn.in_proj_weight, block.attention.project_in.weight),
        (layer.self_attn.in_proj_bias, block.attention.project_in.bias),
    ]
    for theirs, ours in (
        (layer.self_attn.out_proj, block.attention.project_out),
        (layer.linear1, block.feed_forward[0]),
        (layer.linear2, block.feed_forward[3]),
        (layer.norm1, block.norm_attention),
        (layer.norm2, block.norm_forward),
    ):
        pairs += [(theirs.weight, ours.weight), (theirs.bias, ours.bias)]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
    return layer


class TestGRU4Rec:
    @pytest.mark.parametrize("num_layers", [1, 2])
    @torch.inference_mode()
    def test_is_a_gru_over_every_history_alone(
        self, catalog: Catalog, batch: SequenceBatch, num_layers: int
    ) -> None:
        model = GRU4Rec(dim=8, hidden=6, num_layers=num_layers, loss=FullSoftmax(half=False))
        shaken(model, catalog)
        gru = nn.GRU(8, 6, num_layers)
        gru.load_state_dict(model.gru.state_dict())
        check_states(model, batch, lambda items: model.project(gru(model.items(items))[0]))

    @torch.inference_mode()
    def test_an_empty_history_has_the_state_zero(
        self, catalog: Catalog, batch_of: Callable[..., SequenceBatch]
    ) -> None:
        model = shaken(GRU4Rec(dim=8, hidden=6), catalog)
        states = model.hidden_states(batch_of([[], [1, 2, 3]]).history)
        torch.testing.assert_close(states[0], model.project.bias.expand(3, 8))


class Fixed(Scorer):
    """Gives everyone the scores it was made with."""

    paper: ClassVar[Paper] = Paper("", "", 0, "")

    def __init__(self, scores: list[float], recipe: Recipe = Recipe()) -> None:
        super().__init__(recipe)
        self.weights = nn.Parameter(torch.tensor(scores))

    def build(self, catalog: Catalog) -> None:
        """Nothing to build."""

    def loss(self, batch: SequenceBatch) -> Tensor:  # noqa: ARG002
        return self.weights.sum()

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        scores = self.weights.expand(len(batch), -1).detach().clone()
        return scores if items is None else scores.gather(1, items)


class TestScorer:
    SCORES: ClassVar = [9.0, 1, 4, 3, 2]  # of padding and items 1..4

    def test_recommends_the_best_unseen_items(self, batch_of: Callable[..., SequenceBatch]) -> None:
        best = Fixed(self.SCORES).recommend(batch_of([[2], [1]], seen=[[2, 2], [1]]), 2)
        assert best.items.tolist() == [[3, 4], [2, 3]]
        assert best.scores.tolist() == [[3, 2], [4, 3]]

    def test_shows_padding_where_fewer_may_be_shown(self, batch_of: Callable[..., SequenceBatch]) -> None:
        best = Fixed(self.SCORES).recommend(batch_of([[1, 2, 4]], seen=[[1, 2, 4]]), 3)
        assert best.items.tolist() == [[3, 0, 0]]
        assert best.scores.tolist() == [[3, -math.inf, -math.inf]]

    def test_ranks_a_target_that_was_seen_before(self, batch_of: Callable[..., SequenceBatch]) -> None:
        batch = batch_of([[2, 3], [2, 3]], target=[3, 1], seen=[[2, 3], [2, 3]])
        assert Fixed(self.SCORES).target_ranks(batch).rank.tolist() == [1, 2]


class TestTraining:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_loss_that_is_no_number_ends_the_run(
        self, batch_of: Callable[..., SequenceBatch], value: float
    ) -> None:
        model = Fixed([value], Recipe(lr=0.5))
        with pytest.raises(DivergedError, match=rf"became {value} .* lower --model.recipe.lr \(now 0.5\)"):
            model.training_step(batch_of([[1]]), 0)

    def test_a_closed_form_has_no_loss(self, batch_of: Callable[..., SequenceBatch]) -> None:
        with pytest.raises(TypeError, match="Popularity is trained in closed form"):
            Popularity().loss(batch_of([[1]]))

    @pytest.mark.parametrize(
        ("schedule", "wanted"),
        [
            ("constant", [0.5, 1, 1, 1, 1, 1, 1]),
            ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
            ("cosine", [0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        ],
    )
    def test_learning_rate_by_hand(
        self, schedule: Literal["constant", "linear", "cosine"], wanted: list[float]
    ) -> None:
        model = Fixed([1.0], Recipe(lr=1.0, schedule=schedule, warmup_steps=2))
        model._trainer = SimpleNamespace(estimated_stepping_batches=6)  # type: ignore[assignment]
        made = model.configure_optimizers()
        optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        rates = []
        for _ in wanted:
            rates += scheduler.get_last_lr()
            optimizer.step()
            scheduler.step()
        assert rates == pytest.approx(wanted, abs=1e-9)

    def test_one_step_of_the_optimizer_is_adamw(self) -> None:
        model = Fixed([2.0, -1.0], Recipe(lr=0.1, weight_decay=0.5))
        model._trainer = SimpleNamespace(estimated_stepping_batches=10)  # type: ignore[assignment]
        optimizer = model.configure_optimizers()["optimizer"]
        model.weights.grad = torch.tensor([3.0, -0.2])
        optimizer.step()  # decay by lr * weight_decay, then a first step of lr against the gradient's sign
        assert model.weights.tolist() == pytest.approx([2 * 0.95 - 0.1, -1 * 0.95 + 0.1], abs=1e-5)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (SASRec, {"max_len": 0}, "max_len must be at least 1, got 0"),
        (SASRec, {"dim": 10, "num_heads": 4}, "num_heads must divide dim, got 4 and 10"),
        (SASRec, {"num_heads": 0}, "num_heads must be at least 1, got 0"),
        (SASRec, {"dropout": 1.0}, "dropout rate must lie in 0..1, 1 excluded, got 1.0"),
        (GRU4Rec, {"num_layers": 0}, "num_layers must be at least 1, got 0"),
        (GRU4Rec, {"embedding_dropout": -0.5}, "dropout rate must lie in 0..1, 1 excluded, got -0.5"),
        (ItemKNN, {"num_neighbours": 0}, "num_neighbours must be at least 1, got 0"),
        (ItemKNN, {"last_items": -1}, "last_items must be at least 0, got -1"),
        (ItemKNN, {"decay": -0.5}, "shrinkage, k1 and decay must be 0 or more, got .* and -0.5"),
        (ItemKNN, {"b": 2.0}, "b must lie in 0..1, got 2.0"),
        (LastItem, {"num_followers": 0}, "num_followers must be at least 1, got 0"),
        (Recipe, {"lr": -1.0}, "lr must be above 0, got -1"),
        (Recipe, {"lr": math.nan}, "lr must be above 0, got nan"),
        (Recipe, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (Recipe, {"validate_every": 0}, "validate_every must be at least 1, got 0"),
        (Recipe, {"clip": -1.0}, "clip must be 0 or more, got -1"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_built(
    make: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
