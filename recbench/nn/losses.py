"""Losses over the catalogue, as explicit choices: full softmax, sampled softmax, gBCE, BCE and BPR.

P positions (padding already dropped), D width, N items, M negatives. Every loss takes hidden states, the next
item of each position and the item table whose row 0 is padding, and returns the mean over positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch.autograd import Function

from recbench.runtime import multiplies_bfloat16

if TYPE_CHECKING:
    from torch import Tensor


class Loss(ABC):
    """How a hidden state is pulled towards its next item.

    Args:
        temperature: what the scores are divided by; with `cosine` the states and items are normalised first.
        cosine: score by cosine instead of inner product.
    """

    def __init__(self, *, temperature: float = 1.0, cosine: bool = False) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.cosine = cosine

    def __call__(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """Mean loss of (P, D) `hidden` whose next items are (P,) `target`, against the (N + 1, D) `table`."""
        return self.compare(self.compared(hidden) / self.temperature, target, self.compared(table))

    def compared(self, vectors: Tensor) -> Tensor:
        """(..., D) vectors as they are compared; a method that has learnt by this loss must rank by them."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    @abstractmethod
    def compare(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """The loss proper, on scores `hidden @ table.T`."""


class FullSoftmax(Loss):
    """Cross entropy over all items (Hidasi & Karatzoglou, 2018; Klenitskiy & Vasilev, RecSys 2023).

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
        """-log softmax of the next item among items 1..N."""
        return catalogue_cross_entropy(hidden, target[:, None], table, half=self.half)


def catalogue_cross_entropy(hidden: Tensor, targets: Tensor, table: Tensor, *, half: bool) -> Tensor:
    """-log softmax over items 1..N of `hidden @ table.T`, a mean over all targets.

    Args:
        hidden: (P, D).
        targets: (P, L) different items of each, 0 where there are fewer.
        table: (N + 1, D), row 0 padding.
        half: do the three products in bfloat16 where the machine has it, in float32 where it would have to
            emulate it; sums stay in float32.
    """
    half = half and multiplies_bfloat16(hidden.device.type)
    with torch.autocast(hidden.device.type, enabled=False):  # `half` says what is halved
        loss: Tensor = _CatalogueCrossEntropy.apply(hidden.float(), table[1:], targets - 1, half)  # type: ignore[no-untyped-call]
    return loss


class _CatalogueCrossEntropy(Function):
    """Softmax cross entropy of `hidden @ table.T` that holds a block of the (P, N) scores at a time.

    The gradients are made in the forward pass, while a block's probabilities are still in the cache: three
    products of 2 P N D operations in all, none repeated, against four for recomputation. Of several targets
    of a row the gradient is that of their sum: probabilities times their number, less 1 at each.
    """

    rows_cpu, rows_gpu = 256, 4096  # a block of probabilities fits the cache of a core; fills a GPU

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, half: bool) -> Tensor:
        """Mean over the (P, L) `targets`, -1 where there is none, with both gradients kept for `backward`."""
        dtype = torch.bfloat16 if half else hidden.dtype
        states, items = hidden.to(dtype), table.to(dtype)
        d_hidden, d_table = torch.empty_like(hidden), torch.zeros_like(table)
        total = torch.zeros((), device=hidden.device)
        rows = _CatalogueCrossEntropy.rows_gpu if hidden.is_cuda else _CatalogueCrossEntropy.rows_cpu
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            is_target = targets[block] >= 0
            chosen = targets[block].clamp_min(0)
            p = torch.softmax(states[block] @ items.T, dim=1)  # (rows, N)
            p_chosen = p.gather(1, chosen).float().clamp_min(torch.finfo(torch.float32).tiny)
            total -= (p_chosen.log() * is_target).sum()
            if targets.shape[1] > 1:
                p *= is_target.sum(1, keepdim=True)
            p.scatter_add_(1, chosen, -is_target.to(dtype))
            d_hidden[block] = p @ items
            d_table += p.T @ states[block]
        ctx.save_for_backward(d_hidden, d_table)
        num_targets = (targets >= 0).sum()
        ctx.num_targets = num_targets
        return total / num_targets

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the kept gradients."""
        d_hidden, d_table = ctx.saved_tensors
        scale = grad / ctx.num_targets
        return d_hidden * scale, d_table * scale, None, None


class SampledSoftmax(Loss):
    """Cross entropy against `num_negatives` uniform items, shared by the whole batch.

    An item that is a position's own next item is not its negative. Nothing is corrected for sampling:
    adding log(N / M) to the negatives' scores would make their sum estimate the full one, and is left out.

    Args:
        num_negatives: negatives per step.
        temperature: what the scores are divided by.
        cosine: score by cosine instead of inner product.
    """

    def __init__(self, *, num_negatives: int = 256, temperature: float = 1.0, cosine: bool = False) -> None:
        super().__init__(temperature=temperature, cosine=cosine)
        self.num_negatives = _at_least_one(num_negatives)

    def compare(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """-log softmax of the next item among itself and the negatives."""
        negatives = torch.randint(1, len(table), (self.num_negatives,), device=table.device)
        positive = (hidden * F.embedding(target, table)).sum(-1, keepdim=True)  # (P, 1)
        negative = hidden @ F.embedding(negatives, table).T  # (P, M)
        negative = negative.masked_fill(negatives == target[:, None], -torch.inf)
        return (torch.cat([positive, negative], dim=1).logsumexp(1) - positive[:, 0]).mean()


class GBCE(Loss):
    """Generalised binary cross entropy of gSASRec (Petrov & Macdonald, RecSys 2023, Eq. 8 and 13).

    Binary cross entropy over a sample learns overconfident scores; raising the positive's probability to the
    power beta undoes that, wholly at `calibration` 1, not at all at 0 (then it is BCE).

    Args:
        num_negatives: uniform negatives per position.
        calibration: t of the paper, 0 to 1.
        temperature: what the scores are divided by.
        cosine: score by cosine instead of inner product.
    """

    def __init__(
        self,
        *,
        num_negatives: int = 256,
        calibration: float = 0.75,
        temperature: float = 1.0,
        cosine: bool = False,
    ) -> None:
        super().__init__(temperature=temperature, cosine=cosine)
        if not 0 <= calibration <= 1:
            raise ValueError(f"calibration must lie in 0..1, got {calibration}")
        self.num_negatives = _at_least_one(num_negatives)
        self.calibration = calibration

    def compare(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """-(beta log sigma(s+) + sum log(1 - sigma(s-))), averaged over its M + 1 terms."""
        num_items = len(table) - 1
        rate = self.num_negatives / max(1, num_items - 1)  # alpha
        beta = rate * (self.calibration * (1 - 1 / rate) + 1 / rate)
        positive, negative = _pointwise_scores(hidden, target, table, self.num_negatives)
        terms = beta * F.softplus(-positive) + F.softplus(negative).sum(1)
        return (terms / (self.num_negatives + 1)).mean()


class BCE(Loss):
    """Binary cross entropy, `num_negatives` uniform negatives a position (Kang & McAuley, ICDM 2018, Eq. 7).

    Args:
        num_negatives: negatives per position; the paper takes 1.
        temperature: what the scores are divided by.
        cosine: score by cosine instead of inner product.
    """

    def __init__(self, *, num_negatives: int = 1, temperature: float = 1.0, cosine: bool = False) -> None:
        super().__init__(temperature=temperature, cosine=cosine)
        self.num_negatives = _at_least_one(num_negatives)

    def compare(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """-(log sigma(s+) + sum log(1 - sigma(s-)))."""
        positive, negative = _pointwise_scores(hidden, target, table, self.num_negatives)
        return (F.softplus(-positive) + F.softplus(negative).sum(1)).mean()


class BPR(Loss):
    """Bayesian personalised ranking: the next item above a negative (Rendle et al., UAI 2009, Sec. 4.1).

    Args:
        num_negatives: uniform negatives per position; their terms are summed. The paper takes 1.
        temperature: what the scores are divided by.
        cosine: score by cosine instead of inner product.
    """

    def __init__(self, *, num_negatives: int = 1, temperature: float = 1.0, cosine: bool = False) -> None:
        super().__init__(temperature=temperature, cosine=cosine)
        self.num_negatives = _at_least_one(num_negatives)

    def compare(self, hidden: Tensor, target: Tensor, table: Tensor) -> Tensor:
        """-sum log sigma(s+ - s-)."""
        positive, negative = _pointwise_scores(hidden, target, table, self.num_negatives)
        return F.softplus(negative - positive[:, None]).sum(1).mean()


def other_items(target: Tensor, num_negatives: int, *, num_items: int) -> Tensor:
    """(...) items 1..N -> (..., M) uniform draws from all items but each one's own."""
    shift = torch.randint(1, num_items, (*target.shape, num_negatives), device=target.device)
    return (target[..., None] - 1 + shift) % num_items + 1


def _pointwise_scores(
    hidden: Tensor, target: Tensor, table: Tensor, num_negatives: int
) -> tuple[Tensor, Tensor]:
    """(P,) scores of the next items and (P, M) of negatives drawn anew per position from all other items."""
    negatives = other_items(target, num_negatives, num_items=len(table) - 1)
    positive = (hidden * F.embedding(target, table)).sum(-1)
    negative = torch.einsum("pd,pmd->pm", hidden, F.embedding(negatives, table))
    return positive, negative


def _at_least_one(num_negatives: int) -> int:
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    return num_negatives
