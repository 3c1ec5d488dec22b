"""P5: recommendation as text to text (Geng et al., RecSys 2022).

A T5 reads a prompt that names the user and what the user had, and writes an item. To every token's vector the
one of the word it is of is added, so that the model sees where a user's or an item's tokens begin.

What differs from the authors' code. Items are written in codes of this suite; theirs follow the order in
which the data file walks through its users, test items included, and so tell the target to whoever counts on
from the last item (`codes: Sequential` with `leaky: true` is that, kept apart on the leaderboard). Numbers of
words are there when an item is written as they are in training. A search writes real items alone, each once.
Of the
tasks those that recommend are here: ratings, reviews and explanations need the text of reviews, and their
random split shows test pairs in training. Templates are our own words. A batch has one task and one template,
so that no prompt is padded to another's length; the loss is the mean over a target's tokens, then over users.
Negatives of the candidate tasks are uniform items other than the target.
B users, L history, S prompt tokens, T codes of an item, C candidates, V code vocabulary, D width.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.generator import Generator
from recbench.nn.attention import check_heads
from recbench.nn.dropout import check_rate
from recbench.nn.item_codes import Collaborative, ItemCodes
from recbench.nn.losses import other_items
from recbench.nn.prompts import PAD, Block, Prompt, Template, item_block, number_block, text_words, words_of
from recbench.nn.t5 import load_t5, new_t5
from recbench.nn.t5_decoder import T5Decoder

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog

# the first of a task's templates is the one that is asked with
TEMPLATES = {
    "sequential": (
        "{user} chose {history} and chooses next",
        "after {history} the next choice of {user} is",
        "the history of {user} is {history} what follows",
        "{history} were chosen in this order name the next for {user}",
        "given {history} recommend one more item to {user}",
        "{user} had {history} predict what comes after them",
    ),
    "select": (
        "{user} chose {history} and chooses next one of {candidates}",
        "one of {candidates} follows {history} for {user} which",
        "after {history} pick for {user} among {candidates}",
    ),
    "top_n": (
        "choose for {user} one of {candidates}",
        "{candidates} which of them does {user} want",
        "recommend to {user} something out of {candidates}",
    ),
}
TASKS = tuple(TEMPLATES)
_BASE = 100  # a user's number is written in pairs of decimal digits
_NUM_WORDS = 512  # words of a prompt that are told apart


@dataclass(frozen=True)
class Tasks:
    """Shares of the training batches.

    Args:
        sequential: the next item after a history.
        select: the same among candidates that are named.
        top_n: an item among candidates, for a user of whom nothing but the number is named.
    """

    sequential: float = 1.0
    select: float = 0.0
    top_n: float = 0.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0 or not self.sequential + self.select + self.top_n > 0:
            raise ValueError(f"shares of tasks must be 0 or more and not all 0, got {astuple(self)}")


class P5(Generator):
    """Text-to-text recommendation (Geng et al., RecSys 2022).

    Args:
        codes: how items are written; two collaborative codes when None.
        pretrained: a T5 by hub name or folder, whose weights and tokenizer are taken; empty for a small one
            from random weights, of the sizes below.
        dim: width.
        num_layers: blocks of the encoder, and of the decoder.
        num_heads: heads per block.
        hidden: width inside the feed-forward.
        dropout: everywhere a T5 has it.
        max_len: most recent items that a prompt names.
        tasks: what is trained.
        num_negatives: candidates beside the target in the tasks that name them.
        has_words: whether the vector of the word is added to a token's.
        num_beams: width of the search, and length of the list that is evaluated.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict "
        "Paradigm (P5)",
        "RecSys",
        2022,
        "https://arxiv.org/abs/2203.13366",
    )
    templates: ClassVar[dict[str, tuple[str, ...]]] = TEMPLATES
    counts_words: ClassVar[bool] = True  # the template's own, beside users and items

    def __init__(
        self,
        *,
        codes: ItemCodes | None = None,
        pretrained: str = "",
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 512,
        dropout: float = 0.1,
        max_len: int = 20,
        tasks: Tasks = Tasks(),
        num_negatives: int = 99,
        has_words: bool = True,
        num_beams: int = 20,
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(codes=codes or Collaborative(), num_beams=num_beams, recipe=recipe)
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        at_least(1, num_negatives=num_negatives)
        check_heads(dim, num_heads)
        check_rate(dropout)
        if recipe.samples == "positions":
            raise ValueError(
                "a prompt has one answer, so samples positions would waste a window: prefixes learn all"
            )
        self.pretrained, self.dim, self.num_layers, self.num_heads, self.hidden = (
            pretrained,
            dim,
            num_layers,
            num_heads,
            hidden,
        )
        self.dropout, self.max_len, self.tasks = dropout, max_len, tasks
        self.num_negatives, self.has_words = num_negatives, has_words

    def build(self, catalog: Catalog) -> None:
        """A T5, the vectors of codes, digits and words, and the templates as tokens."""
        super().build(catalog)
        first = self.num_tokens + _BASE
        if self.pretrained:
            self.t5, texts, pieces = load_t5(self.pretrained, dropout=self.dropout)
            fresh = texts.mean(0) + torch.randn(first, texts.shape[1]) * texts.std(0)
            table = torch.cat([fresh, texts])
        else:
            self.t5 = new_t5(
                dim=self.dim,
                num_layers=self.num_layers,
                num_heads=self.num_heads,
                hidden=self.hidden,
                dropout=self.dropout,
            )
            words = words_of(text for texts in self.templates.values() for text in texts)
            pieces = text_words({word: i for i, word in enumerate(words)})
            table = torch.randn(first + len(words), self.dim)  # a T5's own scale
        num_rows, width = table.shape
        self.tokens = nn.Embedding(num_rows, width, _weight=table)
        self.words = nn.Embedding(_NUM_WORDS, width)
        nn.init.normal_(self.words.weight, std=0.02)

        def encode(text: str) -> list[list[int]]:
            return [[first + piece for piece in word] for word in pieces(text)]

        self._templates = {
            task: [Template(text, encode, counts_words=self.counts_words) for text in texts]
            for task, texts in self.templates.items()
        }
        self._num_digits = _num_digits(catalog.num_users)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Mean over the users of the mean cross-entropy of the target's codes, of one task and template."""
        task = self._draw_task()
        choice = int(torch.randint(len(self._templates[task]), ()))
        candidates = None if task == "sequential" else self._draw_candidates(batch.target)
        states, real = self._encode(task, self._write(task, choice, batch, candidates))
        target = self.item_tokens[batch.target]
        before = F.pad(target[:, :-1], (1, 0))  # PAD begins a text, as for any T5
        out = self.t5.decoder(
            inputs_embeds=self.tokens(before),
            encoder_hidden_states=states,
            encoder_attention_mask=real,
            use_cache=False,
        ).last_hidden_state
        losses = F.cross_entropy(self._logits(out).mT, target, ignore_index=PAD, reduction="none")
        return (losses.sum(1) / (target != PAD).sum(1)).mean()

    def decoder(self, batch: SequenceBatch) -> T5Decoder:
        """Answers the first template of the task that the request poses."""
        task = self._task_of(batch)
        states, real = self._encode(task, self._write(task, 0, batch, batch.candidates))
        return T5Decoder(self.t5.decoder, self.tokens.weight, self._logits, states=states, real=real)

    def _draw_task(self) -> str:
        """The task of a batch, by its share."""
        shares = torch.tensor(astuple(self.tasks))
        return TASKS[int(torch.multinomial(shares, 1))]

    def _task_of(self, batch: SequenceBatch) -> str:
        """Candidates are chosen from where that was trained; else an item follows a history."""
        if batch.candidates is not None:
            for task in ("select", "top_n"):
                if getattr(self.tasks, task):
                    return task
        return "sequential"

    def _draw_candidates(self, target: Tensor) -> Tensor:
        """(B, C) the target and uniform others, in random order."""
        others = other_items(target, self.num_negatives, num_items=len(self.item_tokens) - 1)
        items = torch.cat([target[:, None], others], dim=1)
        return items.gather(1, torch.rand(items.shape, device=items.device).argsort(1))

    def _write(self, task: str, choice: int, batch: SequenceBatch, candidates: Tensor | None) -> Prompt:
        """The prompt of every user."""
        slots: dict[str, Block] = {
            "user": number_block(
                batch.users, num_digits=self._num_digits, base=_BASE, offset=self.num_tokens
            ),
            "history": item_block(batch.history[:, -self.max_len :], self.item_tokens),
        }
        if candidates is not None:
            slots["candidates"] = item_block(candidates, self.item_tokens)
        return self._templates[task][choice].fill(slots)

    def _encode(self, task: str, prompt: Prompt) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - for soft prompts
        """(B, S, D) states of the encoder, and (B, S) which are of real tokens."""
        return self._read(self._vectors(prompt), prompt.tokens != PAD)

    def _vectors(self, prompt: Prompt) -> Tensor:
        """(B, S, D) what the encoder reads: a token and the word it is of."""
        vectors: Tensor = self.tokens(prompt.tokens)
        return vectors + self.words(prompt.word.clamp(max=_NUM_WORDS - 1)) if self.has_words else vectors

    def _read(self, vectors: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return self.t5.encoder(inputs_embeds=vectors, attention_mask=real).last_hidden_state, real

    def _logits(self, states: Tensor) -> Tensor:
        """(..., D) states of the decoder -> (..., V), scaled as by a T5 whose output is its input table."""
        scale = self.tokens.embedding_dim**-0.5
        logits: Tensor = (states * scale) @ self.tokens.weight[: self.num_tokens].T
        return logits


def _num_digits(num_users: int) -> int:
    """Digits of base 100 that every user's number is written in."""
    return -(-len(str(num_users - 1)) // 2)
