"""P5: recommendation as text to text (Geng et al., RecSys 2022).

A T5 reads a prompt that names the user and what the user had, and writes an item. To every token's vector the
one of the word it is of is added, so that the model sees where a user's or an item's tokens begin.

What differs from the authors' code. Items are written in codes of this suite; theirs follow the order in
which the data file walks through its users, test items included, and so tell the target to whoever counts on
from the last item (`codes: Sequential` with `leaky: true` is that, kept apart on the leaderboard). Numbers of
words are there when an item is written as they are in training. A search writes real items alone, each once,
unless `decoding` is free. Of the tasks those that recommend are here: ratings, reviews and explanations need
the text of reviews, and their random split shows test pairs in training. Templates are our own words. A batch
has one task and one template, so that no prompt is padded to another's length; the loss is the mean over a
target's tokens, then over users. Negatives of the candidate tasks are uniform items other than the target. A
question that is answered yes or no has these two answers alone, where theirs compete with all words; half of
those in training are about the target. Where it is trained, candidates are ranked by it: a prompt per
candidate, which is what did best of their ways.
B users, L history, S prompt tokens, T codes of an item, C candidates, V code vocabulary, D width, M pairs of
user and item.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.errors import UsageError
from recbench.models.base import Paper, Ranking, Recipe, Stage, at_least
from recbench.models.generator import Decoding, Generator
from recbench.nn.attention import check_heads
from recbench.nn.dropout import check_rate
from recbench.nn.item_codes import Collaborative, ItemCodes
from recbench.nn.losses import other_items
from recbench.nn.prompt_tasks import ANSWERS, TASKS, TEMPLATES, Tasks
from recbench.nn.prompts import PAD, Block, Prompt, Template, item_block, number_block, text_words, words_of
from recbench.nn.ranking import best_of
from recbench.nn.t5 import load_t5, new_t5
from recbench.nn.t5_decoder import T5Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData

__all__ = ["P5", "Tasks"]

_BASE = 100  # a user's number is written in pairs of decimal digits
_NUM_WORDS = 512  # words of a prompt that are told apart
_NUM_PAIRS = 4096  # of user and item, asked about at once


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
        decoding: whether the search is constrained to real items; free for parity with published figures.
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
        decoding: Decoding = "constrained",
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        super().__init__(
            codes=codes or Collaborative(), num_beams=num_beams, decoding=decoding, recipe=recipe
        )
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
            words = words_of([*ANSWERS, *(text for texts in self.templates.values() for text in texts)])
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
        self._answers = [encode(answer)[0][0] for answer in ANSWERS]
        self._num_digits = _num_digits(catalog.num_users)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Write the items, then train.

        Raises:
            UsageError: nothing but questions about single items is trained, and all items are candidates.
        """
        if self.tasks.yes_no and not self.tasks.sequential and not data.rules.num_negatives:
            raise UsageError(
                "task yes_no asks about one item after the other, too slow for all of them: rank few, with "
                "--data.num_negatives 99, or train sequential too"
            )
        yield from super().stages(data)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Mean over the users of the mean cross-entropy of the target's codes, of one task and template."""
        task = self._draw_task()
        choice = int(torch.randint(len(self._templates[task]), ()))
        if task == "yes_no":
            return self._answer_loss(choice, batch)
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
        """Answers the first template of the task that the request poses, unless by yes or no."""
        task = self._task_of(batch)
        states, real = self._encode(task, self._write(task, 0, batch, batch.candidates))
        return T5Decoder(self.t5.decoder, self.tokens.weight, self._logits, states=states, real=real)

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` items that are written, or of which the yes is most certain, by its log-odds."""
        if self._task_of(batch) != "yes_no":
            return super().recommend(batch, k)
        num_items = len(self.item_tokens) - 1
        items = batch.candidates
        if items is None:
            items = torch.arange(1, num_items + 1, device=batch.users.device).expand(len(batch), -1)
        asked, about = batch.users[:, None].expand_as(items).flatten(), items.flatten()
        blocks = [slice(start, start + _NUM_PAIRS) for start in range(0, len(about), _NUM_PAIRS)]
        with torch.autocast(items.device.type, enabled=False):  # half precision ties what differs
            odds = torch.cat([self._log_odds(0, asked[block], about[block]) for block in blocks])
        scores = odds.new_zeros(len(batch), num_items + 1).scatter(1, items, odds.view_as(items))
        return best_of(scores, k, seen=batch.seen, allowed=batch.allowed)

    def _draw_task(self) -> str:
        """The task of a batch, by its share."""
        shares = torch.tensor(astuple(self.tasks))
        return TASKS[int(torch.multinomial(shares, 1))]

    def _task_of(self, batch: SequenceBatch) -> str:
        """Candidates are asked about, or chosen from, if that was trained; else an item follows a history."""
        among = ("yes_no", "select", "top_n") if batch.candidates is not None else ()
        if not self.tasks.sequential:
            among = (*among, "yes_no")
        return next((task for task in among if getattr(self.tasks, task)), "sequential")

    def _answer_loss(self, choice: int, batch: SequenceBatch) -> Tensor:
        """Mean cross-entropy of yes for targets and no for other items, as many in the long run."""
        others = other_items(batch.target, 1, num_items=len(self.item_tokens) - 1)[:, 0]
        is_target = torch.rand(len(batch), device=others.device) < 0.5
        odds = self._log_odds(choice, batch.users, torch.where(is_target, batch.target, others))
        return F.binary_cross_entropy_with_logits(odds, is_target.to(odds.dtype))

    def _log_odds(self, choice: int, users: Tensor, items: Tensor) -> Tensor:
        """(M,) log p(yes) / p(no) for M users and items."""
        slots = {"user": self._number(users), "item": item_block(items[:, None], self.item_tokens)}
        states, real = self._encode("yes_no", self._templates["yes_no"][choice].fill(slots))
        out = self.t5.decoder(
            inputs_embeds=self.tokens(torch.full_like(items[:, None], PAD)),
            encoder_hidden_states=states,
            encoder_attention_mask=real,
            use_cache=False,
        ).last_hidden_state[:, 0]
        yes, no = self.tokens.weight[self._answers]
        odds: Tensor = (out * self.tokens.embedding_dim**-0.5) @ (yes - no)
        return odds

    def _draw_candidates(self, target: Tensor) -> Tensor:
        """(B, C) the target and uniform others, in random order."""
        others = other_items(target, self.num_negatives, num_items=len(self.item_tokens) - 1)
        items = torch.cat([target[:, None], others], dim=1)
        return items.gather(1, torch.rand(items.shape, device=items.device).argsort(1))

    def _write(self, task: str, choice: int, batch: SequenceBatch, candidates: Tensor | None) -> Prompt:
        """The prompt of every user."""
        slots: dict[str, Block] = {
            "user": self._number(batch.users),
            "history": item_block(batch.history[:, -self.max_len :], self.item_tokens),
        }
        if candidates is not None:
            slots["candidates"] = item_block(candidates, self.item_tokens)
        return self._templates[task][choice].fill(slots)

    def _number(self, users: Tensor) -> Block:
        return number_block(users, num_digits=self._num_digits, base=_BASE, offset=self.num_tokens)

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
