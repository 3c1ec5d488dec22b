"""Item texts and their principal components, against scikit's definition by singular values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch
from tiny_lm import llama
from torch import nn

from recbench.data.catalog import Catalog
from recbench.errors import UsageError
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions
from recbench.nn.semantics import DEVIATION, Projection, begin_with_texts, item_texts, whitened

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def vectors(num: int = 50, width: int = 8) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(num, width)) * np.arange(1, width + 1) + 3).astype(np.float32)


def fitted(dim: int) -> Projection:
    found = Projection(8, dim)
    found.fit(vectors())
    return found


class TestProjection:
    def test_components_are_those_of_the_singular_values(self) -> None:
        given = vectors().astype(np.float64)
        _, values, right = np.linalg.svd(given - given.mean(0), full_matrices=False)
        found = fitted(3)(vectors()).double()
        np.testing.assert_allclose(
            np.abs(found.numpy()), np.abs((given - given.mean(0)) @ right[:3].T), atol=1e-3
        )
        np.testing.assert_allclose(found.norm(dim=0).numpy(), values[:3], rtol=1e-5)

    def test_the_mean_is_taken_off_whatever_comes(self) -> None:
        found = fitted(3)
        mean = vectors().mean(0, keepdims=True)
        assert found(mean).abs().max() < 1e-4
        torch.testing.assert_close(found(mean + 1), (torch.ones(1, 8) @ found.components), atol=1e-4, rtol=0)

    def test_distances_are_kept_where_nothing_is_cut(self) -> None:
        given, found = torch.from_numpy(vectors()), fitted(8)(vectors())
        torch.testing.assert_close(torch.cdist(found, found), torch.cdist(given, given), atol=0.05, rtol=1e-3)

    def test_more_components_than_there_are_stay_zero(self) -> None:
        assert fitted(12)(vectors())[:, 8:].abs().max() == 0

    def test_signs_do_not_depend_on_the_order_of_the_items(self) -> None:
        other = Projection(8, 4)
        other.fit(vectors()[::-1].copy())
        torch.testing.assert_close(other.components, fitted(4).components, atol=1e-4, rtol=0)

    def test_a_checkpoint_has_it(self) -> None:
        other = Projection(8, 3)
        other.load_state_dict(fitted(3).state_dict())
        assert torch.equal(other(vectors()), fitted(3)(vectors()))


def test_whitened_columns_have_one_deviation() -> None:
    given = torch.from_numpy(vectors())
    given[:, 2] = 5  # says nothing
    found = whitened(given, scale=0.02)
    torch.testing.assert_close(found.mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    deviation = found.std(0)
    assert deviation[2] == 0
    torch.testing.assert_close(deviation[[0, 1, 7]], torch.full((3,), 0.02))


class TestItemTexts:
    def catalog(self, **columns: list[object]) -> Catalog:
        frame = pl.DataFrame({"item": [1, 2], "raw_id": ["a", "b"], **columns})
        return Catalog(1, 2, frame, np.zeros(3, np.int64))

    def test_text_before_title_before_tags(self) -> None:
        texts = item_texts(self.catalog(text=["long", None], title=["A", None], tags=[["x"], ["y", "z"]]))
        assert texts == ["long", "y, z"]
        assert item_texts(self.catalog(title=[None, "B"])) == ["", "B"]

    def test_none_at_all_is_refused(self) -> None:
        with pytest.raises(UsageError, match="needs item text, but this data set's item features are: none"):
            item_texts(self.catalog())


def test_a_table_begins_with_the_components_of_the_texts(tmp_path: Path) -> None:
    folder = llama(tmp_path / "lm", width=32)
    lm, texts = LanguageModelOptions(name=folder, max_tokens=16), [f"w{n} w{n + 3}" for n in range(30)]
    catalog = Catalog(
        2,
        30,
        pl.DataFrame({"item": range(1, 31), "raw_id": [str(n) for n in range(30)], "text": texts}),
        np.zeros(31, dtype=np.int64),
    )
    torch.manual_seed(0)
    table = nn.Embedding(31, 40, padding_idx=0)
    before = table.weight.detach().clone()
    begin_with_texts(table, lm, catalog)
    after = table.weight.detach()
    assert (after[0] == 0).all()
    vectors = LanguageModel(lm).embed(texts)
    _, values, basis = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    leading = (vectors - vectors.mean(0)) @ basis[0]
    agreement = np.corrcoef(leading, after[1:, 0])[0, 1]
    assert abs(agreement) == pytest.approx(1, abs=1e-3)
    rank = int((values > 1e-4).sum())
    np.testing.assert_allclose(after[1:, : rank - 1].std(0), DEVIATION, rtol=1e-3)
    assert torch.equal(after[1:, 32:], before[1:, 32:])  # the model has 32 numbers a text
