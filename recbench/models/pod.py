"""POD: prompt distillation (Li et al., CIKM 2023).

P5 with a few learned vectors per task before the prompt. Training shows them together with templates, or with
users and items alone; a request has no template, so what templates say must have gone into the vectors. Tasks
take turns, a batch each. Only users and items are counted as words.

What differs from the authors' code, beside what P5 says of its own: padding is no part of the loss; what is
written is an item, where they put a random one for text that is none, and each item counts once.
B users, S prompt tokens, P vectors of a task, D width.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.generator import Decoding  # noqa: TC001 - the command line reads it
from recbench.models.p5 import P5
from recbench.nn.item_codes import ItemCodes  # noqa: TC001 - the command line reads the annotation
from recbench.nn.prompt_tasks import TASKS, TEMPLATES, Tasks

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.catalog import Catalog
    from recbench.nn.prompts import Prompt

_BARE = {
    "sequential": "{user} {history}",
    "select": "{user} {history} {candidates}",
    "top_n": "{user} {candidates}",
}


class POD(P5):
    """Prompt distillation (Li et al., CIKM 2023).

    Args:
        num_prompts: learned vectors per task.
        codes: how items are written; two collaborative codes when None.
        pretrained: a T5 by hub name or folder; empty for a small one from random weights, of the sizes below.
        dim: width.
        num_layers: blocks of the encoder, and of the decoder.
        num_heads: heads per block.
        hidden: width inside the feed-forward.
        dropout: everywhere a T5 has it.
        max_len: most recent items that a prompt names.
        tasks: what is trained; a task with a share above 0 takes its turn, whatever the share.
        num_negatives: candidates beside the target in the tasks that name them.
        has_words: whether the vector of the word is added to a token's.
        num_beams: width of the search, and length of the list that is evaluated.
        decoding: whether the search is constrained to real items; free for parity with published figures.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Prompt Distillation for Efficient LLM-based Recommendation",
        "CIKM",
        2023,
        "https://doi.org/10.1145/3583780.3615017",
    )
    templates: ClassVar[dict[str, tuple[str, ...]]] = {
        task: (bare, *TEMPLATES[task]) for task, bare in _BARE.items()
    }
    counts_words: ClassVar[bool] = False

    def __init__(
        self,
        *,
        num_prompts: int = 3,
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
            codes=codes,
            pretrained=pretrained,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden=hidden,
            dropout=dropout,
            max_len=max_len,
            tasks=tasks,
            num_negatives=num_negatives,
            has_words=has_words,
            num_beams=num_beams,
            decoding=decoding,
            recipe=recipe,
        )
        at_least(1, num_prompts=num_prompts)
        if tasks.yes_no:
            raise ValueError("yes_no is a task of P5 alone: POD has sequential, select and top_n")
        self.num_prompts = num_prompts

    def build(self, catalog: Catalog) -> None:
        """P5's weights and the learned vectors."""
        super().build(catalog)
        self.prompts = nn.ParameterDict(
            {
                task: torch.empty(self.num_prompts, self.tokens.embedding_dim).uniform_(-0.1, 0.1)
                for task in self.templates
            }
        )

    def _draw_task(self) -> str:
        """Those that are trained take turns."""
        trained = [task for task, share in zip(TASKS, astuple(self.tasks), strict=True) if share]
        return trained[self.global_step % len(trained)]

    def _encode(self, task: str, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The vectors stand right before the first real token, wherever that is."""
        vectors, real = self._vectors(prompt), prompt.tokens != 0
        soft = self.prompts[task].expand(len(vectors), -1, -1)
        return self._read(*_before_the_text(soft, vectors, real))


def _before_the_text(soft: Tensor, vectors: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Move (B, P, D) `soft` between padding and text of (B, S, D) `vectors`."""
    num_soft = soft.shape[1]
    present = F.pad(real, (num_soft, 0), value=True)
    order = present.to(torch.int8).argsort(dim=1, stable=True)  # padding first, then soft, then text
    joined = torch.cat([soft, vectors], dim=1)
    return joined.gather(1, order[..., None].expand_as(joined)), present.gather(1, order)
