"""A row per method of `configs/bench/baselines.yaml`: what an epoch on Beauty costs one core, and its floor.

CPU-seconds of an epoch, from a sample of its steps, optimiser included; of a closed form, all of it. Beside
them positions (items to be learnt) and evaluated users per CPU-second, and the share that is unavoidable
work: `measuring.Work` at the rates of one core, over what was spent. A share of .5 says that nothing can be
made more than twice as fast without computing something else. Methods of two stages have two rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from measuring import Rates, Work, line

from recbench import runs
from recbench.bench import read_plan
from recbench.config import preset_file
from recbench.data.module import InteractionData
from recbench.parse import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from measuring import Figure

    from recbench.bench import Cell
    from recbench.data.batch import SequenceBatch
    from recbench.models.base import Recommender, Stage

T = TypeVar("T")
DATA = "beauty"
NUM_STEPS = 24  # of an epoch, from the shortest batches to the longest
NUM_COUNTED = 4  # of these, whose work is counted too
NUM_EVALUATED = 4  # batches of 1024 users
FEW = 32  # users of each of these where ranking 1024 takes long
BUDGET_S = 10.0  # for the steps, and for the evaluation; slow methods are sampled more thinly


def cells() -> dict[str, Cell]:
    """The methods that the leaderboard's tables are made of, with their options, by name."""
    plan = read_plan(preset_file("bench", "baselines"))
    return {f"method/{cell.model}": cell for cell in reversed(plan.cells) if cell.data == DATA}


def methods(names: Sequence[str] = ()) -> Iterator[Figure]:
    """The rows of `names`, or of all methods."""
    known = cells()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates, data = Rates.measured(), InteractionData(DATA)
        for name in names or reversed(known):
            yield from measure(name, known[name], data, rates)
    finally:
        torch.set_num_threads(threads)


def measure(name: str, cell: Cell, data: InteractionData, rates: Rates) -> list[Figure]:
    """A row per stage; the last one has the method's name and tells of its evaluation."""
    torch.manual_seed(0)
    model: Recommender = parse(runs.fit, cell.words, prog="speed")["model"]
    model.build(data.catalog)
    costs = [(stage.name, *cost_of(stage, rates)) for stage in model.stages(data)]
    lengths = data.train_sequences().lengths
    num_positions = int((lengths - 1).clip(0).sum())
    users, evaluation_share = evaluation(model, data, rates)
    rows = []
    for place, (stage, spent, share, unit) in enumerate(costs, start=1):
        is_last = place == len(costs)
        rest = {"users_per_s": round(users), "users_share": round(evaluation_share, 3)} if is_last else {}
        per_s = round(num_positions / spent)
        rows.append(
            line(
                name if is_last else f"{name}/{stage}",
                spent,
                unit,
                positions_per_s=per_s,
                share=round(share, 3),
                **rest,
            )
        )
    return rows


def cost_of(stage: Stage, rates: Rates) -> tuple[float, float, str]:
    """CPU-seconds of an epoch or of the whole closed form, the unavoidable share of them, and the unit."""
    if stage.solve is not None:
        start = time.process_time()
        stage.solve()
        spent = time.process_time() - start
        return spent, closed_form_floor(stage, rates) / spent, "cpu_s"
    spent, share = epoch(stage, rates)
    return spent, share, "cpu_s/epoch"


def epoch(stage: Stage, rates: Rates) -> tuple[float, float]:
    """CPU-seconds of one epoch of steps, scaled from a sample, and the unavoidable share of some of these."""
    model, recipe = stage.module.train(), stage.recipe
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    batches = list(stage.data.batched(recipe.batch_size, 0, samples=recipe.samples).train_dataloader())

    def step(batch: SequenceBatch) -> None:
        optimizer.zero_grad()
        model.loss(batch).backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()

    batches.sort(key=lambda batch: batch.history.shape[1])
    step(batches[0])
    first = cpu_seconds(step, batches[len(batches) // 2])
    chosen = spread(batches, int(np.clip(BUDGET_S / first, NUM_COUNTED, NUM_STEPS)))
    spent = [cpu_seconds(step, batch) for batch in chosen]
    counted = spread(range(len(chosen)), NUM_COUNTED)
    with Work() as work:
        for place in counted:
            step(chosen[place])
    share = work.floor(rates) / sum(spent[place] for place in counted)
    return float(np.mean(spent)) * len(batches), share


def evaluation(model: Recommender, data: InteractionData, rates: Rates) -> tuple[float, float]:
    """Users per CPU-second of full ranking, batches included, and the unavoidable share of that."""
    num_users = len(data.evaluated("test"))
    with torch.no_grad():
        ready = cpu_seconds(lambda _: model.eval(), None)  # some make their item vectors here, once
        batches = list(data.test_dataloader())
        chosen = spread(batches, NUM_EVALUATED)
        few = cpu_seconds(model.target_ranks, chosen[0].rows(slice(FEW)))
        if few / FEW * sum(map(len, chosen)) > BUDGET_S:
            chosen = [batch.rows(slice(FEW)) for batch in chosen]
        spent = [cpu_seconds(model.target_ranks, batch) for batch in chosen]
        with Work() as work:
            for batch in chosen:
                model.target_ranks(batch)
    scale = num_users / sum(map(len, chosen))
    seconds = ready + scale * sum(spent)
    return num_users / seconds, scale * work.floor(rates) / seconds


def closed_form_floor(stage: Stage, rates: Rates) -> float:
    """Seconds of what a closed form cannot do without."""
    sequences, num_items = stage.data.train_sequences(), stage.data.catalog.num_items
    match type(stage.module).__name__:
        case "EASE":  # the inverse of a symmetric matrix by Cholesky
            return num_items**3 / rates.single
        case "ItemKNN":  # an index and a number per pair of items of a user
            return 8 * float((sequences.lengths**2).sum()) / rates.bytes
        case _:  # counting reads every interaction
            return sequences.items.nbytes / rates.bytes


def spread(ordered: Sequence[T], count: int) -> list[T]:
    """`count` of them, or all, evenly spaced: the middle of every part."""
    count = min(count, len(ordered))
    return [ordered[(2 * part + 1) * len(ordered) // (2 * count)] for part in range(count)]


def cpu_seconds(work: Callable[[T], object], given: T) -> float:
    """Of one call."""
    start = time.process_time()
    work(given)
    return time.process_time() - start
