"""Prompts as tensors: templates with slots for a whole batch, and which word of the prompt a token is of.

A batch is written from one template, so a prompt is put together from a few blocks of columns with no Python
per user. What is absent in a row, such as the missing part of a shorter history, is PAD and moves to the left
end of the row: distances between tokens are then those of the text, however far a batch is padded.
B users, S tokens of a prompt, n tokens of a block.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PAD = 0
UNCOUNTED, INNER, FIRST = -1, 0, 1
_SLOT = re.compile(r"\{(\w+)\}")


class Block(NamedTuple):
    """(B or 1, n) `tokens`, PAD where absent, and their `role`: UNCOUNTED, or FIRST or INNER of a word."""

    tokens: Tensor
    role: Tensor


class Prompt(NamedTuple):
    """(B, S) `tokens`, PAD on the left, and (B, S) `word`: which counted word each is of, 0 for none."""

    tokens: Tensor
    word: Tensor


def words_of(templates: Iterable[str]) -> list[str]:
    """All different words outside the slots, in alphabetical order."""
    return sorted({word for template in templates for word in _SLOT.sub(" ", template).split()})


def slots_of(template: str) -> list[str]:
    """Names of a template's slots, in order."""
    return _SLOT.findall(template)


class Template:
    """One template, ready to be filled.

    Args:
        text: words and `{slots}`.
        encode: text -> token ids, of a word vocabulary or of a tokenizer.
        counts_words: whether the template's own words are counted beside those of the slots, as P5 does; POD
            counts users and items alone.
    """

    def __init__(self, text: str, encode: Callable[[str], list[list[int]]], *, counts_words: bool) -> None:
        self.slots = slots_of(text)
        self._parts: list[str | Block] = []
        for i, piece in enumerate(_SLOT.split(text)):
            if i % 2:
                self._parts.append(piece)
            elif piece.strip():
                self._parts.append(_text_block(encode(piece.strip()), counts_words=counts_words))

    def fill(self, slots: Mapping[str, Block]) -> Prompt:
        """The prompt of every row.

        Args:
            slots: for each slot's name its block.
        """
        blocks = [slots[part] if isinstance(part, str) else part for part in self._parts]
        num_rows = max(len(block.tokens) for block in blocks)
        device = slots[self.slots[0]].tokens.device
        tokens, role = (
            torch.cat([side.to(device).expand(num_rows, -1) for side in sides], dim=1)
            for sides in zip(*blocks, strict=True)
        )
        return compact(tokens, role)


def compact(tokens: Tensor, role: Tensor) -> Prompt:
    """Move what is absent to the left, drop columns where all is, and number the words from 1.

    Args:
        tokens: (B, S) with PAD anywhere.
        role: (B, S) UNCOUNTED, FIRST or INNER.
    """
    real = tokens != PAD
    order = real.to(torch.int8).argsort(dim=1, stable=True)
    width = int(real.sum(1).max().clamp_min(1))
    order = order[:, -width:]
    tokens, role, real = (side.gather(1, order) for side in (tokens, role, real))
    word = ((role == FIRST) & real).cumsum(1)
    return Prompt(tokens, word.masked_fill(~real | (role == UNCOUNTED), 0))


def text_words(vocabulary: Mapping[str, int]) -> Callable[[str], list[list[int]]]:
    """An encoder of words that are one token each."""
    return lambda text: [[vocabulary[word]] for word in text.split()]


def item_block(items: Tensor, codes: Tensor) -> Block:
    """Items written in their codes.

    Args:
        items: (B, L), 0 where absent.
        codes: (N + 1, T), PAD where an item is shorter, row 0 all PAD.

    Returns:
        (B, L * T), an item a word.
    """
    tokens = codes[items]
    return Block(tokens.flatten(1), _first_of_last_axis(tokens).flatten(1))


def number_block(numbers: Tensor, *, num_digits: int, base: int, offset: int) -> Block:
    """(B,) numbers, each a word of `num_digits` tokens in base `base`, of which the digit 0 is `offset`."""
    powers = base ** torch.arange(num_digits - 1, -1, -1, device=numbers.device)
    tokens = numbers[:, None] // powers % base + offset
    return Block(tokens, _first_of_last_axis(tokens))


def _first_of_last_axis(tokens: Tensor) -> Tensor:
    role = torch.full_like(tokens, INNER)
    role[..., 0] = FIRST
    return role


def _text_block(words: list[list[int]], *, counts_words: bool) -> Block:
    """(1, n) of a template's own words."""
    tokens = [token for word in words for token in word]
    role = [FIRST if i == 0 else INNER for word in words for i in range(len(word))]
    return Block(torch.tensor([tokens]), torch.tensor([role if counts_words else [UNCOUNTED] * len(role)]))
