"""JsonGrammar: holds a language model to a JSON schema while it writes, token by token.

The automaton is llguidance's; its masks are unpacked here, since its own in-place routine for tensors
compiles at the first call, for minutes on a CPU. B rows, V vocabulary.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbench.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from recbench.nn.lm_tokens import Tokens


class JsonGrammar:
    """A logits processor of transformers that lets through nothing but what the schema allows.

    A batch is begun where the prompt is not the last call's with a token more, so one object serves all
    batches, one after the other.

    Args:
        tokens: of the model.
        schema: JSON schema; keys are written in its order.

    Raises:
        ResourceError: llguidance is not installed.
    """

    def __init__(self, tokens: Tokens, schema: Mapping[str, Any]) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise ResourceError(
                "writing under a grammar needs llguidance: pip install 'recbench-suite[llm]', or let the "
                "planner write freely with constrained: false"
            ) from None
        self._make = LLMatcher
        self._tokens = tokens
        self._grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        self._automaton: Any = None
        self._matchers: list[Any] = []
        self._length = -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T) so far and (B, V) scores -> the scores, -inf where the schema forbids a token."""
        if self._length + 1 != input_ids.shape[1] or len(self._matchers) != len(input_ids):
            self._begin(len(input_ids), scores.shape[1])
        else:
            for matcher, token in zip(self._matchers, input_ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        self._length = input_ids.shape[1]
        allowed = torch.from_numpy(np.stack([self._allowed(one, scores.shape[1]) for one in self._matchers]))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _begin(self, num_rows: int, vocabulary: int) -> None:
        from llguidance.hf import from_tokenizer

        if self._automaton is None:
            self._automaton = from_tokenizer(self._tokens.tokenizer, n_vocab=vocabulary)
        self._matchers = [self._make(self._automaton, self._grammar) for _ in range(num_rows)]

    def _allowed(self, matcher: Any, vocabulary: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(V,) which tokens may come next; the end alone where all is said."""
        found = np.zeros(vocabulary, dtype=bool)
        if matcher.is_stopped():
            found[self._tokens.tokenizer.eos_token_id] = True
            return found
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        found[: min(vocabulary, len(bits))] = bits[:vocabulary].astype(bool)
        return found
