"""Texts to the token rows of a language model and back: chat template, truncation, padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Tokens:
    """A tokenizer with the rules that hold for every language model here.

    Args:
        tokenizer: of transformers; None on the meta device where it is not here.
        max_tokens: of a row, at most.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def prompt(self, text: str, *, system: str = "") -> list[int]:
        """The newest `max_tokens` of a prompt, in the chat template where there is one; never empty.

        Args:
            text: what the user says.
            system: what the system turn says; the template's own words unless given.
        """
        if self.tokenizer.chat_template:
            turns = [{"role": "system", "content": system}] if system else []
            turns.append({"role": "user", "content": text})
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            row = self._bare(text)
        else:
            row = list(self.tokenizer(f"{system}\n{text}" if system else text)["input_ids"])
        return (row or [self.blank])[-self.max_tokens :]

    def answer(self, text: str) -> list[int]:
        """What the model should write for `text`: its tokens and the end, with room for a prompt of one."""
        return [*self._bare(text), self.tokenizer.eos_token_id][: self.max_tokens - 1]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The first `max_tokens` of each text by itself; an empty one is a single special token."""
        if not texts:
            return []
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return [row or [self.blank] for row in rows]

    def padded(self, rows: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, T) tokens, padded on the left so that all rows end together, and (B, T) which are real."""
        width = max(map(len, rows))
        ids = [[self.blank] * (width - len(row)) + list(row) for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def texts(self, rows: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """What was written, special tokens left out."""
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    @property
    def blank(self) -> int:
        """The token of padding, and of an empty text; any one where sizes are all that is asked for."""
        if self.tokenizer is None:
            return 0
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        return int(next((token for token in known if token is not None), 0))

    def _bare(self, text: str) -> list[int]:
        """The tokens of `text`, with none added around it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
