"""Free beam search: what a model writes if nothing holds it to real items, as P5 and POD are evaluated.

The search is that of transformers' `generate` with its defaults: of 2 K continuations those that end are put
aside, if among the best K, with their log-probability divided by their length; the best K that do not end go
on. Only for comparison with published numbers: strings that are no item take places of the list, and so
do strings that spell an item which is listed already. B users, K beams, V tokens, T codes of an item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.nn.beam import Found, top, wide
from recbench.nn.item_codes import END, PAD, ItemCodes
from recbench.nn.ranking import TargetRanks, ranks_in_lists

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.nn.beam import Decoder

_NO_ITEM = -1  # what takes a place and can be nobody's target


class FreelyFound(NamedTuple):
    """What was written, best first.

    Args:
        items: (B, n) what the strings stand for, repeats kept; 0 where for no item.
        scores: (B, n) log-probabilities over length; -inf where nothing was written.
        invalid_rate: (B,) share of the n places without an item.
        duplicate_rate: (B,) share of the n places whose item has a better place too.
    """

    items: Tensor
    scores: Tensor
    invalid_rate: Tensor
    duplicate_rate: Tensor

    def ranked(self, target: Tensor) -> TargetRanks:
        """Best places of the (B,) targets among all that was written; inf where a target was not."""
        is_lost = (self.items == 0) & ~self.scores.isneginf()
        return ranks_in_lists(self.items.masked_fill(is_lost, _NO_ITEM), self.scores, target)

    def shown(self, k: int, *, seen: Tensor | None = None, allowed: Tensor | None = None) -> Found:
        """The best `k` real items, each once.

        Args:
            k: how many.
            seen: (B, S) items that must not be recommended, 0-padded.
            allowed: (B, N + 1) the only items that may be recommended.
        """
        keep = (self.items != 0) & ~_repeated(self.items)
        if seen is not None:
            keep &= ~(self.items[:, :, None] == seen[:, None]).any(2)
        if allowed is not None:
            keep &= allowed.gather(1, self.items)
        order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
        items = self.items.masked_fill(~keep, 0).gather(1, order)
        scores = self.scores.masked_fill(~keep, -torch.inf).gather(1, order)
        missing = k - items.shape[1]
        return Found(F.pad(items, (0, missing)), F.pad(scores, (0, missing), value=-torch.inf))


def free_search(
    decoder: Decoder,
    codes: ItemCodes,
    written: Tensor,
    *,
    num_beams: int,
    num_items: int | None = None,
    length_penalty: float = 1.0,
) -> FreelyFound:
    """The most probable strings of at most T tokens, END included, and the items they stand for.

    Args:
        decoder: where the probabilities come from, at its beginning.
        codes: reads what is written.
        written: (N + 1, T) how the items are written.
        num_beams: K.
        num_items: how many strings to list, K at most; as many as beams if not given.
        length_penalty: power of the length by which log-probabilities are divided.
    """
    num_items = num_beams if num_items is None else num_items
    if not 1 <= num_items <= num_beams:
        raise ValueError(f"num_items must lie in 1..num_beams, got {num_items} with {num_beams} beams")
    logits = wide(decoder.start())[:, None]
    scores, strings = logits.new_zeros(len(logits), 1), written.new_zeros(len(logits), 1, 0)
    done = scores.new_full((len(scores), 0), -torch.inf), strings.new_zeros(len(strings), 0, written.shape[1])
    for length in range(1, written.shape[1] + 1):
        total = (scores[..., None] + logits.log_softmax(-1)).flatten(1)  # (B, K V)
        scores, places = top(total, min(2 * num_beams, total.shape[1]))
        parents, tokens = places // logits.shape[-1], places % logits.shape[-1]
        strings = torch.cat([_rows(strings, parents), tokens[..., None]], dim=2)
        is_over = tokens == END if length < written.shape[1] else torch.ones_like(tokens, dtype=torch.bool)
        done = _put_aside(done, scores / length**length_penalty, strings, is_over, num_beams)
        scores, kept = top(scores.masked_fill(is_over, -torch.inf), min(num_beams, scores.shape[1]))
        strings = _rows(strings, kept)
        if length < written.shape[1]:
            logits = wide(decoder.step(strings[..., -1], parents.gather(1, kept)))
    return _read(codes, written, done[0][:, :num_items], done[1][:, :num_items])


def _put_aside(
    done: tuple[Tensor, Tensor], scores: Tensor, strings: Tensor, is_over: Tensor, num_beams: int
) -> tuple[Tensor, Tensor]:
    """The best `num_beams` of what was done and what is over and among the best `num_beams` now."""
    scores = scores[:, :num_beams].masked_fill(~is_over[:, :num_beams], -torch.inf)
    strings = F.pad(strings[:, :num_beams], (0, done[1].shape[2] - strings.shape[2]), value=PAD)
    scores, strings = torch.cat([done[0], scores], dim=1), torch.cat([done[1], strings], dim=1)
    best, places = top(scores, min(num_beams, scores.shape[1]))
    return best, _rows(strings, places)


def _rows(strings: Tensor, places: Tensor) -> Tensor:
    """(B, K, T) -> (B, n, T)."""
    return strings.gather(1, places[..., None].expand(-1, -1, strings.shape[2]))


def _read(codes: ItemCodes, written: Tensor, scores: Tensor, strings: Tensor) -> FreelyFound:
    """The items, and how many places they leave or take twice."""
    read = codes.read(strings.cpu().numpy(), written.cpu().numpy())
    items = torch.from_numpy(read).to(written.device).masked_fill(scores.isneginf(), 0)
    rates = [flags.double().mean(1) for flags in (items == 0, _repeated(items))]
    return FreelyFound(items, scores, *rates)


def _repeated(items: Tensor) -> Tensor:
    """(B, n) whether each place has an item that a better place has too."""
    same = (items[:, :, None] == items[:, None]) & (items[:, :, None] != 0)  # (B, n, n)
    return same.tril(-1).any(2)
