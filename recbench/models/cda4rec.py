"""CDA4Rec: two agents, a plan between them, and a ranking on the device (Zheng et al., arXiv 2509.01551).

The device says in words what its user is like, and names no item; the cloud plans how the request is worked
on, makes a vector of the words and retrieves candidates by tags; the device reads the history with an encoder
of its own and ranks what came by both vectors. The cloud's semantic side and the device's encoder work at the
same time.

The paper has no public code and leaves much open. What is settled here, and how. Eq. 10 has the sign of a
quantity to maximise: what is minimised is its negative, or a softmax over the catalogue, the default, as
everywhere in this suite. Eq. 2 and 3 add and multiply vectors of 4096 and of 1024 numbers: whatever the
language model reads goes through the projection fitted on the item texts (Eq. 1) and a learned map into the
space of the item table. The shares of Eq. 5 mean something only between vectors of one length: both are made
unit vectors. The item table is trained (Sec. III-I), not fixed (Sec. II). Queries exist at the request alone,
and in few data sets: without one its share is 0. SURGE needs a target; on a device the newest item takes its
place (`surge_tf`), over the same item table. A plan without an encoder has a share of 1 for the semantic
vector. A target outside the candidates is a miss, and how often is on the record.

In training the encoder learns first, on its own, so that a device whose cloud is out of reach has a model;
what a user's abstract and plan say at the newest training item is made once and kept, and the map learns from
it. With `train_encoder` both learn together, as the paper has it, on all items of a user with the abstract of
the newest moment. B users, U users in all, L history, S width of the projection, D width of the item table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.data.tag_groups import tag_groups
from recbench.edge.abstract import Abstracter, ItemWords, TemplateAbstracter
from recbench.edge.adapting import AdapterTraining, abstract_lessons, explanation_lessons, learn
from recbench.edge.agents import EXPLAINER, LanguageAbstracter, LanguagePlanner, explain
from recbench.edge.cloud import Cloud
from recbench.edge.leaks import LeakDetector
from recbench.edge.messages import Abstract, Plan
from recbench.edge.parameters import weights_version
from recbench.edge.planned import PlannedBrain, Scope, pasts_of
from recbench.edge.planner import FixedPlanner, Planner, RulePlanner
from recbench.edge.ranking_plan import SIZES, TAG_COUNTS, Encoder, Offer, RankingPlan, read_plan
from recbench.edge.strategist import Meaning, Reader, Strategist
from recbench.errors import UsageError
from recbench.models.base import Paper, Recipe, Stage, at_least, require_prefixes
from recbench.models.causal import CausalScorer  # noqa: TC001 - the command line reads the annotation
from recbench.models.collaborative import Boundary, Collaborative
from recbench.models.sasrec import SASRec
from recbench.models.surge_tf import SurgeTF  # noqa: TC001 - the command line reads the annotation
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions
from recbench.nn.losses import FullSoftmax, Loss
from recbench.nn.retrieval import TagRetrieval
from recbench.nn.semantics import Projection, item_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog
    from recbench.data.module import InteractionData

TrainEncoder = Literal["before", "together", "both"]
_USERS_PER_BLOCK = 4096
SKILLS = _ABSTRACT, _EXPLAIN = "abstract", "explain"  # adapters of the device's language model
_NUM_EXPLAINED = 3  # items of an explanation


class CDA4Rec(Collaborative):
    """Cloud and device agents that plan each request (Zheng et al., arXiv 2509.01551).

    Args:
        encoder: reads the history on the device (Eq. 4), and ranks alone without a cloud; SASRec when None.
        graph: the second encoder that plans may choose, over the first one's item table; none when None.
        lm: makes vectors of texts in the cloud (Eq. 1 and 2).
        device_lm: writes on the device: abstracts, which without it, or where it says too much, a template
            does; and explanations.
        adapters: how it learns to write both, from a planner that is a language model.
        text_dim: S, principal components of the item texts.
        train_encoder: before the fusion, by its own recipe, and fixed then; together with it; or both.
        planner: in the cloud; by rule when None.
        scope: whether the device ranks what the cloud retrieved, or the catalogue that it holds anyway.
        sizes: numbers of candidates that plans choose from.
        tag_counts: numbers of tags that plans choose from.
        max_groups: tag groups at most.
        loss: how fused vectors are pulled towards their next items; softmax over the catalogue when None.
        boundary: between the sides.
        recipe: of the fusion.
    """

    paper: ClassVar[Paper] = Paper(
        "CDA4Rec: Cloud-Device Agents for Recommendation",
        "arXiv",
        2025,
        "https://arxiv.org/abs/2509.01551",
    )

    is_private: ClassVar[bool] = True
    kept_texts: Tensor  # (U, S) Eq. 2 at every user's newest training moment
    kept_betas: Tensor  # (U, 1) Eq. 5 there

    def __init__(
        self,
        *,
        encoder: CausalScorer | None = None,
        graph: SurgeTF | None = None,
        lm: LanguageModelOptions = LanguageModelOptions(name="minilm", max_tokens=128),
        device_lm: LanguageModelOptions | None = None,
        adapters: AdapterTraining = AdapterTraining(),
        text_dim: int = 128,
        train_encoder: TrainEncoder = "before",
        planner: Planner | None = None,
        scope: Scope = "candidates",
        sizes: tuple[int, ...] = SIZES,
        tag_counts: tuple[int, ...] = TAG_COUNTS,
        max_groups: int = 40,
        loss: Loss | None = None,
        boundary: Boundary = Boundary(),
        recipe: Recipe = Recipe(samples="prefixes", max_epochs=10, patience=3),
    ) -> None:
        super().__init__(recipe, boundary=boundary)
        at_least(1, text_dim=text_dim)
        require_prefixes(recipe, "every sample has a plan of its own")
        self.encoder, self.graph = encoder or SASRec(), graph
        self.lm_options, self.device_lm_options = lm, device_lm
        self.text_dim, self.adapters = text_dim, adapters
        if (adapters.num_users or adapters.num_explained) and not (
            device_lm and device_lm.lora.rank and isinstance(planner, LanguagePlanner)
        ):
            raise ValueError(
                "adapters.num_users and adapters.num_explained need a device_lm with lora.rank above 0, and "
                "planner LanguagePlanner to judge what it writes"
            )
        self.train_encoder, self.scope = train_encoder, scope
        self.planner = planner or RulePlanner()
        self.sizes, self.tag_counts, self.max_groups = sizes, tag_counts, max_groups
        self.criterion = loss or FullSoftmax()
        self.slm: LanguageModel | None = None

    def build(self, catalog: Catalog) -> None:
        """Encoders, language model, projection, map, and the groups of the catalogue.

        Raises:
            UsageError: the data set has no tags to retrieve by, or the two encoders differ in width.
        """
        super().build(catalog)
        if "tags" not in catalog.features:
            raise UsageError("cda4rec retrieves by tags, and this data set has none; take one that has tags")
        self.encoder.build(catalog)
        self._build_graph(catalog)
        self.lm = LanguageModel(self.lm_options)
        self.projection = Projection(self.lm.dim, self.text_dim)
        dim = self.encoder.items.embedding_dim
        self.meaning = Meaning(self.text_dim, dim)
        self.temperature = nn.Parameter(torch.tensor(float(dim) ** 0.5))  # the length of a normed state
        groups = tag_groups(catalog, max_groups=self.max_groups).members
        self.retrieval = TagRetrieval(list(groups.values()), num_items=catalog.num_items)
        names: tuple[Encoder, ...] = ("sasrec", "surge") if self.graph else ("sasrec",)
        self.offer = Offer(tuple(groups), self.sizes, self.tag_counts, names)
        self.abstracter = self._make_abstracter(catalog)
        self.planner.prepare()
        self._reader = Reader(self.lm, self.projection)
        self.register_buffer("kept_texts", torch.zeros(catalog.num_users, self.text_dim))
        self.register_buffer("kept_betas", torch.zeros(catalog.num_users, 1))

    def stages(self, data: InteractionData) -> Iterator[Stage]:
        """Read the items (Eq. 1), train the encoders (Eq. 4), keep abstracts, train the fusion (Eq. 5-10).

        The device's language model learns to write abstracts (Eq. 8) before any are kept, and to explain
        (Eq. 9) when there is something to explain.
        """
        yield Stage("read", self, data, solve=lambda: self._read_items(data.catalog))
        self._reader = Reader(self.lm, self.projection)
        for stage in self.encoder.stages(data):
            if self.train_encoder != "together" or stage.solve:  # what comes before training comes anyway
                yield stage.of("device")
        if self.graph is not None:
            self.encoder.items.requires_grad_(False)
            yield from (stage.of("graph") for stage in self.graph.stages(data))
        if self.adapters.num_users:
            yield Stage("adapt", self, data, solve=lambda: self._adapt(data))
        yield Stage("abstract", self, data, solve=lambda: self._keep(data))
        self.encoder.requires_grad_(self.train_encoder != "before")
        shown = data.newest(1) if self.train_encoder == "before" else data
        self.cross(self.boundary)
        yield Stage("train", self, shown, self.recipe)
        self.cross(self.boundary)
        if self.adapters.num_explained:
            yield Stage("explain", self, data, solve=lambda: self._learn_to_explain(data))

    def explain(self, batch: SequenceBatch, *, num_items: int = _NUM_EXPLAINED) -> list[str]:
        """Why each user's best items were recommended, in words that the device writes and keeps.

        Args:
            batch: B users.
            num_items: that an explanation is of.

        Raises:
            UsageError: the device has no language model.
        """
        if self.slm is None:
            raise UsageError("explanations need a language model on the device: set device_lm")
        return explain(self.slm, *self._recommended(batch, num_items), adapter=_EXPLAIN)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Fused vectors towards the next items (Eq. 10, or softmax over the catalogue)."""
        beta = self.kept_betas[batch.users]
        fused = beta * self.meaning(self.kept_texts[batch.users]) + (1 - beta) * F.normalize(
            self._states(batch), dim=-1
        )
        return self.criterion(self.temperature * fused, batch.target, self.encoder.items.weight)

    def sides(self) -> dict[str, nn.Module]:
        """The item table is on both."""
        cloud = [self.lm, self.projection, self.meaning, self.retrieval, self.encoder.items]
        device = [self.encoder, *filter(None, (self.graph, self.slm))]
        return {"cloud": nn.ModuleList(cloud), "device": nn.ModuleList(device)}

    def cloud_side(self) -> Cloud:
        """Plans, reads and retrieves."""
        return Cloud({Abstract: self.strategist()})

    def strategist(self) -> Strategist:
        """The cloud's handler."""
        return Strategist(
            planner=self.planner,
            offer=self.offer,
            reader=self._reader,
            meaning=self.meaning,
            items=self.encoder.items.weight.detach(),
            retrieval=self.retrieval,
            version=self._weights_version(),
        )

    def device_side(self) -> PlannedBrain:
        """Abstracts and ranks."""
        encoders: dict[str, CausalScorer] = {"sasrec": self.encoder}
        if self.graph is not None:
            encoders["surge"] = self.graph
        return PlannedBrain(
            abstracter=self.abstracter,
            encoders=encoders,
            items=self.encoder.items,
            offer=self.offer,
            scope=self.scope,
            version=self._weights_version(),
        )

    def public_words(self) -> tuple[str, ...]:
        """Names of the tag groups."""
        return self.offer.tags

    def notes(self) -> tuple[str, ...]:
        """What the cloud was told and what was ranked."""
        what = "candidates of the cloud" if self.scope == "candidates" else "the whole catalogue"
        agents = {"plans": self.planner, "abstracts": self.abstracter}
        said = [
            f"{name} by {type(agent).__name__}{_counted(getattr(agent, 'outcomes', {}))}"
            for name, agent in agents.items()
        ]
        return (f"the device ranks {what}; {', '.join(said)}; texts read by {self.lm_options.name}",)

    def _build_graph(self, catalog: Catalog) -> None:
        """The second encoder, over the first one's table."""
        if self.graph is None:
            return
        self.graph.build(catalog)
        own, shared = self.graph.items.embedding_dim, self.encoder.items.embedding_dim
        if own != shared:
            raise UsageError(f"graph.dim is {own} and encoder.dim {shared}: they share the item table")
        self.graph.items = self.encoder.items

    def _make_abstracter(self, catalog: Catalog) -> Abstracter:
        self.words = ItemWords.of(catalog, groups=self.offer.tags)
        detector = LeakDetector.of(catalog, groups=self.offer.tags)
        if self.device_lm_options is None:
            return TemplateAbstracter(self.words, detector)
        self.slm = LanguageModel(self.device_lm_options, adapters=SKILLS)
        return LanguageAbstracter(self.slm, self.words, detector, adapter=_ABSTRACT)

    def _weights_version(self) -> str:
        """Of what both sides must have alike."""
        return weights_version(self.version, self.meaning, self.encoder.items)

    def _states(self, batch: SequenceBatch) -> Tensor:
        """(B, D) the encoder's, as in service where it does not learn."""
        is_fixed = self.train_encoder == "before"
        return self.encoder.fixed_state(batch) if is_fixed else self.encoder.newest_of(batch)

    def _read_items(self, catalog: Catalog) -> None:
        self.projection.fit(self.lm.embed(item_texts(catalog)))

    def _adapt(self, data: InteractionData) -> None:
        """Teach the device's language model abstracts (Eq. 8)."""
        assert isinstance(self.abstracter, LanguageAbstracter)
        assert isinstance(self.planner, LanguagePlanner)
        pasts = [one.reveal() for one in pasts_of(_some_moments(data, self.adapters.num_users))]
        lessons = abstract_lessons(self.abstracter, self.planner, pasts, self.offer, self.adapters)
        learn(self.abstracter.lm, lessons, self.adapters, system=self.abstracter.system, adapter=_ABSTRACT)

    def _learn_to_explain(self, data: InteractionData) -> None:
        """Teach the device's language model what the planner's says of recommendations (Eq. 9)."""
        assert isinstance(self.planner, LanguagePlanner)
        assert self.planner.lm is not None
        assert self.slm is not None
        batch = _some_moments(data, self.adapters.num_explained)
        lessons = explanation_lessons(self.planner.lm, *self._recommended(batch, _NUM_EXPLAINED))
        learn(self.slm, lessons, self.adapters, system=EXPLAINER, adapter=_EXPLAIN)

    def _recommended(self, batch: SequenceBatch, num_items: int) -> tuple[list[RankingPlan], list[list[str]]]:
        """(B,) how each request was worked on, and the titles of what came of it.

        Who was served by the device alone has a plan of the device's own: no words, and the user's own tags.
        """
        answer = self.answer(batch)
        plans = {
            row: read_plan(reply.text, self.offer).plan
            for row, reply in enumerate(answer.replies)
            if isinstance(reply, Plan)
        }
        if alone := [row for row in range(len(batch)) if row not in plans]:
            own = FixedPlanner(beta=0.0, size=self.offer.sizes[0], num_tags=self.offer.counts()[0])
            pasts = pasts_of(batch)
            made = own.plan(self.abstracter.abstract([pasts[row] for row in alone]), self.offer)
            plans |= dict(zip(alone, made, strict=True))
        best = answer.recommend(num_items).items.tolist()
        titles = [[self.words.titles[item] for item in items if item] for items in best]
        return [plans[row] for row in range(len(batch))], titles

    def _keep(self, data: InteractionData) -> None:
        """What abstracts and plans of the newest training moment say."""
        strategist = self.strategist()
        users, positions = data.moments(1)
        for start in range(0, len(users), _USERS_PER_BLOCK):
            block = slice(start, start + _USERS_PER_BLOCK)
            batch = data.moment(users[block], positions[block])
            abstracts = self.abstracter.abstract(pasts_of(batch))
            plans = self.planner.plan(abstracts, self.offer)
            self.kept_texts[batch.users] = strategist.read(abstracts, [plan.alpha for plan in plans])
            self.kept_betas[batch.users, 0] = torch.tensor([plan.beta for plan in plans])


def _some_moments(data: InteractionData, num_users: int) -> SequenceBatch:
    """The newest training moments of some users, the same for every seed."""
    users, positions = data.moments(1)
    rows = np.random.default_rng(0).permutation(len(users))[:num_users]
    return data.moment(users[rows], positions[rows])


def _counted(outcomes: Mapping[str, int]) -> str:
    """Shares of the ways in which something came about, where there is more than one."""
    total = sum(outcomes.values())
    shares = [f"{name} {count / total:.1%}" for name, count in sorted(outcomes.items()) if count]
    return f" ({', '.join(shares)})" if len(shares) > 1 else ""
