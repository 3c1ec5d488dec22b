"""LanguageModel: weights by name, in 32, 16 or 4 bits, with LoRA; embeds, generates, scores answers.

The base is frozen and never saved: a checkpoint of a method that holds a language model has its adapters and
the fingerprint of the base they belong to. B texts, T tokens, D width, A answer tokens, V vocabulary.

QLoRA (Dettmers et al., NeurIPS 2023): NF4 with double quantisation, adapters in 32 bits. What differs from
`peft.prepare_model_for_kbit_training`: embeddings, norms and the output layer stay in `dtype` instead of 32
bits, 2 GB less for Llama-3.1-8B; norms and the loss are computed in 32 bits anyway.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from recbench.errors import CheckpointError
from recbench.nn import lm_attention, lm_loading, text_vectors
from recbench.nn.grammar import Grammar, write_within
from recbench.nn.lm_options import LanguageModelOptions, Lora
from recbench.nn.lm_tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["LanguageModel", "LanguageModelOptions", "Lora"]

IGNORED = -100  # a label that is no answer token


class LanguageModel(nn.Module):
    """A language model with its tokenizer, on torch's default device.

    Under `torch.device("meta")` its configuration is enough: it has sizes and no weights.

    Args:
        options: which one, and how it is held.
        adapters: what its sets of adapters are called, if it has any; the first is in use.

    Raises:
        UsageError: there is no model of that name.
        ResourceError: its weights, or a package it needs, are not here.
        ValueError: adapters are asked for on layers that the model does not have.
    """

    base_id: Tensor  # (32,) bytes: which base the adapters belong to

    def __init__(self, options: LanguageModelOptions, *, adapters: Sequence[str] = ("default",)) -> None:
        super().__init__()
        self.options = options
        self.adapters = tuple(adapters) if options.lora.rank else ()
        self.model, tokenizer, base_id = lm_loading.load(options)
        limit = getattr(self.model.config, "max_position_embeddings", None) or options.max_tokens
        self.tokens = Tokens(tokenizer, max_tokens=min(limit, options.max_tokens))
        self.register_buffer("base_id", base_id)
        self.model.requires_grad_(False)
        self.adapter = ""
        if self.adapters:
            lm_loading.add_adapters(self.model, options.lora, self.adapters)
            self.adapter = self.adapters[0]
        if options.checkpointing:
            lm_loading.recompute(self.model)
        self._prefix = ""
        self.register_load_state_dict_post_hook(_forgive_the_base)  # type: ignore[no-untyped-call]
        self.eval()

    @property
    def dim(self) -> int:
        """D, the width of what `embed` returns."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.base_id.device

    @property
    def is_seq2seq(self) -> bool:
        """Whether an encoder reads and a decoder writes, as in T5."""
        return bool(self.model.config.is_encoder_decoder)

    @contextmanager
    def adapted_by(self, name: str) -> Iterator[None]:
        """Compute with the adapters of `name` while this holds; a model without adapters stays as it is.

        An empty name changes nothing.

        Raises:
            ValueError: the model's adapters have other names.
        """
        before = self.adapter
        wanted = name if name and self.adapters else before
        if wanted not in (before, *self.adapters):
            raise ValueError(f"no adapters are called {name!r}; there are {', '.join(self.adapters)}")
        self._use(wanted)
        try:
            yield
        finally:
            self._use(before)

    def _use(self, name: str) -> None:
        if name != self.adapter:
            lm_loading.use_adapter(self.model, name)
            self.adapter = name

    def embed(self, texts: Sequence[str], *, is_cached: bool = True) -> NDArray[np.float32]:
        """(n, D) mean over the real tokens of the last layer, of the encoder where there is one.

        Texts of about equal length share a batch. What was computed before is read from the cache folder,
        by model, adapters and text.

        Args:
            texts: n of them; an empty one is a single special token.
            is_cached: whether that cache is read and written.
        """
        return text_vectors.embed(self, texts, is_cached=is_cached)

    def pooled(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, D) in 32 bits: the mean of the last layer over the tokens of each of B rows."""
        ids, mask = self.tokens.padded(rows, device=self.device)
        reader = self.model.get_encoder() if self.is_seq2seq else self.model.base_model
        places = {} if self.is_seq2seq else {"position_ids": lm_attention.places(mask)}
        hidden = reader(input_ids=ids, attention_mask=mask, **places).last_hidden_state  # (B, T, D)
        weight = mask[..., None].float()
        mean: Tensor = (hidden.float() * weight).sum(1) / weight.sum(1)
        return mean

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        system: str = "",
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        grammar: Grammar | None = None,
    ) -> list[str]:
        """What the model answers to each prompt, special tokens left out.

        Args:
            prompts: the user's turn of the chat template, where the model has one.
            system: what the system turn says; the template's own words unless given.
            max_new_tokens: of an answer, at most.
            temperature: 0 for the likeliest token each time, else tokens are sampled.
            top_p: share of the probability mass that is sampled from.
            seed: of the samples; every batch starts from it, so an answer depends on the batch it is in.
            batch_size: prompts at once.
            grammar: what answers are held to, of a model without an encoder.

        Raises:
            ValueError: the model only reads, or has an encoder and there is a grammar.
        """
        self._require_head()
        if grammar is not None and self.is_seq2seq:
            raise ValueError(f"{self.options.name} has an encoder; only a decoder is held to a grammar")
        how = _Writing(max_new_tokens, temperature, top_p, seed, grammar)
        rows = [self.tokens.prompt(text, system=system) for text in prompts]
        was_training = self.training
        self.eval()
        batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        answers = [text for batch in batches for text in self._continued(batch, how)]
        self.train(was_training)
        return answers

    def loss(self, prompts: Sequence[str], answers: Sequence[str], *, system: str = "") -> Tensor:
        """Scalar cross-entropy, a mean over the tokens of all answers and their ends; prompts cost nothing.

        Args:
            prompts: B, as for `generate`.
            answers: B, what should be written.
            system: as for `generate`.

        Raises:
            ValueError: the model only reads.
        """
        losses, is_answer = self.token_losses(prompts, answers, system=system)
        return (losses * is_answer).sum() / is_answer.sum()

    def token_losses(
        self, prompts: Sequence[str], answers: Sequence[str], *, system: str = ""
    ) -> tuple[Tensor, Tensor]:
        """(B, A) negative log-probability of each answer token, and 1 where there is one, 0 at padding.

        Args:
            prompts: B, as for `generate`.
            answers: B, what should be written; cut where it alone would fill `max_tokens`.
            system: as for `generate`.

        Raises:
            ValueError: the model only reads.
        """
        read = [self.tokens.prompt(text, system=system) for text in prompts]
        return self.row_losses(read, [self.tokens.answer(text) for text in answers])

    def row_losses(self, read: list[list[int]], wanted: list[list[int]]) -> tuple[Tensor, Tensor]:
        """As `token_losses`, of B rows of prompt tokens and B of answer tokens.

        Raises:
            ValueError: the model only reads.
        """
        self._require_head()
        logits, labels = (self._decoded if self.is_seq2seq else self._in_line)(read, wanted)
        losses = [  # a row at a time: V logits of each token in 32 bits, of all rows at once, are gigabytes
            nn.functional.cross_entropy(own.float(), label, ignore_index=IGNORED, reduction="none")
            for own, label in zip(logits, labels, strict=True)
        ]
        return torch.stack(losses), (labels != IGNORED).float()

    def adapter_state(self) -> dict[str, Tensor]:
        """What is trained, and the fingerprint of the base it belongs to: all that is ever saved."""
        trained = {name: weight.detach() for name, weight in self.named_parameters() if weight.requires_grad}
        return {**trained, "base_id": self.base_id}

    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `adapter_state` gave.

        Raises:
            CheckpointError: it belongs to another base, or to adapters of other layers or shapes.
        """
        try:
            self.load_state_dict(dict(state))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"not adapters of {self.options.name} as it is set up: {reason}") from None

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapters alone: what every checkpoint of a method around this has of it."""
        into: dict[str, Any] | None = options.get("destination", args[0] if args else None)
        into = {} if into is None else into
        prefix = options.get("prefix", "")
        into.update({f"{prefix}{name}": value for name, value in self.adapter_state().items()})
        return into

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """As for any module, but adapters of another base are refused."""
        self._prefix = prefix
        given = state_dict.get(f"{prefix}base_id")
        if given is not None and not torch.equal(given.to(self.device), self.base_id):
            others[-1].append(f"the adapters were trained on another language model than {self.options.name}")
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _require_head(self) -> None:
        if self.model.get_output_embeddings() is None:
            raise ValueError(
                f"{self.options.name} only reads; name a model that writes, such as smollm2-135m"
            )

    def _continued(self, rows: list[list[int]], how: _Writing) -> list[str]:
        """What follows each of `rows`."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(how.seed)
            if how.grammar is not None:
                written = write_within(
                    self.model,
                    self.tokens,
                    rows,
                    how.grammar,
                    max_new_tokens=how.max_new_tokens,
                    choose=how.choose,
                )
                return self.tokens.texts(written)
            ids, mask = self.tokens.padded(rows, device=self.device)
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, pad_token_id=self.tokens.blank, **how.options()
            )
        return self.tokens.texts(out if self.is_seq2seq else out[:, ids.shape[1] :])

    def _in_line(self, read: list[list[int]], wanted: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, A, V) logits and (B, A) labels where the answer follows the prompt in one row."""
        width = max(map(len, wanted))
        room = [self.tokens.max_tokens - len(row) for row in wanted]
        prompts = [row[-keep:] for row, keep in zip(read, room, strict=True)]
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, wanted, strict=True)]
        unread = lm_attention.read_shared(self.model, self.tokens, rows, prompts)
        # rows end together, so the answers' logits are the last ones, and no others are computed
        logits = self.model(
            **unread._asdict(), logits_to_keep=width + 1, use_cache=unread.past_key_values is not None
        ).logits
        labels = [[IGNORED] * (width - len(answer)) + answer for answer in wanted]
        return logits[:, :-1], torch.tensor(labels, device=self.device)

    def _decoded(self, read: list[list[int]], wanted: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, A, V) logits and (B, A) labels where a decoder writes the answer."""
        width = max(map(len, wanted))
        padded = [answer + [IGNORED] * (width - len(answer)) for answer in wanted]
        labels = torch.tensor(padded, device=self.device)
        ids, mask = self.tokens.padded(read, device=self.device)
        return self.model(input_ids=ids, attention_mask=mask, labels=labels).logits, labels


class _Writing(NamedTuple):
    """How answers are written."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    grammar: Grammar | None

    def options(self) -> dict[str, Any]:
        """As transformers calls it."""
        sampled = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        how = {"max_new_tokens": self.max_new_tokens, "do_sample": self.temperature > 0}
        return how | sampled if self.temperature > 0 else how

    def choose(self, scores: Tensor) -> int:
        """(V,) scores -> a token."""
        if self.temperature == 0:
            return int(scores.argmax())
        share, order = (scores / self.temperature).softmax(0).sort(descending=True)
        is_out = share.cumsum(0) - share >= self.top_p  # the likeliest stays, whatever the share
        return int(order[torch.multinomial(share.masked_fill(is_out, 0), 1)])


def _forgive_the_base(module: LanguageModel, keys: Any) -> None:
    """A checkpoint lacks the base on purpose."""
    own = set(module.adapter_state())
    base = f"{module._prefix}model."
    is_missed = [
        key for key in keys.missing_keys if not key.startswith(base) or key[len(module._prefix) :] in own
    ]
    keys.missing_keys[:] = is_missed
