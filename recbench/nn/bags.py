"""A user's items as a bag: each once, in no order. What methods share that do not look at sequences.

B users, L items of a bag, M candidates, D width, N items. Bags are 0-padded anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recbench.nn.losses import Loss, catalogue_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch


def distinct(history: Tensor) -> Tensor:
    """(B, L) items -> the same with every item at its newest place only, 0 where it will come again."""
    steps = torch.arange(history.shape[1], device=history.device)
    comes_again = (history[:, :, None] == history[:, None, :]) & (steps > steps[:, None])
    return history.masked_fill(comes_again.any(2), 0)


def training_bag(batch: SequenceBatch) -> Tensor:
    """(B, L + 1): all that a training window holds, its newest target too; each item once."""
    return distinct(torch.cat([batch.history, batch.target[:, None]], dim=1))


def contains(bag: Tensor, items: Tensor) -> Tensor:
    """(B, L) bags and (B, M) items -> (B, M) whether each is in its bag."""
    return (items[:, :, None] == bag[:, None, :]).any(2)


class BagSoftmax(Loss):
    """Multinomial likelihood of a whole bag (Liang et al., WWW 2018, Eq. 2): one row of scores per user.

    It has the gradient of `FullSoftmax` over the bag's items one by one, for as many rows of scores less as a
    bag has items. What is returned is the excess over the best that any scores could do, which is to share
    all probability among the bag's items: 0 is a perfect fit, whatever the size of the bags.

    Args:
        half: do the three products with the catalogue in bfloat16, where the machine has it; sums stay in
            float32.
        temperature: what the scores are divided by.
        cosine: score by cosine instead of inner product.
    """

    def __init__(self, *, half: bool = True, temperature: float = 1.0, cosine: bool = False) -> None:
        super().__init__(temperature=temperature, cosine=cosine)
        self.half = half

    def compare(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """(B, D) users, their (B, L) bags, (N + 1, D) table -> mean over all items of all bags."""
        size = (target != 0).sum(1).float()
        loss = catalogue_cross_entropy(hidden, target, table, half=self.half)
        return loss - torch.xlogy(size, size).sum() / size.sum()


def bag_loss(criterion: Loss, users: Tensor, bag: Tensor, table: Tensor) -> Tensor:
    """Mean loss over the items of all bags: of a user's at once where `criterion` can, else one by one.

    Args:
        criterion: `BagSoftmax`, or a loss over single items.
        users: (B, D) user vectors.
        bag: (B, L) items of each.
        table: (N + 1, D) item vectors, row 0 padding.
    """
    if isinstance(criterion, BagSoftmax):
        return criterion(users, bag, table)
    row, place = bag.nonzero(as_tuple=True)
    return criterion(users[row], bag[row, place], table)
