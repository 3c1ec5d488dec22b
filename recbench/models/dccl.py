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
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.edge.cloud import Cloud
from recbench.edge.messages import Failure, Patch
from recbench.edge.parameters import (
    PersonalBrain,
    ScoredCatalog,
    deliveries,
    fits,
    weights_version,
)
from recbench.edge.policy import Never
from recbench.models.base import Paper, Recipe, Scorer, Stage, at_least
from recbench.models.causal import CausalScorer
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.patched import PatchedModel
from recbench.models.sasrec import SASRec
from recbench.nn.losses import other_items

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.edge.messages import Question, Reply

PAPER = Paper(
    "Device-Cloud Collaborative Learning for Recommendation", "KDD", 2021, "https://arxiv.org/abs/2104.06624"
)
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
        if recipe.samples != "prefixes":
            raise ValueError(
                f"recipe.samples must be prefixes, got {recipe.samples}: only newest states are patched"
            )
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
        yield from self.base.stages(data)
        for number in range(self.num_rounds if self.rank else 0):
            yield self._devices(data, f"devices-{number}")
            teacher = copy.deepcopy(self.local).requires_grad_(requires_grad=False).eval()
            self._let_learn(model=True)
            yield Stage(f"model-{number}", FollowPatched(self, teacher), data, self.recipe)
            self._let_learn(model=False)
            yield Stage(f"basis-{number}", FollowEncoded(self, teacher), data, self.recipe)
        if self.rank:
            yield self._devices(data, "devices")
        self.cross(self.boundary)  # the version of the weights is known now

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The base's loss of the model with the users' encoded patches."""
        state = self.local.state(batch.history, self.encoded(batch.users))
        return self.base.criterion(state, batch.target, self.base.items.weight)

    def encoded(self, users: Tensor) -> Tensor | None:
        """(B, K) what the cloud makes of the users' vectors."""
        if self.encoder is None:
            return None
        found: Tensor = self.encoder(self.vectors[users])
        return found

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
            users, device = torch.from_numpy(data.users("known")), self.vectors.device
            self.vectors.zero_()
            for some, items in zip(
                torch.split(users, _USERS_PER_BLOCK), data.train_bags(_USERS_PER_BLOCK), strict=True
            ):
                self.vectors[some.to(device)] = self.learnt(items[:, -data.max_len :].to(device))

        return Stage(name, self, data, solve=learn)

    def _let_learn(self, *, model: bool) -> None:
        """Either the model, or basis and encoder."""
        self.local.base.requires_grad_(model)
        self.local.patches.requires_grad_(not model)
        if self.encoder is not None:
            self.encoder.requires_grad_(not model)

    def _weights_version(self) -> str:
        return weights_version(self.version, self.local)


class VectorEncoder(nn.Module):
    """Makes a vector of a vector: itself plus two layers that begin at zero.

    Args:
        rank: K.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(rank, 2 * rank), nn.Linear(2 * rank, rank)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, vector: Tensor) -> Tensor:
        """(B, K) -> (B, K)."""
        out: Tensor = vector + self.down(torch.tanh(self.up(vector)))
        return out


class Following(Scorer):
    """One step in the cloud: learn the next item, and what the patched model of its user says of others.

    Args:
        whole: the method, part of which is trained in place.
        teacher: the model as it was when the devices learnt.
    """

    paper: ClassVar[Paper] = PAPER
    vectors: Tensor

    def __init__(self, whole: DCCL, teacher: PatchedModel) -> None:
        super().__init__(whole.recipe)
        self.local, self.encoder = whole.local, whole.encoder
        self.register_buffer("vectors", whole.vectors, persistent=False)
        self.weight, self.num_listed = whole.distillation, whole.num_listed
        self._teacher = (teacher,)  # not a part of what is trained and kept

    def build(self, catalog: Catalog) -> None:
        """Everything is there."""

    @abstractmethod
    def vector(self, users: Tensor) -> Tensor | None:
        """(B, K) of the student's patches; None for none."""

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Cross entropy plus lambda times the divergence of the student from the patched teacher."""
        local, base = self.local, self.local.base
        state = local.state(batch.history, self.vector(batch.users))
        loss = base.criterion(state, batch.target, base.items.weight)
        if not self.weight:
            return loss
        others = other_items(batch.target, self.num_listed, num_items=len(base.items.weight) - 1)
        items = torch.cat([batch.target[:, None], others], dim=1)
        teacher = self._teacher[0].to(state.device)
        with torch.no_grad():
            wanted = teacher.logits(teacher.state(batch.history, self.vectors[batch.users]), items)
        found = local.logits(state, items).log_softmax(1)
        return loss + self.weight * F.kl_div(
            found, wanted.log_softmax(1), reduction="batchmean", log_target=True
        )

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """What is validated: the student."""
        vector = self.vector(batch.users)
        scores = self.local.score(batch, None if vector is None else {"vector": vector})
        return scores if items is None else scores.gather(1, items)


class FollowPatched(Following):
    """First step: the model without patches learns."""

    def vector(self, users: Tensor) -> Tensor | None:  # noqa: ARG002
        """None."""
        return None


class FollowEncoded(Following):
    """Second step: basis and encoder learn, upon the model."""

    def vector(self, users: Tensor) -> Tensor | None:
        """What the encoder makes of the users' own."""
        assert self.encoder is not None
        found: Tensor = self.encoder(self.vectors[users])
        return found


class _Encodes:
    """The cloud's handler."""

    def __init__(self, encoder: VectorEncoder, *, version: str) -> None:
        self.encoder, self.version = encoder, version
        self.slots = {"vector": (encoder.up.in_features,)}

    def __call__(self, asked: Sequence[Question], /) -> list[Reply | Failure]:
        """A vector for each, encoded as one batch."""
        answers: list[Reply | Failure] = [Failure("not a vector for this model", 0.0)] * len(asked)
        sound = {
            i: question.tensors["vector"]
            for i, question in enumerate(asked)
            if isinstance(question, Patch)
            and question.base == self.version
            and fits(question.tensors, self.slots)
        }
        if sound:
            with torch.inference_mode():
                rows = torch.from_numpy(np.stack(list(sound.values())).astype(np.float32))
                made = self.encoder(rows.to(self.encoder.up.weight.device))
            for i, reply in zip(sound, deliveries({"vector": made}, version=self.version), strict=True):
                answers[i] = reply
        return answers


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
