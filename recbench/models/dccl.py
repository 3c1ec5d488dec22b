"""DCCL: every device learns a small patch, and the cloud learns from all of them (Yao et al., KDD 2021).

A device has the cloud's model and adds a residual net after each of its blocks. The weights of these nets are
a basis, which is the cloud's, times a vector, which is all that the device learns, by a few steps of descent
on its own user's items (MetaPatch). In a round, the devices learn; the model is trained on, and follows the
patched models of the samples' users (MoMoDistill, first step); then the basis is, together with an encoder
that makes a better vector of a device's own (second step). At a request a device sends its vector and ranks
with the one that the encoder made of it; where nothing comes, with its own. Nothing but that vector leaves
the device.

The paper has no public code. What is open in it is settled so: a patch is two maps with tanh between, a
quarter of the model's width inside; local descent is on the newest few items of each user, for all users at
once, as the algebra of a batch; the encoder reads the vector alone, neither the sample nor a profile;
distillation compares softmaxes over the next item and drawn ones. Vectors are learnt from training items; who
has none, such as a user held out, has the zero vector, which is no patch: the base model to the last bit.

`rank` 0 is plain fine-tuning, to compare with: no basis and no cloud, the device learns all weights of its
patches from the history at hand when it is asked. B users, U users in all, L history, D width, K numbers of a
vector, M moments of a user, C candidates, N items.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from recbench.edge.cloud import Cloud, answer_sound
from recbench.edge.messages import Failure, Patch
from recbench.edge.parameters import (
    PersonalBrain,
    ScoredCatalog,
    deliveries,
    fits,
    weights_version,
)
from recbench.edge.policy import Never
from recbench.models.base import Paper, Recipe, Stage, at_least, require_prefixes
from recbench.models.causal import CausalScorer
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.patched import PAPER, FollowEncoded, FollowPatched, PatchedModel
from recbench.models.sasrec import SASRec
from recbench.nn.meta_patch import VectorEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.messages import Parameters, Question, Reply
    from recbench.models.patched import Following

_USERS_PER_BLOCK = 128


class DCCL(Collaborative):
    """Patches learnt on devices, distilled in the cloud (Yao et al., KDD 2021).

    Args:
        base: the model of both sides, an encoder of items alone; SASRec when None.
        rank: numbers K of a device's vector; 0 for all weights of the patches, learnt at every request.
        hidden: inner width of a patch.
        num_rounds: of devices and cloud; after the last the devices learn once more.
        num_moments: newest items of a user that the device learns from.
        num_steps: of descent.
        lr: step size of descent.
        l2: pulls vectors towards zero.
        distillation: weight lambda of following the patched models.
        num_listed: drawn items over which model and patched model are compared.
        boundary: between the sides.
        recipe: of both steps in the cloud; its samples must be prefixes.
    """

    paper: ClassVar[Paper] = PAPER
    vectors: Tensor  # (U, K) of all devices; each of them has one row

    def __init__(
        self,
        *,
        base: CausalScorer | None = None,
        rank: int = 32,
        hidden: int = 16,
        num_rounds: int = 1,
        num_moments: int = 5,
        num_steps: int = 10,
        lr: float = 0.1,
        l2: float = 0.1,
        distillation: float = 1.0,
        num_listed: int = 100,
        boundary: Boundary = Boundary(),
        recipe: Recipe = Recipe(samples="prefixes"),
    ) -> None:
        if rank == 0 and boundary.policy is None:
            boundary = replace(boundary, policy=Never())  # there is no cloud
        super().__init__(recipe, boundary=boundary)
        at_least(0, rank=rank, num_rounds=num_rounds, num_steps=num_steps)
        at_least(1, hidden=hidden, num_moments=num_moments, num_listed=num_listed)
        if not (lr > 0 and l2 >= 0 and distillation >= 0):
            raise ValueError(
                f"lr must be above 0, l2 and distillation not below, got {lr}, {l2}, {distillation}"
            )
        require_prefixes(recipe, "only newest states are patched")
        self.base = base or SASRec()
        if type(self.base).newest_of is not CausalScorer.newest_of:
            raise ValueError(f"base must read nothing but items, {type(self.base).__name__} reads more")
        self.rank, self.hidden, self.num_rounds = rank, hidden, num_rounds
        self.num_moments, self.num_steps, self.lr, self.l2 = num_moments, num_steps, lr, l2
        self.distillation, self.num_listed = distillation, num_listed

    def build(self, catalog: Catalog) -> None:
        """The base with its places, the encoder of vectors, and a vector for every device."""
        super().build(catalog)
        self.base.build(catalog)
        self.local = PatchedModel(self.base, hidden=self.hidden, rank=self.rank)
        self.encoder = VectorEncoder(self.rank) if self.rank else None
        self.register_buffer("vectors", torch.zeros(catalog.num_users, self.rank))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """The base, then rounds of MetaPatch and of the two steps of MoMoDistill."""
        yield from (replace(stage, name=f"base-{stage.name}") for stage in self.base.stages(data))
        for number in range(self.num_rounds if self.rank else 0):
            yield self._devices(data, f"devices-{number}")
            teacher = copy.deepcopy(self.local).requires_grad_(requires_grad=False).eval()
            self._let_learn(model=True)
            yield Stage(f"model-{number}", self._step(FollowPatched, teacher), data, self.recipe)
            self._let_learn(model=False)
            yield Stage(f"basis-{number}", self._step(FollowEncoded, teacher), data, self.recipe)
        if self.rank:
            yield self._devices(data, "devices")
        self.cross(self.boundary)  # the version of the weights is known now

    def vectors_of(self, users: Tensor) -> Tensor:
        """(B, K) what the users' devices have learnt."""
        return self.vectors[users]

    def learnt(self, history: Tensor) -> Tensor:
        """(B, L) items -> (B, K) the vectors that devices learn from them."""
        return self.local.learn(
            history, num_moments=self.num_moments, num_steps=self.num_steps, lr=self.lr, l2=self.l2
        )

    def sides(self) -> dict[str, nn.Module]:
        """The model is on both sides, the encoder in the cloud."""
        cloud = nn.ModuleList([self.local, *([] if self.encoder is None else [self.encoder])])
        return {"cloud": cloud, "device": self.local}

    def cloud_side(self) -> Cloud:
        """Answers vectors with vectors."""
        if self.encoder is None:
            return Cloud({})
        return Cloud({Patch: _Encodes(self.encoder, version=self._weights_version())})

    def device_side(self) -> PersonalBrain:
        """Ranks with a vector: the cloud's, or its own."""
        return _Sends(self, version=self._weights_version())

    def _devices(self, data: InteractionData, name: str) -> Stage:
        """Every device that has items to learn from comes to its vector."""

        def learn() -> None:
            self.eval()
            device = self.vectors.device
            self.vectors.zero_()
            for users, history in data.train_bags(_USERS_PER_BLOCK, max_len=data.max_len):
                self.vectors[torch.from_numpy(users).to(device)] = self.learnt(history.to(device))

        return Stage(name, self, data, solve=learn)

    def _step(self, kind: type[Following], teacher: PatchedModel) -> Following:
        assert self.encoder is not None
        return kind(
            self.local,
            self.encoder,
            self.vectors,
            teacher=teacher,
            weight=self.distillation,
            num_listed=self.num_listed,
            recipe=self.recipe,
        )

    def _let_learn(self, *, model: bool) -> None:
        """Either the model, or basis and encoder."""
        self.local.base.requires_grad_(model)
        self.local.patches.requires_grad_(not model)
        if self.encoder is not None:
            self.encoder.requires_grad_(not model)

    def _weights_version(self) -> str:
        return weights_version(self.version, self.local)


class _Encodes:
    """The cloud's handler."""

    def __init__(self, encoder: VectorEncoder, *, version: str) -> None:
        self.encoder, self.version = encoder, version
        self.slots = {"vector": (encoder.up.in_features,)}

    def __call__(self, asked: Sequence[Question], /) -> list[Reply | Failure]:
        """A vector for each, encoded as one batch."""
        wrong = Failure("not a vector for this model", 0.0)
        return answer_sound(asked, [None if self._is_sound(q) else wrong for q in asked], self._deliveries)

    def _is_sound(self, question: Question) -> bool:
        return (
            isinstance(question, Patch)
            and question.base == self.version
            and fits(question.tensors, self.slots)
        )

    def _deliveries(self, asked: list[Question]) -> list[Parameters]:
        vectors = [question.tensors["vector"] for question in asked if isinstance(question, Patch)]
        with torch.inference_mode():
            rows = torch.from_numpy(np.stack(vectors).astype(np.float32))
            made = self.encoder(rows.to(self.encoder.up.weight.device))
        return deliveries({"vector": made}, version=self.version)


class _Sends(PersonalBrain):
    """A device that shows what it has learnt and nothing it has learnt from."""

    def __init__(self, whole: DCCL, *, version: str) -> None:
        super().__init__(whole.local, version=version)
        self.rank, self.own_vectors, self.learnt = whole.rank, whole.vectors_of, whole.learnt

    def ask(self, batch: SequenceBatch, names: Sequence[str]) -> list[Question]:
        """The vector, and upon which model it was learnt; nothing where there is no cloud to know it."""
        if not self.rank:
            return [Patch(name, self.version, {}) for name in names]
        own = self.own_vectors(batch.users).float().cpu().numpy()
        return [Patch(name, self.version, {"vector": own[i]}) for i, name in enumerate(names)]

    def alone(self, batch: SequenceBatch) -> ScoredCatalog:
        """Scores with the device's own vector."""
        own = self.own_vectors(batch.users) if self.rank else self.learnt(batch.history)
        return ScoredCatalog(self.model.score(batch, {"vector": own}))
