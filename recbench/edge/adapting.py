"""How the device's language model learns to write abstracts and explanations (CDA4Rec, Eq. 8 and 9).

Eq. 8 wants abstracts whose plan is the one that the raw history would get. There is no gradient from a plan
through the words of an abstract, so several abstracts are sampled, each is scored by how likely the cloud's
model finds the gold plan after it, and the device's model learns to write the best one (expert iteration).
What would give somebody away is never a candidate. Eq. 9 has the cloud's model write an explanation once, and
the device's model learns its words. Each skill has adapters of its own, over the one base on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from recbench.edge.abstract import Abstracted
from recbench.edge.agents import explain, explanation_prompt, plan_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbench.edge.abstract import Past
    from recbench.edge.agents import LanguageAbstracter, LanguagePlanner
    from recbench.edge.ranking_plan import Offer, RankingPlan
    from recbench.nn.language_model import LanguageModel


@dataclass(frozen=True)
class AdapterTraining:
    """How adapters are trained.

    Args:
        num_users: from whose histories abstracts are learnt (Eq. 8); 0 trains none.
        num_explained: from whose recommendations explanations are learnt (Eq. 9); 0 trains none.
        num_samples: abstracts that are tried for each.
        temperature: they are sampled with.
        num_epochs: over the chosen ones.
        batch_size: of a step.
        lr: of AdamW.
    """

    num_users: int = 0
    num_explained: int = 0
    num_samples: int = 4
    temperature: float = 1.0
    num_epochs: int = 2
    batch_size: int = 4
    lr: float = 2e-4

    def __post_init__(self) -> None:
        least = {"num_users": 0, "num_explained": 0, "num_samples": 1, "num_epochs": 1, "batch_size": 1}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(f"{name} must be at least {number}, got {getattr(self, name)}")
        if not self.lr > 0 or not self.temperature > 0:
            raise ValueError(f"lr and temperature must be above 0, got {self.lr:g} and {self.temperature:g}")


class Lesson(NamedTuple):
    """What a model should write after a prompt."""

    prompt: str
    answer: str


def abstract_lessons(
    abstracter: LanguageAbstracter,
    planner: LanguagePlanner,
    pasts: Sequence[Past],
    offer: Offer,
    options: AdapterTraining,
) -> list[Lesson]:
    """The best of several abstracts for each past of which any was fit to be sent.

    Args:
        abstracter: on the device; its model is sampled from.
        planner: in the cloud; its model scores.
        pasts: of users whose data may be used for training.
        offer: what plans choose from.
        options: how many are tried.
    """
    raw = [Abstracted(past.query, abstracter.prompt(past)) for past in pasts]
    gold = [plan.text() for plan in planner.plan(raw, offer)]
    best: dict[int, tuple[float, str]] = {}
    for seed in range(options.num_samples):
        written = abstracter.write(pasts, seed=seed, temperature=options.temperature)
        sound = [abstracter.sound(past, text) for past, text in zip(pasts, written, strict=True)]
        rows = [row for row, text in enumerate(sound) if text]
        asked = [Abstracted(pasts[row].query, sound[row]) for row in rows]
        losses = plan_losses(planner, asked, [gold[row] for row in rows], offer)
        for row, loss in zip(rows, losses, strict=True):
            if row not in best or loss < best[row][0]:
                best[row] = (loss, sound[row])
    return [Lesson(abstracter.prompt(pasts[row]), text) for row, (_, text) in sorted(best.items())]


def explanation_lessons(
    teacher: LanguageModel, plans: Sequence[RankingPlan], titles: Sequence[Sequence[str]]
) -> list[Lesson]:
    """What the cloud's model says of each recommendation, where it says anything.

    Args:
        teacher: in the cloud.
        plans: (B,) how the requests were worked on.
        titles: (B,) what was recommended, to users whose data may be used for training.
    """
    answers = explain(teacher, plans, titles)
    return [
        Lesson(explanation_prompt(plan, some), answer)
        for plan, some, answer in zip(plans, titles, answers, strict=True)
        if answer.strip()
    ]


@torch.inference_mode()
def plan_losses(
    planner: LanguagePlanner, asked: Sequence[Abstracted], plans: Sequence[str], offer: Offer
) -> list[float]:
    """How unlikely the planner's model finds each plan after each abstract: nats, a mean over the tokens."""
    planner.prepare()
    assert planner.lm is not None
    found: list[float] = []
    for start in range(0, len(asked), planner.batch_size):
        some = slice(start, start + planner.batch_size)
        prompts = [plan_prompt(one, offer) for one in asked[some]]
        losses, is_token = planner.lm.token_losses(prompts, plans[some], system=planner.system)
        found += ((losses * is_token).sum(1) / is_token.sum(1)).tolist()
    return found


def learn(
    lm: LanguageModel,
    lessons: Sequence[Lesson],
    options: AdapterTraining,
    *,
    system: str,
    adapter: str = "",
    seed: int = 0,
) -> list[float]:
    """Teach the adapters of `lm` the lessons; the mean loss of each epoch.

    Args:
        lm: learns.
        lessons: prompts and answers.
        options: how.
        system: what the system turn of every prompt says.
        adapter: which adapters learn; those in use unless given.
        seed: of the order.

    Raises:
        ValueError: nothing of the model is trained.
    """
    trained = [weight for weight in lm.parameters() if weight.requires_grad]
    if not trained:
        raise ValueError("the device's language model has no adapters; set device_lm.lora.rank")
    optimizer = torch.optim.AdamW(trained, lr=options.lr)
    rng = np.random.default_rng(seed)
    epochs = []
    with lm.adapted_by(adapter):
        lm.train()
        for _ in range(options.num_epochs):
            order, spent = rng.permutation(len(lessons)), []
            for start in range(0, len(order), options.batch_size):
                some = [lessons[row] for row in order[start : start + options.batch_size]]
                optimizer.zero_grad()
                loss = lm.loss([one.prompt for one in some], [one.answer for one in some], system=system)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                spent.append(loss.item())
            epochs.append(float(np.mean(spent)))
        lm.eval()
    return epochs
