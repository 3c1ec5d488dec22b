"""What a device learns from: the moments of its user's own history; and learning that is undone again.

B users, L history, M moments of a user, C candidates.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

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


class Moments(NamedTuple):
    """(M B, L) histories before users' newest items, (M B,) these items, (M B,) whether there are any."""

    history: Tensor
    target: Tensor
    is_real: Tensor


def newest_moments(history: Tensor, num_moments: int) -> Moments:
    """The moments before each user's newest items, user after user, the newest first.

    Args:
        history: (B, L) items, right-aligned.
        num_moments: M at most; an item that nothing stands before is none.
    """
    ages = range(1, min(num_moments, history.shape[1] - 1) + 1)
    if not ages:
        return Moments(history[:0], history[:0, 0], history[:0, 0] != 0)
    histories = torch.stack([F.pad(history[:, :-age], (age, 0)) for age in ages], dim=1).flatten(0, 1)
    target = torch.stack([history[:, -age] for age in ages], dim=1).flatten()
    return Moments(histories, target, (target != 0) & (histories[:, -1] != 0))


def own_moments(batch: SequenceBatch, num_targets: int) -> SequenceBatch:
    """`newest_moments` of one user, those that there are, as a batch that can be learnt from.

    Args:
        batch: of one user.
        num_targets: M at most; an item that nothing stands before is none.
    """
    with torch.inference_mode(mode=False):  # what was made in that mode cannot be learnt from
        found = newest_moments(batch.history.clone(), num_targets)
        times = None if batch.times is None else newest_moments(batch.times.clone(), num_targets).history
        return replace(
            batch,
            users=batch.users.clone().expand(int(found.is_real.sum())),
            history=found.history[found.is_real],
            times=None if times is None else times[found.is_real],
            target=found.target[found.is_real],
            query=None,
            seen=None,
            allowed=None,
            candidates=None,
        )


def listwise(scores: Tensor, is_candidate: Tensor) -> Tensor:
    """Mean of -log softmax of column 0 among the (B, C) that are candidates; column 0 is one."""
    scores = scores.masked_fill(~is_candidate, -torch.inf)
    return (scores.logsumexp(1) - scores[:, 0]).mean()
