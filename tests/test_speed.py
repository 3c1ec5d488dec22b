"""What the figures of experiments/speed.py rest on: counted work, sampled steps, a row per method."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small import small_data

from recbench.bench import Cell, read_plan
from recbench.config import preset_file

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import speed_methods
from measuring import Rates, Work

if TYPE_CHECKING:
    from collections.abc import Callable

SAME = Rates(single=1e9, half=1e9, bytes=1e9)


def counted(work: Callable[[], Any]) -> Work:
    with Work() as found:
        work()
    return found


class TestWork:
    def test_a_product_is_two_operations_per_pair_and_thrice_that_with_its_gradients(self) -> None:
        a, b = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
        assert counted(lambda: a @ b).flops == {"single": 2 * 3 * 4 * 5, "half": 0}
        assert counted(lambda: (a @ b).sum().backward()).flops["single"] == 3 * 2 * 3 * 4 * 5

    def test_number_formats_are_counted_apart(self) -> None:
        a, b = torch.randn(3, 4).bfloat16(), torch.randn(4, 5).bfloat16()
        assert counted(lambda: a @ b).flops == {"single": 0, "half": 120}

    @pytest.mark.parametrize("is_masked", [False, True])
    def test_attention_is_two_products_forward_and_five_backward(self, is_masked: bool) -> None:
        q, k, v = (torch.randn(2, 3, 7, 16, requires_grad=True) for _ in range(3))
        mask = torch.zeros(7, 7) if is_masked else None
        product = 2 * 2 * 3 * 7 * 7 * 16
        forward = counted(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        both = counted(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward())
        assert (forward.flops["single"], both.flops["single"]) == (2 * product, 7 * product)

    def test_a_gru_is_counted_gate_by_gate(self) -> None:
        gru = torch.nn.GRU(4, 8, batch_first=True)
        per_step = 2 * 5 * (4 * 24 + 8 * 24)  # 5 users; three gates of 8 from 4 inputs and 8 states
        assert counted(lambda: gru(torch.randn(5, 6, 4))).flops["single"] == 6 * per_step

    def test_an_embedding_gathers_vectors_and_its_gradient_is_a_table(self) -> None:
        table = torch.nn.Embedding(10, 4)
        items = torch.tensor([[1, 2, 3]])
        assert counted(lambda: table(items)).bytes == 3 * 4 * 4
        assert counted(lambda: table(items).sum().backward()).bytes == 3 * 4 * 4 + 10 * 4 * 4

    def test_adamw_reads_four_arrays_and_writes_three(self) -> None:
        layer = torch.nn.Linear(4, 5)
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        layer(torch.randn(2, 4)).sum().backward()
        assert counted(optimizer.step).bytes == 7 * 4 * (4 * 5 + 5)

    def test_floor_is_time_at_the_machine_s_rates(self) -> None:
        work = Work()
        work.flops, work.bytes = {"single": 600, "half": 800}, 90
        assert work.floor(Rates(single=100.0, half=200.0, bytes=30.0)) == 6 + 4 + 3


def test_a_sample_is_spread_evenly() -> None:
    assert speed_methods.spread(range(12), 3) == [2, 6, 10]
    assert speed_methods.spread(range(5), 9) == [0, 1, 2, 3, 4]


def test_every_method_of_the_leaderboard_has_a_row() -> None:
    plan = read_plan(preset_file("bench", "baselines"))
    asked = {f"method/{cell.model}" for cell in plan.cells}
    assert set(speed_methods.cells()) == asked


@pytest.mark.parametrize(
    ("model", "names", "unit"),
    [
        ("popularity", ["method/popularity"], "cpu_s"),
        ("mf", ["method/mf"], "cpu_s/epoch"),
        ("s3rec", ["method/s3rec/pretrain", "method/s3rec"], "cpu_s/epoch"),
    ],
)
def test_a_method_has_a_row_per_stage(model: str, names: list[str], unit: str) -> None:
    data = small_data()
    words = ("--model.dim=16", "--model.hidden=16") if model == "s3rec" else ()
    rows = speed_methods.measure(f"method/{model}", Cell(model, "demo", 0, words), data, SAME)
    assert [row["name"] for row in rows] == names
    num_positions = len(data.train_sequences().items) - 150  # nobody's first item is learnt
    for row in rows:
        assert row["unit"] == unit
        assert row["value"] >= 0
        assert row["share"] > 0
        if row["value"] > 0.1:  # of less, too few digits are left
            assert row["positions_per_s"] * row["value"] == pytest.approx(num_positions, rel=1e-2)
    assert [("users_per_s" in row) for row in rows] == [False] * (len(rows) - 1) + [True]
