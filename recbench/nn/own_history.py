"""A few steps of learning from one user's own history, undone when the answer has been given.

B users, L history, M targets of a user, C candidates.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch


@contextmanager
def tuned(model: nn.Module, loss: Callable[[], Tensor], *, num_steps: int, lr: float) -> Iterator[None]:
    """While this holds, the weights of `model` but for its tables are `num_steps` of plain descent further.

    Args:
        model: whose weights; tables of items and users are left as they are.
        loss: of the model as it is when this is called.
        num_steps: 0 changes nothing.
        lr: step size.
    """
    weights = [
        weight
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.requires_grad
    ]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            for _ in range(num_steps):
                gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
                with torch.no_grad():
                    for weight, gradient in zip(weights, gradients, strict=True):
                        if gradient is not None:
                            weight.sub_(gradient, alpha=lr)
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)


def own_moments(batch: SequenceBatch, num_targets: int) -> SequenceBatch:
    """The moments before the newest items of one user's history, which are the targets; the newest one first.

    Args:
        batch: of one user.
        num_targets: M at most; an item that nothing stands before is none.
    """
    with torch.inference_mode(mode=False):  # what was made in that mode cannot be learnt from
        history, times = batch.history.clone(), None if batch.times is None else batch.times.clone()
        length = int((history != 0).sum())
        ages = range(1, min(num_targets, length - 1) + 1)
        width = history.shape[1]

        def before(row: Tensor) -> Tensor:
            rows = [F.pad(row[:, : width - age], (age, 0)) for age in ages]
            return torch.cat(rows) if rows else row[:0]

        return replace(
            batch,
            users=batch.users.clone().expand(len(ages)),
            history=before(history),
            times=None if times is None else before(times),
            target=torch.stack([history[0, width - age] for age in ages]) if ages else history[0, :0],
            query=None,
            seen=None,
            allowed=None,
            candidates=None,
        )


def listwise(scores: Tensor, is_candidate: Tensor) -> Tensor:
    """Mean of -log softmax of column 0 among the (B, C) that are candidates; column 0 is one."""
    scores = scores.masked_fill(~is_candidate, -torch.inf)
    return (scores.logsumexp(1) - scores[:, 0]).mean()
