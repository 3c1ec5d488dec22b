"""What a language model writes for CDA4Rec: abstracts, plans, explanations, and what learning to write gains.

    python experiments/cda4rec_words.py RUN [--users 200] [--taught 48] [--lm smollm2-135m]
    python experiments/cda4rec_words.py RUN --cases 20

One model stands on both sides: as it comes in the cloud, where it plans, and with adapters on the device.
Abstracts of a fixed sample of users are written by the template, by the model as it comes and by the model
after it learnt (Eq. 8) from the training histories of other users. Eq. 8 wants the plan that the raw history
would get, so each is judged by how far its plan is from that one, and by how likely the planner finds that
one. What is not fit to be sent, the template replaces. Seconds are those of batches of 32 users on this
machine, in bfloat16. `--cases` prints what is written about some users, to be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from recbench import runs
from recbench.edge.abstract import Abstracted
from recbench.edge.adapting import AdapterTraining, abstract_lessons, learn, plan_losses
from recbench.edge.agents import LanguageAbstracter, LanguagePlanner
from recbench.edge.leaks import LeakDetector
from recbench.edge.planned import pasts_of
from recbench.edge.planner import RulePlanner
from recbench.models.cda4rec import SKILLS, CDA4Rec
from recbench.nn.language_model import LanguageModel
from recbench.nn.lm_options import LanguageModelOptions, Lora
from recbench.runtime import multiplies_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.edge.abstract import Past
    from recbench.edge.privacy import Private
    from recbench.edge.ranking_plan import RankingPlan

BATCH = 32  # users at once
OUTCOMES = ("read", "mended", "asked again", "replaced")  # of plans
COLUMNS = (
    *("abstracts by", "fit to be sent", "s", "tokens", "plans: as written", *OUTCOMES[1:], "s", "tokens"),
    *("loss of the history's plan", "off in alpha", "off in beta", "tags in common", "same size"),
    "same encoder",
)


class Written(NamedTuple):
    """Abstracts, and what they cost.

    Args:
        by: who wrote them.
        texts: what a cloud is sent, the template's where there was nothing fit.
        sent: share that was fit to be sent.
        seconds: of each.
        tokens: of each, mean.
    """

    by: str
    texts: list[Abstracted]
    sent: float = 1.0
    seconds: float = 0.0
    tokens: float = 0.0


@dataclass
class Agents:
    """Both sides with a language model.

    Args:
        model: trained; its device explains with this language model from now on.
        data: its data.
        planner: in the cloud.
        device: writes abstracts.
        name: of the language model.
    """

    model: CDA4Rec
    data: InteractionData
    planner: LanguagePlanner
    device: LanguageAbstracter
    name: str

    @classmethod
    def of(cls, model: CDA4Rec, data: InteractionData, lm: str) -> Agents:
        """Around a language model by name."""
        dtype: Literal["bfloat16", "float32"] = "bfloat16" if multiplies_bfloat16() else "float32"
        options = LanguageModelOptions(name=lm, max_tokens=1024, dtype=dtype)  # adapters have 32 bits
        planner = LanguagePlanner(lm=options, batch_size=BATCH)
        planner.prepare()
        options = dataclasses.replace(options, lora=Lora(rank=8))
        torch.manual_seed(0)
        model.slm = LanguageModel(options, adapters=SKILLS)
        detector = LeakDetector.of(data.catalog, groups=model.offer.tags)
        device = LanguageAbstracter(model.slm, model.words, detector, adapter=SKILLS[0], batch_size=BATCH)
        return cls(model, data, planner, device, lm)

    def some(self, number: int) -> SequenceBatch:
        """Requests of the same users every time."""
        known = self.data.users("known")
        return self.data.request(np.random.default_rng(0).choice(known, min(number, len(known)), False))

    def write(self, by: str, pasts: Sequence[Private[Past]]) -> Written:
        """What the device's language model says, as far as it may."""
        told = [past.reveal() for past in pasts]
        start = time.perf_counter()
        raw = self.device.write(told)
        spent = (time.perf_counter() - start) / len(told)
        self.device.outcomes.clear()
        texts = self.device.checked(pasts, raw)
        return Written(by, texts, self.device.outcomes["written"] / len(told), spent, self.tokens(raw))

    def template(self, pasts: Sequence[Private[Past]]) -> Written:
        """The rule's abstracts."""
        return Written("template", self.device.template.abstract(pasts))

    def history(self, pasts: Sequence[Private[Past]]) -> Written:
        """What no cloud is told: everything."""
        told = [past.reveal() for past in pasts]
        texts = [Abstracted(past.query, self.device.prompt(past)) for past in told]
        return Written("nobody: the raw history", texts, sent=0.0)

    def teach(self, users: NDArray[np.int64], number: int) -> str:
        """Let the device learn abstracts (Eq. 8) from newest training moments of others than `users`."""
        owners, positions = self.data.moments(1)
        rows = np.flatnonzero(~np.isin(owners, users))
        rows = np.random.default_rng(0).permutation(rows)[:number]
        pasts = [one.reveal() for one in pasts_of(self.data.moment(owners[rows], positions[rows]))]
        options = AdapterTraining(num_users=number)
        start = time.perf_counter()
        lessons = abstract_lessons(self.device, self.planner, pasts, self.model.offer, options)
        losses = learn(
            self.device.lm, lessons, options, system=self.device.system, adapter=self.device.adapter
        )
        return (
            f"{len(lessons)} lessons from {len(rows)} users in {time.perf_counter() - start:.0f} s; loss "
            f"{' -> '.join(f'{loss:.2f}' for loss in losses)} nats per token"
        )

    def tokens(self, texts: Sequence[str]) -> float:
        """Mean number of tokens."""
        return float(np.mean([len(self.device.lm.tokens.answer(text)) for text in texts]))

    def plan(self, written: Written) -> tuple[list[RankingPlan], list[str]]:
        """Plans of abstracts, and their cells: outcomes, seconds, tokens."""
        self.planner.prepare()
        start = time.perf_counter()
        plans = self.planner.plan(written.texts, self.model.offer)
        spent = (time.perf_counter() - start) / len(plans)
        shares = [f"{self.planner.outcomes[name] / len(plans):.1%}" for name in OUTCOMES]
        return plans, [*shares, f"{spent:.2f}", f"{self.tokens([plan.text() for plan in plans]):.0f}"]

    def row(
        self,
        written: Written,
        gold: Sequence[RankingPlan],
        plans: Sequence[RankingPlan],
        cells: Sequence[str],
    ) -> str:
        """Of the table: abstracts, their plans with the cells of `plan`, and how near these are to `gold`."""
        wanted = [plan.text() for plan in gold]
        loss = np.mean(plan_losses(self.planner, written.texts, wanted, self.model.offer))
        own = [written.by, f"{written.sent:.1%}", f"{written.seconds:.2f}", f"{written.tokens:.0f}"]
        return f"| {' | '.join([*own, *cells, f'{loss:.4f}', *distance(plans, gold)])} |"


def sample(agents: Agents, *, num_users: int, num_taught: int) -> Iterator[str]:
    """The table over a fixed sample of users, and what explanations cost.

    Args:
        agents: both sides.
        num_users: of the sample.
        num_taught: others to learn from; 0 to leave that out.
    """
    batch = agents.some(num_users)
    pasts = pasts_of(batch)
    yield f"{len(pasts)} users, {agents.name}, {agents.planner.lm_options.dtype}\n"
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    whole = agents.history(pasts)
    gold, cells = agents.plan(whole)
    yield agents.row(whole, gold, gold, cells)
    for by in (agents.template(pasts), agents.write(f"{agents.name} as it comes", pasts)):
        yield agents.row(by, gold, *agents.plan(by))
    if num_taught:
        said = agents.teach(batch.users.numpy(), num_taught)
        by = agents.write(f"{agents.name}, taught", pasts)
        yield agents.row(by, gold, *agents.plan(by))
        yield f"\n{said}"
    start = time.perf_counter()
    with torch.inference_mode():
        reasons = agents.model.explain(batch)
    spent = (time.perf_counter() - start) / len(reasons)
    yield f"\nan explanation: {spent:.2f} s, {agents.tokens(reasons):.0f} tokens"


def distance(ours: Sequence[RankingPlan], gold: Sequence[RankingPlan]) -> list[str]:
    """How far plans are from others, means: of shares the absolute difference, of tags the Jaccard index."""
    pairs = list(zip(ours, gold, strict=True))
    tags = [({tag for tag, _ in a.tags}, {tag for tag, _ in b.tags}) for a, b in pairs]
    found = (
        [abs(a.alpha - b.alpha) for a, b in pairs],
        [abs(a.beta - b.beta) for a, b in pairs],
        [len(a & b) / len(a | b) if a | b else 1.0 for a, b in tags],
        [a.size == b.size for a, b in pairs],
        [a.encoder == b.encoder for a, b in pairs],
    )
    return [f"{np.mean(each):.2f}" for each in found]


def cases(agents: Agents, *, number: int) -> Iterator[str]:
    """Abstract, plan and explanation of some users, as they are made."""
    batch, offer = agents.some(number), agents.model.offer
    private = pasts_of(batch)
    pasts = [past.reveal() for past in private]
    safe = agents.template(private).texts
    raw = agents.device.write(pasts)
    plans, by_rule = agents.planner.plan(safe, offer), RulePlanner().plan(safe, offer)
    with torch.inference_mode():
        best = agents.model.recommend(batch, 3).items.tolist()
        reasons = agents.model.explain(batch)
    for row, (past, own, text) in enumerate(zip(pasts, safe, raw, strict=True)):
        sound = agents.device.sound(past, text)
        fit = "as it is" if sound == flat(text) else f"as: {sound}" if sound else "no"
        yield f"\n## User {row + 1}, {len(past.items)} items\n"
        yield f"- query: {own.query or '(none)'}\n- abstract by the template: {own.text}"
        yield f"- abstract by {agents.name}: {flat(text)}\n- may that be sent: {fit}"
        yield f"- plan by {agents.name}: `{plans[row].text()}`\n- plan by rule: `{by_rule[row].text()}`"
        yield f"- recommended: {'; '.join(agents.model.words.titles[item][:80] for item in best[row])}"
        yield f"- explanation by {agents.name}: {flat(reasons[row])}"


def flat(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run of CDA4Rec")
    parser.add_argument("--users", type=int, default=200, help="of the sample")
    parser.add_argument("--taught", type=int, default=48, help="other users, to learn from; 0: no teaching")
    parser.add_argument("--cases", type=int, default=0, help="users about whom all that is written is shown")
    parser.add_argument("--lm", default="smollm2-135m", help="which language model")
    words = parser.parse_args()
    model, data = runs.restore(words.run)
    if not isinstance(model, CDA4Rec):
        parser.error(f"{words.run} is a run of {type(model).__name__}, not of CDA4Rec")
    agents = Agents.of(model, data, words.lm)
    if words.cases:
        lines = cases(agents, number=words.cases)
    else:
        lines = sample(agents, num_users=words.users, num_taught=words.taught)
    for text in lines:
        print(text, flush=True)


if __name__ == "__main__":
    main()
