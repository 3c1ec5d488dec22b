"""Grammar: holds a language model to regular expressions while it writes.

A text comes in parts, and what has been written decides what its next part may be, such as one of the words
that were not said yet. What leaves no choice, such as the rest of a word once it is begun, is not written
token by token: it is read in one pass together with the token that decided it. The automaton is
llguidance's; its masks are unpacked here, since its own in-place routine for tensors compiles at the first
call, for minutes on a CPU. B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbench.errors import ResourceError
from recbench.nn.lm_attention import read_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from recbench.nn.lm_tokens import Tokens


_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")  # re.escape escapes more, such as spaces


def one_of(texts: Iterable[str]) -> str:
    """Regular expression of any of these texts, as llguidance reads it."""
    plain = (_SPECIAL.sub(r"\\\g<0>", text) for text in texts)
    return f"({'|'.join(plain)})"


class Grammar:
    """What may be written.

    Args:
        tokens: of the model.
        follow: what has been written -> regular expression of the part that follows, empty at the end of the
            text. A part must end where nothing could go on with it.

    Raises:
        ResourceError: llguidance is not installed.
    """

    def __init__(self, tokens: Tokens, follow: Callable[[str], str]) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise ResourceError(
                "writing under a grammar needs llguidance: pip install 'recbench-suite[llm]', or let the "
                "planner write freely with constrained: false"
            ) from None
        self._make = LLMatcher
        self._tokens, self._follow = tokens, follow
        self._automaton: Any = None

    def begin(self, vocabulary: int) -> Text:
        """A text of nothing yet.

        Args:
            vocabulary: V, scores that the model has, of which the last may belong to no token.
        """
        from llguidance.hf import from_tokenizer

        if self._automaton is None:
            self._automaton = from_tokenizer(self._tokens.tokenizer, n_vocab=vocabulary)
        return Text(self._part, vocabulary)

    def _part(self, written: Sequence[int]) -> Any:
        """A matcher of what may follow; None at the end."""
        expression = self._follow(self._tokens.tokenizer.decode(written))
        if not expression:
            return None
        return self._make(self._automaton, self._make.grammar_from_regex(expression))


class Text:
    """A text that is being written within a grammar.

    Attributes:
        tokens: so far.

    Args:
        part: tokens so far -> llguidance's matcher of what may follow, None at the end.
        vocabulary: V.
    """

    def __init__(self, part: Callable[[Sequence[int]], Any], vocabulary: int) -> None:
        self._part, self._vocabulary = part, vocabulary
        self.tokens: list[int] = []
        self._matcher = part(self.tokens)

    @property
    def is_whole(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher is None

    def allowed(self) -> Tensor:
        """(V,) which tokens may come next."""
        found = np.zeros(self._vocabulary, dtype=bool)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        found[: min(self._vocabulary, len(bits))] = bits[: self._vocabulary].astype(bool)
        return torch.from_numpy(found)

    def take(self, token: int) -> list[int]:
        """Go on with an allowed token; returns it with what is bound to follow."""
        self._go_on([token])
        return [token, *self.forced()]

    def forced(self) -> list[int]:
        """Go on with all that is bound to come next, and return it."""
        start = len(self.tokens)
        while not self.is_whole and (bound := list(self._matcher.compute_ff_tokens())):
            self._go_on(bound)
        return self.tokens[start:]

    def _go_on(self, tokens: Sequence[int]) -> None:
        self._matcher.consume_tokens(list(tokens))
        self.tokens += tokens
        if self._matcher.is_stopped():
            self._matcher = self._part(self.tokens)


def write_within(
    model: Any,
    tokens: Tokens,
    rows: Sequence[Sequence[int]],
    grammar: Grammar,
    *,
    max_new_tokens: int,
    choose: Callable[[Tensor], int],
) -> list[list[int]]:
    """The tokens that a decoder writes after each prompt; those of texts that are too long end in between.

    What all prompts begin with is read once. Then rows get ahead of one another: where one has less to read
    than another there may be padding in between, which nobody attends to.

    Args:
        model: of transformers, without an encoder.
        tokens: of the model.
        rows: B prompts, none empty.
        grammar: what may be written.
        max_new_tokens: of a text, at most.
        choose: (V,) scores, -inf where the grammar forbids a token -> the token.
    """
    unread = read_shared(model, tokens, rows, rows)
    mask = unread.attention_mask
    out = model(**unread._asdict(), use_cache=True, logits_to_keep=1)
    texts = [grammar.begin(out.logits.shape[-1]) for _ in rows]
    lengths = mask.sum(1).tolist()
    chunks = [text.forced() for text in texts]
    while True:
        for row, text in enumerate(texts):
            if not chunks[row] and not _is_done(text, max_new_tokens):
                scores = out.logits[row, -1].float().cpu()
                chunks[row] = text.take(choose(scores.masked_fill(~text.allowed(), -torch.inf)))
        are_done = [_is_done(text, max_new_tokens) for text in texts]
        if all(are_done):
            return [text.tokens[:max_new_tokens] for text in texts]
        chunks = [[] if is_done else chunk for chunk, is_done in zip(chunks, are_done, strict=True)]
        ids, is_new, places = (part.to(mask.device) for part in _padded(chunks, lengths))
        mask = torch.cat([mask, is_new], dim=1)
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=out.past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )
        lengths = [length + len(chunk) for length, chunk in zip(lengths, chunks, strict=True)]
        chunks = [[] for _ in texts]


def _is_done(text: Text, most: int) -> bool:
    return text.is_whole or len(text.tokens) >= most


def _padded(chunks: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(B, n) tokens, padded on the left, (B, n) which are real, and (B, n) their places after `lengths`."""
    width = max(map(len, chunks))
    ids, is_new, places = torch.zeros(3, len(chunks), width, dtype=torch.long)
    for row, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
        if chunk:
            ids[row, -len(chunk) :] = torch.tensor(chunk)
            is_new[row, -len(chunk) :] = 1
            places[row, -len(chunk) :] = torch.arange(length, length + len(chunk))
    return ids, is_new, places
