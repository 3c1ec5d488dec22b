"""The presets of LSC4Rec's small models: what its training script sets, and what its models are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from recbench import runs
from recbench.nn.losses import BCE
from recbench.parse import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData

PRESETS = ["din_lsc4rec", "gru4rec_lsc4rec", "sasrec_lsc4rec"]


@pytest.fixture(params=PRESETS)
def model(request: pytest.FixtureRequest) -> Any:
    return parse(runs.fit, ["--model", request.param, "--data", "demo"], prog="fit")["model"]


def test_the_recipe_is_that_of_the_script(model: Any) -> None:
    recipe = model.recipe
    assert (model.dim, model.max_len, recipe.lr, recipe.batch_size, recipe.max_epochs) == (
        32,
        10,
        1e-3,
        128,
        10,
    )
    assert (recipe.weight_decay, recipe.schedule, recipe.clip, recipe.warmup_steps) == (0, "constant", 0, 0)
    assert recipe.validate_every == 10  # nothing is chosen and nothing ends it early
    assert model.embedding_dropout == 0


def test_four_negatives_and_binary_cross_entropy(model: Any) -> None:
    if hasattr(model, "criterion"):
        assert isinstance(model.criterion, BCE)
        found = model.criterion.num_negatives
    else:
        assert model.objective == "bce"
        found = model.num_negatives
    assert found == 4


@torch.inference_mode()
def test_looks_at_ten_items(
    model: Any, data_of: Callable[..., InteractionData], batch_of: Callable[..., SequenceBatch]
) -> None:
    torch.manual_seed(0)
    model.build(data_of([[*range(1, 13)]]).catalog)
    model.eval()
    newest = [*range(3, 13)]
    found, eleven, other = (model.score(batch_of([row])) for row in (newest, [2, *newest], [2, *newest[1:]]))
    torch.testing.assert_close(found, eleven)
    assert not torch.allclose(found, other, atol=1e-6)


def test_sizes_of_each_part(data_of: Callable[..., InteractionData]) -> None:
    """Parameters beside the item table, counted by hand from the layers."""
    catalog = data_of([[1, 2, 3, 4, 5]]).catalog
    d, layer = 32, 32 * 32 + 32
    tower = layer
    norm = 2 * d
    attention = 4 * layer
    wanted = {
        # two towers; query, key and value; 64 -> 128 -> 64 -> 1
        "din_lsc4rec": 2 * tower + 3 * layer + (64 * 128 + 128) + (128 * 64 + 64) + (64 + 1),
        # three gates, each with two maps and two biases; the layer on the state
        "gru4rec_lsc4rec": 3 * 2 * layer + layer,
        # ten places; attention; 32 -> 128 -> 32; two norms and the last one
        "sasrec_lsc4rec": 10 * d + attention + (d * 128 + 128) + (128 * d + d) + 3 * norm,
    }
    for name, count in wanted.items():
        model: Any = parse(runs.fit, ["--model", name, "--data", "demo"], prog="fit")["model"]
        model.build(catalog)
        assert sum(weights.numel() for weights in model.parameters()) - 6 * d == count, name
