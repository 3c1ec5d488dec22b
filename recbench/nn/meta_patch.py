"""MetaPatch: a small residual net in a place of a model, whose weights are a basis times a vector.

Every user has a vector of their own and so another patch; a batch of users is one batched product. B users, M
moments of a user, L history, D width, H inner width, K numbers of a vector, Q places, N items.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


class Patch(NamedTuple):
    """What B users put in one place: two maps, (B, H, D) and (B, D, H), biases (B, 1, H) and (B, 1, D)."""

    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(M B, L, D) -> (M B, L, D): x + down(tanh(up(x))); users come M times, one after the other."""
        rows = x.reshape(len(self.up), -1, x.shape[-1])  # (B, M L, D)
        inner = torch.tanh(torch.baddbmm(self.up_bias, rows, self.up.mT))
        return x + torch.baddbmm(self.down_bias, inner, self.down.mT).view_as(x)


class MetaPatch(nn.Module):
    """Patches for several places out of one vector per user (Yao et al., KDD 2021, Sec. 4.1).

    A vector of zeros is no patch: the second map is the basis times the vector and nothing else. The first
    map has a part that is the same for all, or at zero neither map would have a gradient.

    Args:
        dim: width D of the states that are patched.
        num_places: Q.
        hidden: H.
        rank: K; 0 for a vector of all the weights, with no basis.
    """

    def __init__(self, dim: int, *, num_places: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.dim, self.hidden, self.num_places = dim, hidden, num_places
        self._sizes = [hidden * dim, hidden, dim * hidden, dim]
        total = sum(self._sizes)
        self.origin = nn.Parameter(torch.empty(num_places, hidden * dim + hidden))
        nn.init.uniform_(self.origin, -(dim**-0.5), dim**-0.5)
        self.basis = nn.Parameter(torch.empty(rank, num_places * total)) if rank else None
        if self.basis is not None:
            nn.init.normal_(self.basis, std=(rank * hidden) ** -0.5)
        self.num_numbers = rank or num_places * total

    def forward(self, vector: Tensor) -> list[Patch]:
        """(B, K) -> the users' patch for each place."""
        flat = vector if self.basis is None else vector @ self.basis
        found = []
        for origin, numbers in zip(self.origin, flat.chunk(self.num_places, dim=1), strict=True):
            whole = F.pad(origin, (0, self._sizes[2] + self._sizes[3])) + numbers
            up, up_bias, down, down_bias = torch.split(whole, self._sizes, dim=1)
            up, down = up.reshape(-1, self.hidden, self.dim), down.reshape(-1, self.dim, self.hidden)
            found.append(Patch(up, up_bias[:, None], down, down_bias[:, None]))
        return found


class VectorEncoder(nn.Module):
    """Makes a vector of a vector: itself plus two layers that begin at zero.

    Args:
        rank: K.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(rank, 2 * rank), nn.Linear(2 * rank, rank)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, vector: Tensor) -> Tensor:
        """(B, K) -> (B, K)."""
        out: Tensor = vector + self.down(torch.tanh(self.up(vector)))
        return out


@contextmanager
def inserted(places: Sequence[nn.Module], patches: Sequence[Patch]) -> Iterator[None]:
    """While this holds, what each module returns goes through the patch for it.

    Args:
        places: modules that return (B, L, D), or (M B, L, D) where each user comes M times in a row.
        patches: as many, of B users.
    """

    def through(patch: Patch, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return patch(output)

    handles = [
        module.register_forward_hook(functools.partial(through, patch))
        for module, patch in zip(places, patches, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def descend(
    start: Tensor, loss: Callable[[Tensor], Tensor], *, num_steps: int, lr: float, l2: float
) -> Tensor:
    """Plain gradient descent of all users at once: the loss is a sum, so none moves another's vector.

    Args:
        start: (B, K).
        loss: of (B, K) vectors, summed over users.
        num_steps: how many.
        lr: step size.
        l2: weight of half the squared length of a vector.
    """
    vector = start
    with torch.inference_mode(mode=False), torch.enable_grad():
        for _ in range(num_steps):
            vector = vector.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(vector) + l2 / 2 * vector.square().sum(), vector)
            vector = vector - lr * gradient
    return vector.detach()
