"""LSC4Rec: a language model in the cloud lists, a small model on the device ranks (Lv et al., KDD 2025).

The device keeps the list that the cloud wrote some interactions ago and ranks it by what both say of it; it
asks for a new one where its own order differs much from the cloud's. Training has three stages (Sec. 3.2.2):
each model on its own; the small one on what the large one lists, with items written like these; the small
one once more on what has come since.

Paper and code differ in almost every part; this follows the paper, and the code where the paper is silent.
The cloud is not told who asks, so its prompts name the same nobody in training as in service. Training lists
are as old as those in service (`boundary.lag`), made once and kept as an array. Lists hold real items alone,
and so does what they are augmented with, where the code puts decimal digits of item numbers together and
trains on numbers that are no items. Fusion is min-max with a share chosen on validation, the code's five
fixed ways are options; the threshold of a request is per user and from validation, where the code has one per
batch of 16, of which the number of unreadable generations decides, and reads it off the test run. The text's
"minimum 10 %" must be the highest (Eq. 12 asks where the inconsistency is large).

What is validated: the cloud by its own list, asked as it will be, by nobody and `lag` interactions late. The
device alone by its rank among all items, as everywhere. In the later stages the device by what it is there
for: the rank in the cached lists of the validation moments, fused with the share of the grid that is best for
it, so a stage is not judged by a share that suits another. The share in service is then chosen the same way.
B users, U users in all, n listed items, k moments of a user, C candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.edge import lists
from recbench.edge.cloud import Cloud, Lister
from recbench.edge.messages import Candidates, History
from recbench.edge.policy import Never, Policy, check_budget, threshold_at
from recbench.edge.reranker import OwnSteps, Reranker
from recbench.models.base import Paper, Ranking, Recipe, Recommender, Scorer, Stage, at_least
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.generator import Generator  # noqa: TC001 - the command line reads the annotation
from recbench.models.p5 import P5
from recbench.models.sasrec import SASRec
from recbench.nn.list_fusion import ListFusion, check_fusion, inconsistency, mix, shares
from recbench.nn.own_history import listwise
from recbench.nn.ranking import RankMetrics, TargetRanks, ranks_in_lists
from recbench.nn.recombination import recombine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.policy import State

_MOMENTS_PER_BLOCK = 1024
_NOT_KNOWN = -1.0  # in a table of numbers that are 0 or more


class LSC4Rec(Collaborative):
    """A list from the cloud, ranked by cloud and device (Lv et al., KDD 2025).

    Args:
        cloud: writes lists; a P5 over collaborative codes when None.
        device: ranks them, and everything when there is none; a SASRec when None.
        num_listed: n, items of a list.
        history_lag: newest training items of everybody that neither model learns from before the last stage.
            At the boundary's lag, no target of the cloud's training is newer than what it sees when asked; at
            0 it has learnt from what in service it is not shown, which is near real time in name only.
        cooperates: whether the device learns to rank lists (second stage).
        adapts: whether it learns once more from what is newest (third stage).
        num_moments: k, newest moments of everybody that lists are made for.
        num_recombined: draws of items that are written like listed ones, for every list and step.
        objective: softmax over the candidates of a list, or binary cross entropy over each, as in the code.
        cooperation: recipe of the second stage; a sample is a user with all of the moments.
        adaptation: recipe of the third stage; its samples are those of the device.
        num_recent: newest training items of everybody that the third stage learns.
        own_steps: steps of descent on the user's own history before each answer, undone after it; 0 for
            none. The paper's device learns for all users at once on a server, as the third stage does.
        own_lr: size of these steps.
        fusion: how a list's two scores become one.
        budget: share of the requests that go to the cloud, where the two orders differ most; 0 leaves it to
            the boundary's policy.
        boundary: between the sides; the cache has what was said two interactions ago and nobody asks.
    """

    paper: ClassVar[Paper] = Paper(
        "Collaboration of Large Language Models and Small Recommendation Models for Device-Cloud "
        "Recommendation",
        "KDD",
        2025,
        "https://doi.org/10.1145/3690624.3709335",
    )
    alpha: Tensor  # () share of the cloud
    recall: Tensor  # () of the validation targets that the lists hold
    skills: Tensor  # (3,) NDCG@10 on validation after device, cooperation and adaptation
    needs: Tensor  # (U,) inconsistency at the validation moments
    limit: Tensor  # () the inconsistency from which a device asks, if it is a budget that decides

    def __init__(
        self,
        *,
        cloud: Generator | None = None,
        device: Scorer | None = None,
        num_listed: int = 50,
        history_lag: int = 0,
        cooperates: bool = True,
        adapts: bool = True,
        num_moments: int = 3,
        num_recombined: int = 79,
        objective: Literal["softmax", "bce"] = "softmax",
        cooperation: Recipe = Recipe(batch_size=128, samples="pod_segments", max_epochs=10, patience=3),
        adaptation: Recipe = Recipe(lr=5e-4, max_epochs=10, patience=3),
        num_recent: int = 2,
        own_steps: int = 0,
        own_lr: float = 0.01,
        fusion: ListFusion = "minmax",
        budget: float = 0.0,
        boundary: Boundary = Boundary(policy=Never(), lag=2),
    ) -> None:
        device = device or SASRec()
        super().__init__(device.recipe, boundary=boundary)
        at_least(1, num_listed=num_listed, num_moments=num_moments, num_recent=num_recent)
        at_least(0, history_lag=history_lag, num_recombined=num_recombined, own_steps=own_steps)
        check_fusion(fusion)
        check_budget(budget)
        if type(device).loss is Recommender.loss and (cooperates or adapts):
            raise ValueError(
                f"{type(device).__name__} has no loss to learn lists by: take another device, or set "
                "cooperates and adapts to false"
            )
        if not own_lr > 0:
            raise ValueError(f"own_lr must be above 0, got {own_lr:g}")
        self.cloud, self.device_model = cloud or P5(), device
        self.num_listed, self.history_lag = num_listed, history_lag
        self.cooperates, self.adapts = cooperates, adapts
        self.num_moments, self.num_recombined, self.objective = num_moments, num_recombined, objective
        self.cooperation, self.adaptation, self.num_recent = cooperation, adaptation, num_recent
        self.own_steps, self.own_lr = own_steps, own_lr
        self.fusion, self.budget = fusion, budget
        if budget:
            self.boundary = replace(boundary, policy=AtLimit(self._limit))

    @property
    def track(self) -> str:
        """That of the cloud."""
        return self.cloud.track

    @property
    def lag(self) -> int:
        """How many interactions lists are old, in training as in service."""
        return max(0, self.boundary.lag)

    def build(self, catalog: Catalog) -> None:
        """Both models, and room for what is found on validation."""
        super().build(catalog)
        self.cloud.build(catalog)
        self.device_model.build(catalog)
        self.register_buffer("alpha", torch.zeros(()))
        self.register_buffer("recall", torch.zeros(()))
        self.register_buffer("skills", torch.full((3,), _NOT_KNOWN))
        self.register_buffer("needs", torch.full((catalog.num_users,), _NOT_KNOWN, dtype=torch.float64))
        self.register_buffer("limit", torch.full((), torch.inf, dtype=torch.float64))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Independent, cooperative and adaptive training (Sec. 3.2.2)."""
        history = data.earlier(self.history_lag) if self.history_lag else data
        asked = Asked(self.cloud, lag=self.lag)
        yield from (replace(stage, name="cloud", module=asked) for stage in self.cloud.stages(history))
        for stage in self.device_model.stages(history):
            yield replace(stage, name="device" if stage.name == "train" else f"device-{stage.name}")
        kept = KeptLists(data.catalog.num_users, num_moments=self.num_moments, num_listed=self.num_wanted)
        yield Stage("lists", kept, data, solve=lambda: self._list(kept, history, data, asked.trained_on))
        self._note_skill(0, data, kept)
        if self.cooperates:
            recipe = replace(self.cooperation, samples="pod_segments")  # anybody once an epoch
            yield Stage("cooperate", Cooperation(self, kept, history, recipe), history, recipe)
            self._note_skill(1, data, kept)
        if self.adapts:
            recipe = replace(self.adaptation, samples=self.device_model.recipe.samples)
            yield Stage("adapt", Adaptation(self, kept, recipe), data.newest(self.num_recent), recipe)
            self._note_skill(2, data, kept)
        self._choose(data, kept)

    @property
    def num_wanted(self) -> int:
        """How many candidates a device asks for: `num_listed`, or the whole of a smaller catalogue."""
        return min(self.num_listed, self.num_items)

    def sides(self) -> dict[str, nn.Module]:
        """A model each."""
        return {"cloud": self.cloud, "device": self.device_model}

    def lister(self) -> Lister:
        """What the cloud answers with."""
        return Lister(self.cloud, num_items=self.num_items, version=self.version)

    def cloud_side(self) -> Cloud:
        """Lists."""
        return Cloud({History: self.lister()})

    def device_side(self) -> Reranker:
        """Reranks."""
        return Reranker(
            self.device_model,
            num_items=self.num_items,
            num_listed=self.num_wanted,
            version=self.version,
            fusion=self.fusion,
            alpha=float(self.alpha),
            own_steps=OwnSteps(self.own_steps, self.num_moments, self.own_lr),
        )

    def threshold(self, budget: float) -> float:
        """The inconsistency above which a device asks, so that `budget` of the validation requests would."""
        return threshold_at(self.needs[self.needs >= 0].cpu().numpy(), budget)

    def notes(self) -> tuple[str, ...]:
        """How good the lists are, and what was chosen or found on validation."""
        names = ("device", "cooperate", "adapt")
        skills = zip(names, self.skills.tolist(), strict=True)
        said = ", ".join(f"{name} {skill:.4f}" for name, skill in skills if skill >= 0)
        learnt = f"all but the newest {self.history_lag}" if self.history_lag else "all"
        return (
            f"the target is among the {self.num_wanted} candidates of {float(self.recall):.2%} of the "
            f"validation requests, listed {self.lag} interactions earlier by a cloud that learnt from "
            f"{learnt} training items of everybody",
            f"the cloud's share is {float(self.alpha):g}; validation NDCG@10 after each stage: {said}",
        )

    def _list(
        self, kept: KeptLists, history: InteractionData, data: InteractionData, where: torch.device
    ) -> None:
        """Fill `kept` where the cloud was trained."""
        self.cloud.to(where)
        kept.fill(self.lister(), history, data, lag=self.lag)
        self.cloud.to("cpu")

    def _limit(self) -> float:
        return float(self.limit)

    @torch.inference_mode()
    def _judged(self, data: InteractionData, kept: KeptLists) -> tuple[float, float]:
        """The best share for the device as it is, and NDCG@10 with it."""
        judge = Adaptation(self, kept, self.recipe).eval()
        for number, batch in enumerate(data.val_dataloader()):
            judge.validation_step(batch, number)
        alpha, found = judge.best()
        return alpha, found["ndcg@10"]

    def _note_skill(self, place: int, data: InteractionData, kept: KeptLists) -> None:
        self.skills[place] = self._judged(data, kept)[1]

    @torch.inference_mode()
    def _choose(self, data: InteractionData, kept: KeptLists) -> None:
        """The share of the cloud, and what a threshold for requests is found from, on validation."""
        self.alpha.fill_(self._judged(data, kept)[0])
        self.needs.fill_(_NOT_KNOWN)
        hits = []
        self.device_model.eval()
        for batch in data.val_dataloader():
            items, _ = kept.at(batch)
            self.needs[batch.users] = inconsistency(items, self.device_model.score(batch, items))
            hits.append((items == batch.target[:, None]).any(1))
        self.recall.fill_(torch.cat(hits).float().mean())
        self.limit.fill_(self.threshold(self.budget))
        self._sides = None  # made of another share, if at all


class AtLimit(Policy):
    """Where the inconsistency is as high as a limit that is known once training is over, or there is no list.

    Args:
        limit: says how high.
    """

    def __init__(self, limit: Callable[[], float]) -> None:
        self.limit = limit

    def decide(self, state: State) -> NDArray[np.bool_]:
        """By the score."""
        return state.is_empty | (state.score() >= self.limit())


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
        num_moments: k.
        num_listed: n.
    """

    listed: Tensor  # (U, k, n) at training moments, the newest first
    items: Tensor  # (U, n) at validation moments
    scores: Tensor  # (U, n)

    def __init__(self, num_users: int, *, num_moments: int, num_listed: int) -> None:
        super().__init__(Recipe())
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
        method: whose device, and how it fuses.
        kept: the lists.
        recipe: of the stage.
    """

    def __init__(self, method: LSC4Rec, kept: KeptLists, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model = method.device_model
        self.fusion, self.num_items = method.fusion, method.num_items
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
            lists.ScoredList(items, mix(self.fusion, items, theirs, own, alpha=alpha), self.num_items)
            for alpha in shares(self.fusion)
        ]


class Cooperation(OnLists):
    """Second stage: the device learns which of the listed items and of their like comes next (Eq. 5 and 6).

    Args:
        method: whose device and cloud.
        kept: the lists.
        history: what is trained on.
        recipe: of the stage.
    """

    recipe_option: ClassVar[str] = "cooperation"

    def __init__(self, method: LSC4Rec, kept: KeptLists, history: InteractionData, recipe: Recipe) -> None:
        super().__init__(method, kept, recipe)
        self.objective, self.num_recombined = method.objective, method.num_recombined
        self._trie = (method.cloud.trie,)
        self._history, self._positions = history, positions(history, method.num_moments)

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
        competes = _competes(others, moments, num_items=self.num_items)
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


def _competes(items: Tensor, batch: SequenceBatch, *, num_items: int) -> Tensor:
    """(B, C) whether an item is real, is not the target, and might be recommended at that moment."""
    found = (items != 0) & (items != batch.target[:, None])
    if batch.allowed is not None:
        found &= batch.allowed.gather(1, items)
    if batch.seen is not None:
        seen = torch.zeros(len(batch), num_items + 1, dtype=torch.bool).scatter_(1, batch.seen, value=True)
        found &= ~seen.gather(1, items)
    return found
