"""What CDA4Rec's cloud does with an abstract: plan, read it, retrieve, answer (arXiv 2509.01551, Sec. III).

B users, S width of projected texts, D width of the item table, N items, C candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.edge.abstract import Abstracted
from recbench.edge.cloud import answer_sound, only
from recbench.edge.messages import Abstract, Failure, Plan, Question, Reply
from recbench.nn.retrieval import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.edge.planner import Planner
    from recbench.edge.ranking_plan import Offer, RankingPlan
    from recbench.nn.retrieval import TagRetrieval
    from recbench.nn.semantics import Projection


class TextEncoder(Protocol):
    """Makes vectors of texts, such as `LanguageModel`."""

    def embed(self, texts: Sequence[str], *, is_cached: bool = True) -> NDArray[np.float32]:
        """(n, E) vectors."""


class Reader:
    """Texts -> vectors in the space of the item texts' principal components.

    What it has read it knows: an evaluation asks the same again and again.

    Args:
        encoder: reads.
        projection: fitted on the item texts.
    """

    def __init__(self, encoder: TextEncoder, projection: Projection) -> None:
        self.encoder, self.projection = encoder, projection
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str], *, anew: bool = False) -> Tensor:
        """(n, S); zeros for an empty text, which says nothing.

        Args:
            texts: n of them.
            anew: whether to read even what is known and to forget it, so that what is timed is what a request
                costs.
        """
        known = {} if anew else self._known
        new = list(dict.fromkeys(text for text in texts if text and text not in known))
        if new:
            vectors = self.projection(self.encoder.embed(new, is_cached=not anew)).cpu().numpy()
            known.update(zip(new, vectors, strict=True))
        nothing = np.zeros(self.projection.components.shape[1], dtype=np.float32)
        rows = [known[text] if text else nothing for text in texts]
        return torch.from_numpy(np.stack(rows)).to(self.projection.mean.device)


class Meaning(nn.Module):
    """Projected texts -> unit vectors in the space of the item table.

    The paper takes the language model's space for the table's own. Where both have the same width the map
    begins as the identity, which is that; it is learnt then.

    Args:
        width: S.
        dim: D.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, dim, bias=False)
        if width == dim:
            nn.init.eye_(self.map.weight)
        else:
            nn.init.orthogonal_(self.map.weight)

    def forward(self, texts: Tensor) -> Tensor:
        """(B, S) -> (B, D) of length 1, or 0 where nothing was said."""
        return F.normalize(self.map(texts), dim=-1)


class Strategist:
    """The cloud's handler of abstracts.

    Args:
        planner: decides.
        offer: what it chooses from.
        reader: of texts.
        meaning: from texts to the item table's space.
        items: (N + 1, D) the item table.
        retrieval: over the offer's tags, in their order.
        version: of the item table.
    """

    def __init__(
        self,
        *,
        planner: Planner,
        offer: Offer,
        reader: Reader,
        meaning: Meaning,
        items: Tensor,
        retrieval: TagRetrieval,
        version: str,
    ) -> None:
        self.planner, self.offer, self.reader, self.meaning = planner, offer, reader, meaning
        self.items, self.retrieval, self.version = items, retrieval, version
        self._row = {tag: row for row, tag in enumerate(offer.tags)}

    def __call__(self, asked: Sequence[Question], /) -> list[Reply | Failure]:
        """A plan for each, what was made of the abstract, and the candidates that were wanted."""
        questions = only(Abstract, asked)
        wrong = Failure("an abstract needs a text or a query", retry_after_ms=0.0)
        complaints = [None if question.text or question.query else wrong for question in questions]
        return answer_sound(questions, complaints, self._plans)

    def _plans(self, asked: list[Abstract]) -> list[Plan]:
        abstracts = [Abstracted(question.query, question.text) for question in asked]
        plans = self.planner.plan(abstracts, self.offer)
        with torch.inference_mode():
            vectors = self.meaning(self.read(abstracts, [plan.alpha for plan in plans]))
            lists = self._lists(vectors, plans, [question.num_items for question in asked])
        said = vectors.float().cpu().numpy()
        return [
            Plan(self.version, plan.text(), vector, items)
            for plan, vector, items in zip(plans, said, lists, strict=True)
        ]

    def read(self, abstracts: Sequence[Abstracted], alphas: Sequence[float]) -> Tensor:
        """(B, S) Eq. 2: the query and the behaviour, mixed; where one is missing, all of the other.

        What comes alone, as in service, is read anew.
        """
        texts = [text for one in abstracts for text in (one.query, one.text)]
        both = self.reader(texts, anew=len(abstracts) == 1)
        shares = [
            1.0 if not one.text else alpha if one.query else 0.0
            for one, alpha in zip(abstracts, alphas, strict=True)
        ]
        alpha = torch.tensor(shares, device=both.device)[:, None]
        return alpha * both[0::2] + (1 - alpha) * both[1::2]

    def _lists(
        self, vectors: Tensor, plans: Sequence[RankingPlan], wanted: Sequence[int]
    ) -> list[NDArray[np.int32]]:
        """Candidates, best first, as many as the plan says but not more than were wanted."""
        nothing = np.empty(0, np.int32)
        rows = [row for row, number in enumerate(wanted) if number]
        found = [nothing] * len(plans)
        if rows:
            asked = [self._wanted(plans[row], wanted[row]) for row in rows]
            for row, (items, _) in zip(rows, self.retrieval(vectors[rows], self.items, asked), strict=True):
                found[row] = items.cpu().numpy().astype(np.int32)
        return found

    def _wanted(self, plan: RankingPlan, most: int) -> Wanted:
        groups = tuple(self._row[tag] for tag, _ in plan.tags)
        return Wanted(groups, plan.quotas(), min(plan.size, most))
