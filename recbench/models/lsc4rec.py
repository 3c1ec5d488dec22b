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
B users, U users in all, n listed items, k moments of a user.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from recbench.edge.cloud import Cloud, Lister
from recbench.edge.messages import History
from recbench.edge.policy import AtLimit, Never, check_budget, threshold_at
from recbench.edge.reranker import OwnSteps, Reranker
from recbench.models.base import Paper, Recipe, Recommender, Scorer, Stage, at_least
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.generator import Generator  # noqa: TC001 - the command line reads the annotation
from recbench.models.on_lists import Adaptation, Asked, Cooperation, KeptLists, Objective, OnLists
from recbench.models.p5 import P5
from recbench.models.sasrec import SASRec
from recbench.nn.list_fusion import ListFusion, check_fusion, inconsistency

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData

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
        boundary: between the sides; the cache has what was said two interactions ago, and nobody asks unless
            a policy is given.
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
        objective: Objective = "softmax",
        cooperation: Recipe = Recipe(batch_size=128, samples="pod_segments", max_epochs=10, patience=3),
        adaptation: Recipe = Recipe(lr=5e-4, max_epochs=10, patience=3),
        num_recent: int = 2,
        own_steps: int = 0,
        own_lr: float = 0.01,
        fusion: ListFusion = "minmax",
        budget: float = 0.0,
        boundary: Boundary = Boundary(lag=2),
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
        policy = AtLimit(self._limit) if budget else boundary.policy or Never()
        self.boundary = replace(boundary, policy=policy)

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
        yield from (stage.of("device") for stage in self.device_model.stages(history))
        sizes = {"num_moments": self.num_moments, "num_listed": self.num_wanted}
        kept = KeptLists(data.catalog.num_users, self.num_items, **sizes)
        yield Stage("lists", kept, data, solve=lambda: self._list(kept, history, data, asked.trained_on))
        self._judge(0, data, kept)
        if self.cooperates:
            learning = self._cooperation(kept, history)
            yield Stage("cooperate", learning, history, learning.recipe)
            self._judge(1, data, kept)
        if self.adapts:
            recipe = replace(self.adaptation, samples=self.device_model.recipe.samples)
            adapting = Adaptation(self.device_model, kept, fusion=self.fusion, recipe=recipe)
            yield Stage("adapt", adapting, data.newest(self.num_recent), recipe)
            self._judge(2, data, kept)
        self._find_limit(data, kept)

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

    def _cooperation(self, kept: KeptLists, history: InteractionData) -> Cooperation:
        return Cooperation(
            self.device_model,
            kept,
            history,
            self.cloud.trie,
            num_recombined=self.num_recombined,
            objective=self.objective,
            fusion=self.fusion,
            recipe=replace(self.cooperation, samples="pod_segments"),  # anybody once an epoch
        )

    def _limit(self) -> float:
        return float(self.limit)

    @torch.inference_mode()
    def _judged(self, data: InteractionData, kept: KeptLists) -> tuple[float, float]:
        """The best share for the device as it is, and NDCG@10 with it."""
        judge = OnLists(self.device_model, kept, fusion=self.fusion, recipe=self.recipe).eval()
        for number, batch in enumerate(data.val_dataloader()):
            judge.validation_step(batch, number)
        alpha, found = judge.best()
        return alpha, found["ndcg@10"]

    def _judge(self, place: int, data: InteractionData, kept: KeptLists) -> None:
        """Note how good the device is after a stage, and the share of the cloud that is best for it."""
        alpha, self.skills[place] = self._judged(data, kept)
        self.alpha.fill_(alpha)

    @torch.inference_mode()
    def _find_limit(self, data: InteractionData, kept: KeptLists) -> None:
        """What a threshold for requests is found from, on validation."""
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
