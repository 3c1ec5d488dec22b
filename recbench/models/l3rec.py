"""L3Rec: a language model per community of like-minded users (Jeon et al., CIKM 2025).

An autoencoder places the users; a few anchors are chosen whose neighbourhoods cover everybody; each has a POD
of its own, trained on what its neighbours did; the lists of all PODs in whose neighbourhood somebody is are
fused by rank. Who is in none is served by the autoencoder.

The paper has no public code. What is open in it is settled so: the distance is LOCA's scaled one (see
`communities`); where fewer than q anchors cover everybody, choosing begins anew, instead of the first user
being chosen again and again; communities are cut from training items alone; what weighs a list by how good
its POD was for this user (`wrrf_lm`) is NDCG@5 on the validation item, so validation figures flatter that way
of fusing, test figures do not. Somebody of whom nothing was trained on is a stranger to all communities.
`communities` has the controls that tell what locality is worth: `random` ones of the same sizes, and
`everyone`, which is an ensemble of equal cost. B users, U users in all, q communities, n items of a list.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from recbench.metrics import per_user
from recbench.models.base import ListRecommender, Paper, Ranking, Stage, at_least
from recbench.models.multvae import MultVAE
from recbench.models.pod import POD
from recbench.nn.bags import distinct
from recbench.nn.communities import choose_anchors, kernel, random_like
from recbench.nn.fusion import Fusion, fuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData

Communities = Literal["anchors", "random", "everyone"]
LocalFusion = Literal["count", "rrf", "wrrf_cf", "wrrf_lm"]
_USERS_PER_BLOCK = 1024


class L3Rec(ListRecommender):
    """Local language models for communities of users (Jeon et al., CIKM 2025).

    Args:
        clusterer: places the users, and serves those whom no community knows; a Mult-VAE when None.
        local: what each community trains; a POD when None.
        num_locals: q, communities.
        bandwidth: of the kernel, on distances from 0 to 2; at 1 everybody at an acute angle belongs.
        communities: around anchors; or, as controls, random ones of the same sizes, or everyone q times.
        anchor_step: every so-manieth user may be an anchor; LOCA's code has 10.
        local_items: whether a community also trains only on items near its anchor (variant UI), which its
            top-N task alone can make use of.
        item_bandwidth: of the kernel for these.
        fusion: how lists become one.
        damping: k of 1 / (k + rank).
        num_listed: items of each local list, and of the fused one that is evaluated.
        warm_start: whether one model is trained on everybody first and all local ones begin as it; not in the
            paper, where each begins from pre-trained weights.
    """

    paper: ClassVar[Paper] = Paper(
        "Local Large Language Models for Recommendation",
        "CIKM",
        2025,
        "https://doi.org/10.1145/3746252.3761280",
    )
    weights: Tensor  # (U, q) of the communities each user is in
    skill: Tensor  # (U, q) NDCG@5 of each local model on the user's validation item

    def __init__(
        self,
        *,
        clusterer: MultVAE | None = None,
        local: POD | None = None,
        num_locals: int = 3,
        bandwidth: float = 1.0,
        communities: Communities = "anchors",
        anchor_step: int = 10,
        local_items: bool = False,
        item_bandwidth: float = 1.0,
        fusion: LocalFusion = "rrf",
        damping: float = 0.0,
        num_listed: int = 20,
        warm_start: bool = False,
    ) -> None:
        local = local or POD()
        super().__init__(local.recipe)
        at_least(1, num_locals=num_locals, anchor_step=anchor_step, num_listed=num_listed)
        for name, value in (("bandwidth", bandwidth), ("item_bandwidth", item_bandwidth)):
            if not 0 < value <= 2:
                raise ValueError(f"{name} must lie above 0 and not above 2, got {value:g}")
        if not damping >= 0:
            raise ValueError(f"damping must be 0 or more, got {damping:g}")
        if local_items and local.tasks.sequential:
            raise ValueError("local_items leaves histories full of holes: train local with tasks top_n alone")
        self.clusterer, self.local, self.num_locals = clusterer or MultVAE(), local, num_locals
        self.bandwidth, self.communities, self.anchor_step = bandwidth, communities, anchor_step
        self.local_items, self.item_bandwidth = local_items, item_bandwidth
        self.fusion, self.damping = fusion, damping
        self.num_listed, self.warm_start = num_listed, warm_start

    @property
    def track(self) -> str:
        """That of the local models."""
        return self.local.track

    def build(self, catalog: Catalog) -> None:
        """The autoencoder, a language model per community, and room for who is where."""
        self.clusterer.build(catalog)
        self.locals = nn.ModuleList(copy.deepcopy(self.local) for _ in range(self.num_locals))
        for one in [*self._locals, *([self.local] if self.warm_start else [])]:
            one.build(catalog)
        shape = catalog.num_users, self.num_locals
        self.register_buffer("weights", torch.zeros(shape))
        self.register_buffer("skill", torch.zeros(shape))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Place the users (Sec. 3.1), cut communities (3.2), train a model on each (3.3)."""
        yield from (replace(stage, name="cluster") for stage in self.clusterer.stages(data))
        if self.warm_start:
            yield from (replace(stage, name="global") for stage in self.local.stages(data))
        items = self._cut(data)
        for j, one in enumerate(self._locals):
            users = data.users("known")
            members = users[self.weights[:, j].numpy(force=True)[users] > 0]
            own = data.restricted(members, items=None if items is None else items[j])
            if self.warm_start:
                one.load_state_dict(self.local.state_dict())
            left = self.num_locals - 1 - j
            for stage in one.stages(own):
                yield replace(stage, name=f"local-{j}", data=own, seed=j, num_beside=left)
        if self.fusion == "wrrf_lm":
            self.note_skill(data)

    @property
    def list_length(self) -> int:
        """As long as the local lists."""
        return self.num_listed

    def recommend(self, batch: SequenceBatch, k: int) -> Ranking:
        """The best `k` of the fused lists; the autoencoder's for those in no community."""
        lists, weights = self.lists(batch, max(k, self.num_listed)), self._list_weights(batch.users)
        items, scores = fuse(lists, weights, how=_SUMS[self.fusion], damping=self.damping)
        items, scores = items[:, :k], scores[:, :k].float()
        is_stranger = ~(self.weights[batch.users] > 0).any(1)
        if is_stranger.any():
            spare = self.clusterer.recommend(batch, k)
            width = spare.items.shape[1]
            items, scores = items[:, :width].clone(), scores[:, :width].clone()
            items[is_stranger], scores[is_stranger] = spare.items[is_stranger], spare.scores[is_stranger]
        return Ranking(items, scores)

    def lists(self, batch: SequenceBatch, length: int) -> Tensor:
        """(B, q, length) what the local models list, in communities that somebody is not in as well."""
        return torch.stack([one.recommend(batch, length).items for one in self._locals], dim=1)

    @torch.inference_mode()
    def note_skill(self, data: InteractionData) -> None:
        """How well each local model finds the validation items: what `wrrf_lm` weighs its lists by."""
        for j, one in enumerate(self._locals):
            one.eval()
            for batch in data.val_dataloader():
                scores = per_user(one.target_ranks(batch).numpy(), ("ndcg@5",))[:, 0]
                self.skill[batch.users, j] = torch.from_numpy(np.asarray(scores)).float()

    def notes(self) -> tuple[str, ...]:
        """How large the communities are and how many users are in none."""
        is_member = self.weights > 0
        share = is_member.float().mean(0)
        lost = float((~is_member.any(1)).float().mean())
        return (
            f"communities hold {float(share.mean()):.1%} of all users on average, "
            f"{float(share.min()):.1%} to {float(share.max()):.1%}; {lost:.2%} of users are in none",
        )

    def _list_weights(self, users: Tensor) -> Tensor:
        """(B, q) 0 for communities somebody is not in, else what their list counts."""
        weights = self.weights[users]
        if self.fusion == "wrrf_lm":
            return self.skill[users].masked_fill(weights == 0, -torch.inf).softmax(1).nan_to_num(0)
        return weights

    @property
    def _locals(self) -> list[POD]:
        return [one for one in self.locals if isinstance(one, POD)]

    @torch.inference_mode()
    def _cut(self, data: InteractionData) -> list[NDArray[np.int64]] | None:
        """Fill `weights`; the items of each community where these are local too."""
        users = data.users("known")
        self.clusterer.eval()
        placed = torch.zeros(data.catalog.num_users, self.clusterer.dim)
        for some, items in data.train_bags(_USERS_PER_BLOCK):
            placed[torch.from_numpy(some)] = self.clusterer.latent(distinct(items))
        vectors = placed[torch.from_numpy(users)]
        candidates = torch.arange(0, len(users), self.anchor_step)
        table = kernel(vectors[candidates], vectors, bandwidth=self.bandwidth)
        anchors = choose_anchors(table > 0, self.num_locals)
        found = table[anchors]
        if self.communities == "random":
            found = random_like(found > 0, torch.Generator().manual_seed(0)).float()
        elif self.communities == "everyone":
            found = torch.ones_like(found)
        self.weights.zero_()
        self.weights[torch.from_numpy(users)] = found.T.clone()
        if not self.local_items:
            return None
        asking = self.clusterer.placed(vectors[candidates[anchors]])
        near = kernel(asking, self.clusterer.item_vectors()[1:, :-1], bandwidth=self.item_bandwidth) > 0
        return [row.nonzero()[:, 0].numpy() + 1 for row in near]


_SUMS: dict[LocalFusion, Fusion] = {
    "count": "count",
    "rrf": "rrf",
    "wrrf_cf": "weighted",
    "wrrf_lm": "weighted",
}
