"""How a device's model learns beside a cloud that lists (LSC4Rec, Lv et al., KDD 2025, Sec. 3.2.2).

The cloud is trained as it will be asked; what it says is kept once as arrays; on these the device's model is
validated, and on these it learns to rank. B users, U users in all, N items, n listed ones, k moments of a
user, M moments of a batch, C candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.edge import lists
from recbench.edge.messages import Candidates
from recbench.models.base import Ranking, Recipe, Recommender
from recbench.nn.list_fusion import ListFusion, mix, shares
from recbench.nn.own_history import listwise
from recbench.nn.ranking import RankMetrics, TargetRanks, ranks_in_lists
from recbench.nn.recombination import recombine

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.cloud import Lister
    from recbench.models.base import Scorer
    from recbench.nn.trie import Trie

Objective = Literal["softmax", "bce"]
_MOMENTS_PER_BLOCK = 1024


class Asked(Recommender):
    """A method as a cloud is asked: by nobody in particular, who has gone on since.

    Args:
        model: learns and is validated so.
        lag: interactions that the histories of validation lack.
    """

    recipe_option: ClassVar[str] = "cloud.recipe"

    def __init__(self, model: Recommender, *, lag: int) -> None:
        super().__init__(model.recipe)
        self.model, self.lag = model, lag
        self.trained_on = torch.device("cpu")

    def build(self, catalog: Catalog) -> None:
        """The model's weights."""
        self.model.build(catalog)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The model's, of nobody's history."""
        return self.model.loss(_nobody(batch))

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """What the model would have said `lag` interactions ago."""
        return self.model.recommend(_nobody(batch.lagged(self.lag)), k)

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Places of the targets in that."""
        return self.model.target_ranks(_nobody(batch.lagged(self.lag)))

    def on_train_end(self) -> None:
        """Note where it was trained."""
        self.trained_on = self.device


class KeptLists(Recommender):
    """What a cloud once said at training and validation moments, as arrays.

    Args:
        num_users: U.
        num_items: N.
        num_moments: k.
        num_listed: n.
    """

    listed: Tensor  # (U, k, n) at training moments, the newest first
    items: Tensor  # (U, n) at validation moments
    scores: Tensor  # (U, n)

    def __init__(self, num_users: int, num_items: int, *, num_moments: int, num_listed: int) -> None:
        super().__init__(Recipe())
        self.num_items = num_items
        self.register_buffer("listed", torch.zeros(num_users, num_moments, num_listed, dtype=torch.int32))
        self.register_buffer("items", torch.zeros(num_users, num_listed, dtype=torch.int32))
        self.register_buffer("scores", torch.full((num_users, num_listed), -torch.inf))

    def build(self, catalog: Catalog) -> None:
        """Nothing: there are no weights."""

    def fill(self, cloud: Lister, history: InteractionData, data: InteractionData, *, lag: int) -> None:
        """Ask the cloud, once, as devices would.

        Args:
            cloud: answers.
            history: whose training moments.
            data: whose validation moments.
            lag: interactions that the cloud does not see.
        """
        places = positions(history, self.listed.shape[1])
        for nth, column in enumerate(places.T):
            users = np.flatnonzero(column >= 0)
            for start in range(0, len(users), _MOMENTS_PER_BLOCK):
                some = users[start : start + _MOMENTS_PER_BLOCK]
                items, _ = self._ask(cloud, history.moment(some, column[some]), lag)
                self.listed[torch.from_numpy(some), nth] = items.int()
        for batch in data.val_dataloader():
            items, scores = self._ask(cloud, batch, lag)
            self.items[batch.users], self.scores[batch.users] = items.int(), scores

    def at(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """(B, n) the lists of the users' validation moments, 0-padded, and the cloud's scores, -inf there."""
        users = batch.users.to(self.items.device)
        where = batch.history.device
        return self.items[users].long().to(where), self.scores[users].to(where)

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` of the list of the validation moment."""
        items, scores = self.at(batch)
        return Ranking(items[:, :k], scores[:, :k])

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Places in that list."""
        return ranks_in_lists(*self.at(batch), batch.target)

    def _ask(self, cloud: Lister, batch: SequenceBatch, lag: int) -> tuple[Tensor, Tensor]:
        num_listed = self.items.shape[1]
        asked = lists.histories(batch.lagged(lag), [""] * len(batch), num_items=num_listed)
        items, scores = lists.stacked([reply for reply in cloud(asked) if isinstance(reply, Candidates)])
        missing = (0, num_listed - items.shape[1])
        return F.pad(items, missing), F.pad(scores, missing, value=-torch.inf)


class OnLists(Recommender):
    """The device's model in a stage of training: validated by where it puts the targets in kept lists.

    Args:
        model: the device's.
        kept: the lists.
        fusion: how a list's two scores become one.
        recipe: of the stage.
    """

    def __init__(self, model: Scorer, kept: KeptLists, *, fusion: ListFusion, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model, self.fusion = model, fusion
        self._kept = (kept,)  # in a tuple, so that its arrays are no part of this module's checkpoint
        self.by_share = nn.ModuleList(RankMetrics(("hr@10", "ndcg@10")) for _ in shares(self.fusion))

    @property
    def kept(self) -> KeptLists:
        """The lists."""
        return self._kept[0]

    def build(self, catalog: Catalog) -> None:
        """The model's weights."""
        self.model.build(catalog)

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` of the kept list, by the device alone."""
        return self._fused(batch)[0].recommend(batch, k)

    def target_ranks(self, batch: SequenceBatch) -> TargetRanks:
        """Places in that order."""
        return self._fused(batch)[0].target_ranks(batch)

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Rank the targets with every share of the cloud."""
        for metrics, fused in zip(self._metrics, self._fused(batch), strict=True):
            metrics.update(fused.target_ranks(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the best share."""
        for key, value in self.best()[1].items():
            self.log(f"val/{key}", value, prog_bar=True)

    def best(self) -> tuple[float, dict[str, float]]:
        """The share with the highest NDCG@10, the least of equals, and its figures; forgets the users."""
        found = []
        for metrics in self._metrics:
            found.append({key: float(value) for key, value in metrics.compute().items()})
            metrics.reset()
        place = max(range(len(found)), key=lambda i: found[i]["ndcg@10"])
        return shares(self.fusion)[place], found[place]

    @property
    def _metrics(self) -> list[RankMetrics]:
        return [metrics for metrics in self.by_share if isinstance(metrics, RankMetrics)]

    def _fused(self, batch: SequenceBatch) -> list[lists.ScoredList]:
        items, theirs = self.kept.at(batch)
        own = self.model.score(batch, items)
        return [
            lists.ScoredList(items, mix(self.fusion, items, theirs, own, alpha=alpha), self.kept.num_items)
            for alpha in shares(self.fusion)
        ]


class Cooperation(OnLists):
    """Second stage: the device learns which of the listed items and of their like comes next (Eq. 5 and 6).

    Args:
        model: the device's.
        kept: the lists.
        history: what is trained on.
        trie: how the cloud writes items.
        num_recombined: draws of items that are written like listed ones.
        objective: softmax over the candidates of a list, or binary cross entropy over each.
        fusion: how a list's two scores become one.
        recipe: of the stage.
    """

    recipe_option: ClassVar[str] = "cooperation"

    def __init__(
        self,
        model: Scorer,
        kept: KeptLists,
        history: InteractionData,
        trie: Trie,
        *,
        num_recombined: int,
        objective: Objective,
        fusion: ListFusion,
        recipe: Recipe,
    ) -> None:
        super().__init__(model, kept, fusion=fusion, recipe=recipe)
        self.num_recombined, self.objective = num_recombined, objective
        self._trie = (trie,)
        self._history, self._positions = history, positions(history, kept.listed.shape[1])

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Tell the next item from S_Aug at all moments of the users of a batch."""
        moments, items, is_candidate = self.augmented(batch.users.cpu().numpy())
        where = batch.history.device
        scores = self.model.score(moments.to(where), items.to(where))
        is_candidate = is_candidate.to(where)
        if self.objective == "softmax":
            return listwise(scores, is_candidate)
        is_next = torch.zeros_like(scores)
        is_next[:, 0] = 1
        return F.binary_cross_entropy_with_logits(scores[is_candidate], is_next[is_candidate])

    def augmented(self, users: NDArray[np.int64]) -> tuple[SequenceBatch, Tensor, Tensor]:
        """The users' M moments; (M, C) the target, the list and what is written like it; what of it is real.

        An item that may not be recommended, or is the target once more, is no candidate.
        """
        places = self._positions[users]
        row, nth = np.nonzero(places >= 0)
        moments = self._history.moment(users[row], places[row, nth])
        listed = self.kept.listed[moments.users, torch.from_numpy(nth)].long().cpu()
        others = torch.cat([listed, recombine(self._trie[0], listed, self.num_recombined)], dim=1)
        competes = lists.may_be_shown(others, moments, num_items=self.kept.num_items)
        competes &= others != moments.target[:, None]
        items = torch.cat([moments.target[:, None], others], dim=1)
        return moments, items, F.pad(competes, (1, 0), value=True)


class Adaptation(OnLists):
    """Third stage: the device learns on as it did alone (Eq. 7)."""

    recipe_option: ClassVar[str] = "adaptation"

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The model's own."""
        return self.model.loss(batch)


def positions(data: InteractionData, num_moments: int) -> NDArray[np.int64]:
    """(U, k) flat positions of everybody's newest training targets, newest first; -1 where there is none."""
    users, found = data.moments(num_moments)
    table = np.full((data.catalog.num_users, num_moments), -1, dtype=np.int64)
    is_first = np.diff(users, prepend=-1) != 0
    starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    table[users, np.arange(len(users)) - starts] = found
    return table


def _nobody(batch: SequenceBatch) -> SequenceBatch:
    """The batch as a cloud sees it, to which all users are called alike."""
    return replace(batch, users=torch.full_like(batch.users, -1))
