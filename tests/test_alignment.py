from __future__ import annotations

import torch

from recbench.nn.alignment import rolled


def test_rows_move_right_and_come_back() -> None:
    x = torch.arange(8).view(2, 4, 1)
    found = rolled(x, torch.tensor([1, -1]))
    assert found[..., 0].tolist() == [[3, 0, 1, 2], [5, 6, 7, 4]]
    assert torch.equal(rolled(found, torch.tensor([-1, 1])), x)
