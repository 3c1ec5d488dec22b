"""SCaLRec: a cached vector of the cloud, calibrated on the device (Zheng et al., arXiv 2601.22543).

The cloud reads with a language model what the device says of its user in words, and answers with a vector. To
ask at every request is too dear, so the device keeps the vector; with every newer interaction it says less of
the user. SCaLRec estimates on the device how reliable it still is, and changes it by what the newest items
say, without the cloud.

Only the abstract of the paper was at hand. From it are the two parts and what they are for; all else is ours:
what the cloud reads (CDA4Rec's abstract, so that no history leaves the device), the features and the label of
the reliability, the attention, the gate, the shares, the losses, and when a new vector is asked for.

The device's encoder learns first, on its own, and is fixed then. The rest learns at the newest training
moment of everybody, with vectors as they were some interactions earlier, drawn for every sample from `lags`;
what the words said then is read once and kept. The label of the reliability is whether the old vector, taken
as it is, ranks the next item no worse than a fresh one would. What it means is learnt by that label alone.
A vector that is asked for at the request itself is reliable and left as it is, so that a device which always
asks ranks by one fixed share. The user's query of the moment is not sent: what is said lives longer than it.

To compare with, `use` leaves out parts or does less (see `Calibration`), and `trigger` chooses by what a
device asks where a budget decides: the doubt, or how far two orders differ, as LSC4Rec's does.
B users, U users in all, L history, S width of the projection, D width of the item table, N items, K lags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.data.tag_groups import tag_groups
from recbench.edge.abstract import ItemWords, TemplateAbstracter
from recbench.edge.calibrated import CalibratedBrain, Speaker, Trigger, ages_between, needs_of
from recbench.edge.cloud import Cloud
from recbench.edge.leaks import LeakDetector
from recbench.edge.messages import Abstract
from recbench.edge.parameters import weights_version
from recbench.edge.planned import pasts_of
from recbench.edge.policy import AtLimit, Never, check_budget, threshold_at
from recbench.edge.strategist import Meaning, Reader
from recbench.errors import UsageError
from recbench.models.base import Paper, Recipe, Stage, at_least, require_prefixes
from recbench.models.causal import CausalScorer  # noqa: TC001 - the command line reads the annotation
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.kept_texts import KeptTexts
from recbench.models.sasrec import SASRec
from recbench.nn.calibration import (
    ESTIMATED,
    Calibration,
    Situation,
    Use,
    area_under_curve,
    calibration_error,
    possible_lag,
    situation,
)
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions
from recbench.nn.losses import FullSoftmax, Loss
from recbench.nn.semantics import Projection, item_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData
    from recbench.nn.calibration import Calibrated

_USERS_PER_BLOCK = 4096
LEFT = 2  # interactions that the cloud's vector knows at least, in training
_NOT_KNOWN = -2.0  # of what is 0 or more, and of cosines


class SCaLRec(Collaborative):
    """A vector of the cloud, cached and calibrated on the device (Zheng et al., arXiv 2601.22543).

    What the paper's abstract does not say is ours: see the head of this file.

    Args:
        encoder: reads the history on the device, and ranks alone without a cloud; SASRec when None.
        lm: makes vectors of texts in the cloud.
        text_dim: S, principal components of the item texts.
        use: what becomes of a cached vector.
        trigger: by what a device asks where a budget decides.
        num_recent: newest items that calibrate.
        hidden: width of the calibrating attention.
        num_probes: most popular items, by whose order two vectors are compared.
        share: of the cloud's vector, before anything is learnt.
        max_groups: tag groups at most, whose names a device may say besides the tags of many items.
        lags: interactions that vectors are old in training.
        slack: places by which an old vector may rank the next item lower and count as reliable.
        aligned: weight of the distance between the calibrated vector and the fresh one.
        estimated: weight of the reliability's cross entropy.
        held_back: newest training items of everybody that the encoder does not learn from, so that the rest
            learns beside an encoder that has not seen the answers.
        budget: share of the requests that go to the cloud; 0 leaves it to the boundary's policy.
        loss: how fused vectors are pulled towards their next items; softmax over the catalogue when None.
        boundary: between the sides; the cache has what was said two interactions ago, and nobody asks unless
            a policy is given.
        recipe: of all but the encoder.
    """

    paper: ClassVar[Paper] = Paper(
        "SCaLRec: Semantic Calibration for LLM-enabled Cloud-Device Sequential Recommendation",
        "arXiv",
        2026,
        "https://arxiv.org/abs/2601.22543",
    )
    is_private: ClassVar[bool] = True
    probes: Tensor  # (P,) the most popular items
    needs: Tensor  # (U,) how much each validation request needs a fresh vector
    limit: Tensor  # () the need from which a device asks, if it is a budget that decides
    judged: Tensor  # (4,) on validation: cosines of old and of calibrated vectors with fresh ones,
    # calibration error of the reliability and the area under its curve; -2 where there is none

    def __init__(
        self,
        *,
        encoder: CausalScorer | None = None,
        lm: LanguageModelOptions = LanguageModelOptions(name="minilm", max_tokens=128),
        text_dim: int = 128,
        use: Use = "calibrated",
        trigger: Trigger = "doubt",
        num_recent: int = 10,
        hidden: int = 64,
        num_probes: int = 100,
        share: float = 0.2,
        max_groups: int = 40,
        lags: tuple[int, ...] = (0, 1, 2, 3, 5),
        slack: int = 0,
        aligned: float = 0.5,
        estimated: float = 0.1,
        held_back: int = 0,
        budget: float = 0.0,
        loss: Loss | None = None,
        boundary: Boundary = Boundary(lag=2),
        recipe: Recipe = Recipe(samples="prefixes", max_epochs=10, patience=3),
    ) -> None:
        super().__init__(recipe, boundary=boundary)
        at_least(
            1,
            text_dim=text_dim,
            max_groups=max_groups,
            num_recent=num_recent,
            hidden=hidden,
            num_probes=num_probes,
        )
        at_least(0, slack=slack, held_back=held_back)
        check_budget(budget)
        _check(recipe, lags, use, trigger, budget)
        self.encoder = encoder or SASRec()
        self.lm_options, self.text_dim, self.max_groups = lm, text_dim, max_groups
        self.use, self.trigger = use, trigger
        self.num_recent, self.hidden, self.num_probes, self.share = num_recent, hidden, num_probes, share
        self.lags, self.slack, self.aligned, self.estimated = lags, slack, aligned, estimated
        self.held_back, self.budget = held_back, budget
        self.criterion = loss or FullSoftmax()
        policy = AtLimit(self._limit) if budget else boundary.policy or Never()
        self.boundary = replace(boundary, policy=policy)

    def build(self, catalog: Catalog) -> None:
        """Encoder, language model, projection, map, calibration.

        Raises:
            UsageError: the data set has no tags, and without them an abstract says nothing.
        """
        super().build(catalog)
        if "tags" not in catalog.features:
            raise UsageError("scalrec tells tags of its user, and this data set has none; take one that has")
        self.encoder.build(catalog)
        dim = self.encoder.items.embedding_dim
        self.lm = LanguageModel(self.lm_options)
        self.projection = Projection(self.lm.dim, self.text_dim)
        self.meaning = Meaning(self.text_dim, dim)
        self.calibration = Calibration(
            dim, num_recent=self.num_recent, hidden=self.hidden, use=self.use, share=self.share
        )
        self.scale = nn.Parameter(torch.ones(()))  # of the scores, as they are learnt by
        self.groups = tuple(tag_groups(catalog, max_groups=self.max_groups).members)
        detector = LeakDetector.of(catalog, groups=self.groups)
        self.abstracter = TemplateAbstracter(ItemWords.of(catalog, groups=self.groups), detector)
        popular = np.argsort(-catalog.popularity[1:], kind="stable")[: self.num_probes] + 1
        self.register_buffer("probes", torch.from_numpy(popular))
        self.register_buffer("needs", torch.full((catalog.num_users,), _NOT_KNOWN, dtype=torch.float64))
        self.register_buffer("limit", torch.full((), torch.inf, dtype=torch.float64))
        self.register_buffer("judged", torch.full((4,), _NOT_KNOWN))
        self._reader = Reader(self.lm, self.projection)
        # apart, in a checkpoint of its own: no part of what is trained
        self._kept = (KeptTexts(catalog.num_users, len(self.lags), self.text_dim),)

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Read the items, train the encoder, keep what is said at the training moments, train the rest."""
        yield Stage("read", self, data, solve=lambda: self._read_items(data.catalog))
        self._reader = Reader(self.lm, self.projection)
        history = data.earlier(self.held_back) if self.held_back else data
        yield from (stage.of("device") for stage in self.encoder.stages(history))
        self.encoder.requires_grad_(False)
        if self.use != "none":
            yield Stage("texts", self.kept, data, solve=lambda: self._keep(data))
            self.cross(self.boundary)
            yield Stage("train", self, data.newest(1), self.recipe)
        self._find_limit(data)
        self.cross(self.boundary)  # the version of the weights is known now

    def loss(self, batch: SequenceBatch) -> Tensor:
        """What the recommendation costs, and what calibration and reliability miss."""
        drawn = torch.randint(len(self.lags), (len(batch),), device=batch.history.device)
        lag = torch.tensor(self.lags, device=drawn.device)[drawn]
        earlier = batch.without_newest(possible_lag(batch.history, lag, num_left=LEFT))
        old = self.meaning(self.kept.at(batch.users, drawn))
        fresh = self.meaning(self.kept.at(batch.users, torch.full_like(drawn, self.lags.index(0))))
        state = self._states(batch)
        now, found = self._calibrated(batch, earlier, old, state)
        fused = self.scale * found.fused(state)
        total = self.criterion(fused, batch.target, self.encoder.item_vectors())
        total = total + self.aligned * (1 - F.cosine_similarity(found.vector, fresh.detach(), dim=1)).mean()
        if self.use in ESTIMATED:
            is_reliable = self._are_reliable(batch.target, old, fresh, state)
            each = F.binary_cross_entropy_with_logits(found.logit, is_reliable.float(), reduction="none")
            total = total + self.estimated * (each * (now.lag > 0)).mean()
        return total

    @property
    def kept(self) -> KeptTexts:
        """What was said at the training moments."""
        return self._kept[0]

    def sides(self) -> dict[str, nn.Module]:
        """The language model in the cloud; encoder and calibration on the device."""
        cloud = nn.ModuleList([self.lm, self.projection, self.meaning])
        return {"cloud": cloud, "device": nn.ModuleList([self.encoder, self.calibration])}

    def cloud_side(self) -> Cloud:
        """Reads."""
        return Cloud({Abstract: Speaker(self._reader, self.meaning, version=self._weights_version())})

    def device_side(self) -> CalibratedBrain:
        """Abstracts, calibrates, ranks."""
        return CalibratedBrain(
            abstracter=self.abstracter,
            encoder=self.encoder,
            calibration=self.calibration,
            probes=self.probes,
            trigger=self.trigger,
            version=self._weights_version(),
        )

    def public_words(self) -> tuple[str, ...]:
        """Names of the tag groups."""
        return self.groups

    def threshold(self, budget: float) -> float:
        """The need from which a device asks, so that `budget` of the validation requests would."""
        return threshold_at(self.needs[self.needs >= 0].cpu().numpy(), budget)

    def notes(self) -> tuple[str, ...]:
        """How large the calibration is, and how good its parts are on validation."""
        size = sum(weight.numel() for weight in self.calibration.parameters())
        how = f"{self.use}, by {size:,} weights on the device; texts read by {self.lm_options.name}"
        found = [f"the cloud's vector is {how}" if self.use != "none" else "the cloud's vector is left out"]
        old, new, error, area = self.judged.tolist()
        when = f"on validation, of vectors {self.boundary.lag} interactions old"
        if old > _NOT_KNOWN:
            found.append(f"{when}, the cosine with fresh ones is {old:.3f}, once calibrated {new:.3f}")
        if error > _NOT_KNOWN:
            found.append(
                f"{when}, the reliability has a calibration error of {error:.3f} and an area under the curve "
                f"of {area:.3f}"
            )
        return tuple(found)

    def _limit(self) -> float:
        return float(self.limit)

    def _weights_version(self) -> str:
        return weights_version(self.version, self.meaning, self.encoder.items)

    def _probe_vectors(self) -> Tensor:
        vectors: Tensor = self.encoder.items(self.probes)
        return vectors

    def _states(self, batch: SequenceBatch) -> Tensor:
        """(B, D) the encoder's, as in service once it is fixed."""
        is_fixed = not self.encoder.items.weight.requires_grad
        return self.encoder.fixed_state(batch) if is_fixed else self.encoder.newest_of(batch)

    def _calibrated(
        self, batch: SequenceBatch, earlier: SequenceBatch, semantic: Tensor, state: Tensor
    ) -> tuple[Situation, Calibrated]:
        """What becomes of vectors that were asked for with `earlier`."""
        lag, seconds = ages_between(earlier, batch)
        newest = batch.history[:, -self.num_recent :]
        now = situation(semantic, state, newest, self.encoder.items, lag=lag, seconds=seconds)
        return now, self.calibration(now, self._probe_vectors())

    @torch.no_grad()
    def _are_reliable(self, target: Tensor, old: Tensor, fresh: Tensor, state: Tensor) -> Tensor:
        """(B,) whether the old vectors, taken as they are, rank the targets no worse than the fresh ones."""
        table = self.encoder.item_vectors()

        def num_above(semantic: Tensor) -> Tensor:
            scores = self.calibration.plain(semantic).fused(state) @ table.T
            return (scores > scores.gather(1, target[:, None]))[:, 1:].sum(1)

        return num_above(old) <= num_above(fresh) + self.slack

    def _read_items(self, catalog: Catalog) -> None:
        self.projection.fit(self.lm.embed(item_texts(catalog)))

    def _read(self, batch: SequenceBatch) -> Tensor:
        """(B, S) what the devices would say now, as the cloud reads it."""
        said = self.abstracter.abstract(pasts_of(replace(batch, query=None)))
        return self._reader([one.text for one in said])

    def _keep(self, data: InteractionData) -> None:
        users, positions = data.moments(1)
        for start in range(0, len(users), _USERS_PER_BLOCK):
            block = slice(start, start + _USERS_PER_BLOCK)
            batch = data.moment(users[block], positions[block])
            for place, lag in enumerate(self.lags):
                possible = possible_lag(batch.history, torch.tensor(lag), num_left=LEFT)
                self.kept.put(batch.users, place, self._read(batch.without_newest(possible)))

    @torch.inference_mode()
    def _find_limit(self, data: InteractionData) -> None:
        """Judge the parts on validation, and find there from which need on a device asks."""
        self.needs.fill_(_NOT_KNOWN)
        self.judged.fill_(_NOT_KNOWN)
        if self.boundary.lag >= 1 and self.use != "none":
            self.eval()
            self._judge(data)
        self.limit.fill_(self.threshold(self.budget) if self.budget else torch.inf)

    def _judge(self, data: InteractionData) -> None:
        found: list[tuple[Tensor, ...]] = []
        for batch in data.val_dataloader():
            batch = batch.to(self.probes.device)
            earlier = self.boundary.earlier(batch)
            old, fresh = (self.meaning(self._read(moment)) for moment in (earlier, batch))
            state = self._states(batch)
            now, calibrated = self._calibrated(batch, earlier, old, state)
            if self.trigger == "inconsistency" or self.use in ESTIMATED:
                needs = needs_of(self.trigger, now, calibrated, self._probe_vectors())
                self.needs[batch.users] = needs.double()
            cosines = [F.cosine_similarity(one, fresh, dim=1) for one in (old, calibrated.vector)]
            is_reliable = self._are_reliable(batch.target, old, fresh, state)
            found.append((*cosines, calibrated.reliability, is_reliable.float()))
        before, after, reliability, outcome = (torch.cat(column) for column in zip(*found, strict=True))
        self.judged[:2] = torch.stack([before.mean(), after.mean()])
        if self.use in ESTIMATED:
            self.judged[2] = calibration_error(reliability, outcome)
            self.judged[3] = area_under_curve(reliability, outcome)


def _check(recipe: Recipe, lags: tuple[int, ...], use: Use, trigger: Trigger, budget: float) -> None:
    """Refuse what does not go together."""
    require_prefixes(recipe, "every sample has a vector of its own")
    if 0 not in lags or min(lags) < 0:
        raise ValueError(f"lags must be 0 or more, 0 among them for the fresh vectors, got {lags}")
    if trigger not in get_args(Trigger):
        raise ValueError(f"trigger must be one of {', '.join(get_args(Trigger))}, got {trigger!r}")
    if budget and trigger == "doubt" and use not in ESTIMATED:
        raise ValueError(
            f"a budget needs a measure of need, and {use} has no reliability; set trigger to inconsistency"
        )
