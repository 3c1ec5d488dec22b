"""What CDA4Rec's device does: abstract, ask, and rank as the plan says (arXiv 2509.01551, Sec. III).

B users, L history, D width of the item table, N items, C candidates.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.edge.abstract import Past
from recbench.edge.brain import Brain
from recbench.edge.lists import ScoredList, are_known, padded_items
from recbench.edge.messages import Abstract, Plan, encode
from recbench.edge.parameters import ScoredCatalog
from recbench.edge.privacy import Private
from recbench.edge.ranking_plan import PlanError, RankingPlan, read_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from recbench.data.batch import SequenceBatch
    from recbench.edge.abstract import Abstracter
    from recbench.edge.brain import Ranker
    from recbench.edge.messages import Question, Reply
    from recbench.edge.ranking_plan import Offer
    from recbench.models.causal import CausalScorer

Scope = Literal["candidates", "catalogue"]
STEP = 256  # bytes: uplink frames are a multiple of it, so that lengths tell little
_BARE = len(encode(Abstract("", "", 0)))
_PLANS_KEPT = 4096
_MOST_GATHERED = 1 << 22  # numbers: more are cheaper as a product with the whole table


class PlannedBrain(Brain):
    """Asks with an abstract, ranks with a plan.

    Args:
        abstracter: the only one that reads the past in order to say something of it.
        encoders: of the history, by what plans call them; the first ranks where there is no plan.
        items: the item table that all of them share.
        offer: what plans may choose from.
        scope: whether what the cloud retrieved is ranked, or the whole catalogue with the cloud's vector,
            and then no candidates are asked for.
        version: of the item table.
    """

    expects: ClassVar[type[Reply]] = Plan

    def __init__(
        self,
        *,
        abstracter: Abstracter,
        encoders: Mapping[str, CausalScorer],
        items: nn.Embedding,
        offer: Offer,
        scope: Scope,
        version: str,
    ) -> None:
        self.abstracter, self.encoders, self.items = abstracter, dict(encoders), items
        self.offer, self.scope, self.version = offer, scope, version
        self._read = lru_cache(maxsize=_PLANS_KEPT)(read_plan)  # each is checked, then used

    @property
    def num_items(self) -> int:
        """N."""
        return self.items.num_embeddings - 1

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:  # noqa: ARG002
        """An abstract each; nobody is named, for plans need no name."""
        wanted = self.num_items if self.scope == "candidates" else 0
        return [
            padded(Abstract("", one.text, wanted, one.query))
            for one in self.abstracter.abstract(pasts_of(batch))
        ]

    def are_usable(self, replies: Sequence[Any]) -> list[bool]:
        """Whether each has a plan within the offer, a vector, and known candidates if any were asked for."""
        return [isinstance(reply, Plan) and self._is_usable(reply) for reply in replies]

    def alone(self, batch: SequenceBatch) -> CausalScorer:  # noqa: ARG002
        """The first encoder, which scores everything."""
        return next(iter(self.encoders.values()))

    def together(self, batch: SequenceBatch, replies: Sequence[Any]) -> Ranker:
        """Candidates, or everything, by the fused vector (Eq. 5-7)."""
        plans = [self._read(reply.text, self.offer).plan for reply in replies]
        device = self.items.weight.device
        semantic = torch.from_numpy(np.stack([reply.vector for reply in replies])).to(device)
        users = self.fused(batch, plans, semantic)
        if self.scope == "catalogue":
            return ScoredCatalog(users @ self.items.weight.T)
        items = padded_items([reply.items for reply in replies]).to(device)
        return ScoredList(items, self._scores(users, items), self.num_items)

    def fused(self, batch: SequenceBatch, plans: Sequence[RankingPlan], semantic: Tensor) -> Tensor:
        """(B, D) Eq. 5, of unit vectors, so that the share of one is a share of what decides."""
        structured = torch.zeros_like(semantic)
        for name in {plan.encoder for plan in plans} - {"none"}:
            rows = torch.tensor([row for row, plan in enumerate(plans) if plan.encoder == name])
            states = self.encoders[name].newest_of(batch.rows(rows))
            structured[rows] = F.normalize(states, dim=-1).to(structured.dtype)
        beta = torch.tensor([plan.beta for plan in plans], device=semantic.device)[:, None]
        return beta * semantic + (1 - beta) * structured

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, C) Eq. 6, -inf at padding."""
        if items.numel() * users.shape[1] <= _MOST_GATHERED:
            scores = torch.einsum("bd,bcd->bc", users, self.items.weight[items])
        else:
            scores = (users @ self.items.weight.T).gather(1, items)
        return scores.masked_fill(items == 0, -torch.inf)

    def _is_usable(self, reply: Plan) -> bool:
        try:
            is_plan = not self._read(reply.text, self.offer).is_mended
        except PlanError:
            return False
        is_vector = reply.vector.shape == (self.items.embedding_dim,) and np.isfinite(reply.vector).all()
        is_list = self.scope == "catalogue" or (
            len(reply.items) > 0 and are_known([reply.items], self.num_items)
        )
        return bool(is_plan and is_vector and is_list)


def pasts_of(batch: SequenceBatch) -> list[Private[Past]]:
    """(B,) what each device knows of its user, wrapped so that it cannot be sent."""
    history = batch.history.cpu().numpy()
    starts = (history == 0).sum(1).tolist()
    times = None if batch.times is None else batch.times.cpu().numpy()
    queries = batch.query or [""] * len(batch)
    return [
        Private(
            Past(history[row, start:].tolist(), [] if times is None else times[row, start:].tolist(), query)
        )
        for row, (start, query) in enumerate(zip(starts, queries, strict=True))
    ]


def padded(question: Abstract) -> Abstract:
    """The same, its frame filled up with blanks to a multiple of `STEP` bytes."""
    size = _BARE + len(question.text.encode()) + len(question.query.encode())
    return Abstract(question.user, question.text, question.num_items, question.query, " " * (-size % STEP))
