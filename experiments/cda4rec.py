"""CDA4Rec's tables from a trained run, without training anything.

    python experiments/cda4rec.py RUN

Every view is the same weights under another planner or scope, or with a device that tells its history (w/o
AG). What is chosen is chosen on validation: the shares of the rule for sparse, moderate and dense histories.
The oracle takes the best share of every user with hindsight and is no method; it says whether planning can
matter. Claims A1 and A4 to A9 are answered by paired bootstraps over users against the encoder alone and
among plans.

Of a run with `--data.heldout_rate`, users that nobody trained on ask with 1, 3, 5, 10 and all of their items.

What language models write is `cda4rec_words.py`'s business. U users.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from traffic import NETWORKS, crossed

from recbench import runs
from recbench.data.profile import LENGTH_GROUPS, length_group
from recbench.edge.abstract import MAX_QUERY, MAX_TEXT, Abstracted, Abstracter, ItemWords, Past, cut, density
from recbench.edge.planned import pasts_of
from recbench.edge.planner import FixedPlanner, Planner, RandomPlanner, RulePlanner
from recbench.evaluate import evaluate
from recbench.latency import measure
from recbench.metrics import Difference, per_user
from recbench.models.cda4rec import CDA4Rec
from recbench.nn.semantics import item_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from recbench.data.module import InteractionData, Split, Users
    from recbench.edge.planned import Scope
    from recbench.edge.privacy import Private

SHOWN = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SIZES = {500: 3, 1000: 5, 2000: 10, 5000: 20}  # candidates and tags, as the paper's plans pair them
FIXED = {  # Table V
    "v1": {},
    "v2, query alone": {"alpha": 1.0},
    "v3, behaviour alone": {"alpha": 0.0},
    "v4, 500 candidates": {"size": 500, "num_tags": 3},
    "v5, SURGE": {"encoder": "surge"},
    "v6, semantic alone": {"beta": 1.0},
    "v7, structured alone": {"beta": 0.0},
}
TOLD = "w/o AG, the history is told"
PAPER = {  # HR@10, Tables II and V
    "sports": {
        "as trained": 0.0304,
        "as trained, all items": 0.0286,
        "encoder alone": 0.0173,
        TOLD: 0.0295,
        "v1": 0.0239,
        "v2, query alone": 0.0221,
        "v3, behaviour alone": 0.0235,
        "v4, 500 candidates": 0.0207,
        "v5, SURGE": 0.0243,
        "v6, semantic alone": 0.0211,
        "v7, structured alone": 0.0232,
    }
}
KNOWN = (1, 3, 5, 10)  # items of an unseen user, Table VI
NUM_GUESSED = 50  # items an attacker may name


class Row(NamedTuple):
    """What one view gives.

    Args:
        name: of the view.
        values: (U, 4) the metrics `SHOWN` of every user.
        listed: share of the targets among what is ranked.
        bytes_down: of a request.
    """

    name: str
    values: NDArray[np.float64]
    listed: float = 1.0
    bytes_down: float = 0.0

    def metric(self, key: str = "ndcg@10") -> NDArray[np.float64]:
        """(U,) of every user."""
        return self.values[:, SHOWN.index(key)]


class Open(CDA4Rec):
    """The method without its promise, so that no auditor looks: what a view that breaks it needs."""

    is_private = False


class Telling(Abstracter):
    """Tells the query as it is and the titles of the history, newest first: the ablation w/o AG, no method.

    Args:
        words: of the items; an item without a title is told by its tags.
    """

    def __init__(self, words: ItemWords) -> None:
        self.words = words

    def abstract(self, pasts: Sequence[Private[Past]]) -> list[Abstracted]:
        """As much as a message holds."""
        return [self._told(private.reveal()) for private in pasts]

    def _told(self, past: Past) -> Abstracted:
        seen = [self.words.titles[item] or ", ".join(self.words.tags[item]) for item in past.items[::-1]]
        return Abstracted(cut(past.query, MAX_QUERY), cut("; ".join(filter(None, seen)), MAX_TEXT))


@dataclass
class Views:
    """One trained method under all plans.

    Args:
        model: trained.
        data: its data.
    """

    model: CDA4Rec
    data: InteractionData

    def __post_init__(self) -> None:
        self.planner, self.scope = self.model.planner, self.model.scope

    def view(
        self,
        name: str,
        planner: Planner | None = None,
        *,
        scope: Scope | None = None,
        abstracter: Abstracter | None = None,
        split: Split = "test",
        users: Users = "known",
    ) -> Row:
        """Under another planner, scope and abstracter, those it was trained with unless given."""
        model = copy.copy(self.model)
        model.planner, model.scope = planner or self.planner, scope or self.scope
        if abstracter:
            model.abstracter, model.__class__ = abstracter, Open
        model.cross(model.boundary)
        found = evaluate(model, self.data, split=split, users=users)
        listed = float(np.isfinite(found.ranks.rank).mean())
        return Row(name, per_user(found.ranks, SHOWN), listed, crossed(found)[1])

    def alone(self, name: str = "encoder alone", *, split: Split = "test", users: Users = "known") -> Row:
        """The device without a cloud."""
        found = evaluate(self.model.encoder, self.data, split=split, users=users)
        return Row(name, per_user(found.ranks, SHOWN))

    def lengths(self, split: Split = "test") -> NDArray[np.int64]:
        """(U,) interactions before the target, in the order of the rows' values."""
        batches = self.data.targets(split)
        return np.concatenate([(batch.history != 0).sum(1).numpy() for batch in batches])


def fixed(**options: object) -> FixedPlanner:
    """A planner of Table V."""
    return FixedPlanner(**options)  # type: ignore[arg-type]


def plans(views: Views) -> list[Row]:
    """Table V, what planning is worth, and the encoder alone."""
    has_graph = views.model.graph is not None
    variants = {name: options for name, options in FIXED.items() if has_graph or "encoder" not in options}
    return [
        views.alone(),
        views.view("as trained"),
        views.view(TOLD, abstracter=Telling(views.model.words)),
        *(views.view(name, fixed(**options), scope="candidates") for name, options in variants.items()),
        views.view("rule", RulePlanner(), scope="candidates"),
        views.view("random plans", RandomPlanner(), scope="candidates"),
    ]


def recalls(views: Views) -> list[Row]:
    """How many targets the candidates hold, by their number."""
    return [
        views.view(
            f"{size} candidates of {num_tags} tags", fixed(size=size, num_tags=num_tags), scope="candidates"
        )
        for size, num_tags in SIZES.items()
    ]


def unseen(views: Views) -> Iterator[Row]:
    """Table VI: users that nobody trained on, of whom only the newest items are known."""
    for known in (*KNOWN, 0):
        words = f"{known} items" if known else "all items"
        some = Views(views.model, views.data.showing(known) if known else views.data)
        yield some.alone(f"encoder alone, {words}", users="heldout")
        yield some.view(f"as trained, {words}", users="heldout")


def by_share(views: Views, scope: Scope, split: Split) -> list[Row]:
    """The same plan for everybody with every share of the semantic vector."""
    return [views.view(f"beta {share:g}", fixed(beta=share), scope=scope, split=split) for share in SHARES]


def tuned(views: Views, scope: Scope) -> tuple[RulePlanner, float, float]:
    """The rule with the shares that are best on validation, by density.

    Returns:
        The planner; NDCG@10 on validation with the best single share; and with the best share of every user,
        known with hindsight.
    """
    table = np.stack([row.metric() for row in by_share(views, scope, "validation")])  # (shares, U)
    words = np.array([density(length) for length in views.lengths("validation").tolist()])
    best = []
    for word in ("sparse", "moderate", "dense"):
        member = words == word
        mean = table[:, member if member.any() else slice(None)].mean(1)
        best.append(SHARES[int(mean.argmax())])
    planner = RulePlanner(betas=(best[0], best[1], best[2]), sizes=(5000,) * 3, tag_counts=(20,) * 3)
    return planner, float(table.mean(1).max()), float(table.max(0).mean())


def difference(better: Row, worse: Row) -> str:
    """Whether the first is better by NDCG@10, with the interval of the mean paired difference."""
    return f"{better.name} > {worse.name}: {Difference.of(better.metric(), worse.metric())}"


def leak(views: Views, *, num_users: int = 2000) -> Iterator[str]:
    """What an attacker in the cloud who ranks the items by an abstract's vector guesses of the history."""
    batch = next(iter(views.data.targets("test"))).rows(slice(0, num_users))
    model = views.model
    items = model.projection(model.lm.embed(item_texts(views.data.catalog)))
    abstracts = model.abstracter.abstract(pasts_of(batch))
    texts = model.strategist().read([Abstracted("", one.text) for one in abstracts], [0.0] * len(batch))
    guesses = (texts @ items.T).topk(NUM_GUESSED, dim=1).indices + 1
    popular = torch.from_numpy(
        np.argsort(-views.data.catalog.popularity[1:], kind="stable")[:NUM_GUESSED] + 1
    )
    for name, named in (("by the abstract", guesses), ("the most popular", popular.expand(len(batch), -1))):
        hits = (named[:, :, None] == batch.history[:, None]).any(1) & (batch.history != 0)
        rate = (hits.sum(1) / (batch.history != 0).sum(1).clamp_min(1)).mean()
        yield f"- {NUM_GUESSED} guesses {name}: {float(rate):.2%} of the history"
    yield f"- at random: {NUM_GUESSED / views.data.catalog.num_items:.2%}"


def parts(views: Views, *, num_calls: int = 200) -> Iterator[str]:
    """Milliseconds of the parts of one request, and what they make of cold, warm and hot ones.

    The cloud reads and retrieves while the device encodes, so of these two only the longer counts.
    """
    model = copy.copy(views.model)
    brain, strategist = model.device_side(), model.strategist()
    users = np.random.default_rng(0).choice(views.data.users("known"), size=num_calls)
    requests = [views.data.request(users[i : i + 1]) for i in range(num_calls)]
    questions = [brain.ask(batch, [""]) for batch in requests]
    abstracts = [[Abstracted(one.query, one.text) for one in asked] for asked in questions]  # type: ignore[attr-defined]
    made = [strategist.planner.plan(one, strategist.offer) for one in abstracts]
    replies = [strategist(asked) for asked in questions]
    steps: dict[str, Callable[[int], object]] = {
        "abstract": lambda i: brain.ask(requests[i], [""]),
        "plan": lambda i: strategist.planner.plan(abstracts[i], strategist.offer),
        "read": lambda i: strategist.read(abstracts[i], [made[i][0].alpha]),
        "cloud as a whole": lambda i: strategist(questions[i]),
        "encode": lambda i: model.encoder.newest_of(requests[i]),
        "device ranks": lambda i: brain.together(requests[i], replies[i]).recommend(requests[i], 10),
    }
    with torch.inference_mode():
        spent = {name: measure(step, num_calls=num_calls, num_warmup=10) for name, step in steps.items()}
    yield from (f"| {name} | {one.p50_ms:.2f} | {one.p95_ms:.2f} |" for name, one in spent.items())
    p50 = {name: one.p50_ms for name, one in spent.items()}
    late = p50["cloud as a whole"] - p50["plan"]
    rank = p50["device ranks"] - p50["encode"]
    cold = p50["abstract"] + p50["plan"] + max(late, p50["encode"]) + rank
    yield "\nMedians: computing measured here and the network's wait modelled, added up.\n"
    yield "| network | wait p50 / p95 | cold | plan cached | all cached |\n|---|---|---|---|---|"
    for network in NETWORKS:
        model.cross(replace(model.boundary, network=network))
        waits = np.concatenate([model.answer(batch).wait_ms for batch in requests])
        wait, late_wait = np.percentile(waits, [50, 95])
        yield (
            f"| {network} | {wait:.1f} / {late_wait:.1f} | {cold + wait:.1f} | "
            f"{cold - p50['plan'] + wait:.1f} | {p50['encode'] + rank:.1f} |"
        )


def table(title: str, rows: Sequence[Row], data: str) -> Iterator[str]:
    """Markdown, the paper's HR@10 in the last column."""
    printed = PAPER.get(data.partition("-")[0], {})
    yield f"\n### {title}\n"
    yield f"| view | {' | '.join(SHOWN)} | listed | bytes down | HR@10 in the paper |"
    yield "|---" * (len(SHOWN) + 4) + "|"
    for row in rows:
        means = " | ".join(f"{value:.4f}" for value in row.values.mean(axis=0))
        paper = f"{printed[row.name]:.4f}" if row.name in printed else ""
        yield f"| {row.name} | {means} | {row.listed:.3f} | {row.bytes_down:.0f} | {paper} |"


def groups(rows: Sequence[Row], lengths: NDArray[np.int64]) -> Iterator[str]:
    """Fig. 6: NDCG@10 by length of the history."""
    member = length_group(lengths + 1)
    yield "\n### NDCG@10 by length of the history\n"
    yield f"| view | {' | '.join(f'{n} ({int((member == i).sum())})' for i, n in enumerate(LENGTH_GROUPS))} |"
    yield "|---" * (len(LENGTH_GROUPS) + 1) + "|"
    for row in rows:
        means = [row.metric()[member == i] for i in range(len(LENGTH_GROUPS))]
        yield f"| {row.name} | {' | '.join(f'{one.mean():.4f}' if len(one) else '' for one in means)} |"


def report(views: Views) -> Iterator[str]:
    """Everything that needs no language model."""
    data = views.data.prepared.name
    found = plans(views)
    rows = {row.name: row for row in found}
    yield from table("Plans (Table V)", found, data)
    yield from table("Candidates", recalls(views), data)
    for scope in ("candidates", "catalogue"):
        planner, single, oracle = tuned(views, scope)
        row = views.view(f"rule, tuned, {scope}", planner, scope=scope)
        yield from table(f"Shares chosen on validation, {scope} ranked: {planner.betas}", [row], data)
        yield f"\nNDCG@10 on validation: one share for all {single:.4f}, the best of every user {oracle:.4f}"
        rows[row.name] = row
    yield from groups([rows["encoder alone"], rows["as trained"], *list(rows.values())[-2:]], views.lengths())
    if len(views.data.users("heldout")):
        strangers = list(unseen(views))
        yield from table("Users that nobody trained on (Table VI)", strangers, data)
        yield ""
        for own, others in zip(strangers[1::2], strangers[::2], strict=True):
            yield f"- {difference(own, others)}"
    yield "\n### Answers\n"
    pairs = [
        ("rule, tuned, catalogue", "encoder alone"),
        ("rule, tuned, candidates", "encoder alone"),
        ("as trained", "encoder alone"),
        ("as trained", TOLD),
        (TOLD, "encoder alone"),
        *(("rule", name) for name in (*FIXED, "random plans")),
        ("v1", "v6, semantic alone"),
        ("v1", "v7, structured alone"),
        ("v1", "v4, 500 candidates"),
        ("v1", "v5, SURGE"),
    ]
    yield from (f"- {difference(rows[a], rows[b])}" for a, b in pairs if a in rows and b in rows)
    yield "\n### What an abstract gives away\n"
    yield from leak(views)
    yield "\n### A request, milliseconds\n\n| part | p50 | p95 |\n|---|---|---|"
    yield from parts(views)


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run of CDA4Rec")
    words = parser.parse_args()
    model, data = runs.restore(words.run)
    if not isinstance(model, CDA4Rec):
        parser.error(f"{words.run} is a run of {type(model).__name__}, not of CDA4Rec")
    for text in report(Views(model, data)):
        print(text, flush=True)


if __name__ == "__main__":
    main()
