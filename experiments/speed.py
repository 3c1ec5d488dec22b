"""How fast, beside what, and how far from the machine's limit: one JSON line per figure.

    python experiments/speed.py                                  # the figures that take seconds
    python experiments/speed.py train/sasrec-10min               # ten minutes of training
    python experiments/speed.py methods                          # a row per method, one core, some minutes
    python experiments/speed.py decode/beam20 edge/exchange      # writing items; crossing the boundary
    python experiments/speed.py method/sasrec                    # one of these rows

Every figure is measured in one run beside what it is compared with (`versus`) and beside its floor: the
operations it cannot do without over the matrix rate measured here, or the smallest work that does the same.
P positions, N items, D width, U users.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
import yaml
from measuring import line, matrix_rate, timed
from speed_methods import cells, methods

from recbench import runtime
from recbench.config import folder as configs
from recbench.data import prepare, raw
from recbench.data.module import InteractionData
from recbench.data.public import DATA_SETS
from recbench.evaluate import evaluate
from recbench.metrics import means
from recbench.models import SASRec
from recbench.models.base import Recipe
from recbench.nn.losses import FullSoftmax, Loss, SampledSoftmax
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from measuring import Figure

    from recbench.data.batch import SequenceBatch


class PlainSoftmax(Loss):
    """What one writes first: all scores, then PyTorch's cross entropy."""

    def compare(self, hidden: torch.Tensor, target: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Cross entropy over items 1..N."""
        return F.cross_entropy(hidden @ table[1:].T, target - 1)


def sasrec(data: InteractionData, loss: Loss) -> SASRec:
    """The model that the peers' published times are for: width 64, two blocks."""
    torch.manual_seed(0)
    model = SASRec(dim=64, num_layers=2, num_heads=1, hidden=256, loss=loss, recipe=Recipe())
    model.build(data.catalog)
    return model.train()


def epoch_seconds(data: InteractionData, loss: Loss, *, pad_to: int = 0, share: float = 1.0) -> float:
    """Seconds of one epoch of steps, optimiser included; measured on a `share` of the batches and scaled."""
    model = sasrec(data, loss)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batches = list(data.batched(256, 0).train_dataloader())
    batches = [padded(batch, pad_to) for batch in batches[: max(1, int(share * len(batches)))]]
    num_all = len(data.train_dataloader())

    def steps() -> None:
        for batch in batches:
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()

    return timed(steps, repeats=2) * num_all / len(batches)


def padded(batch: SequenceBatch, length: int) -> SequenceBatch:
    """The same batch with histories of at least `length` columns."""
    missing = max(0, length - batch.history.shape[1])
    return dataclasses.replace(batch, history=F.pad(batch.history, (missing, 0)))


def training_floor(data: InteractionData, num_scored: int) -> float:
    """Seconds of one epoch's products, forward and twice backward: encoder float32, catalogue bfloat16."""
    num_positions = sum(int((batch.history != 0).sum()) for batch in data.batched(256, 0).train_dataloader())
    dim, hidden, num_layers = 64, 256, 2
    encoder = 3 * 2 * num_positions * num_layers * (4 * dim**2 + 2 * dim * hidden)
    catalogue = 3 * 2 * num_positions * num_scored * dim
    return encoder / matrix_rate(torch.float32) + catalogue / matrix_rate(torch.bfloat16)


def train_full() -> list[Figure]:
    """One epoch on Beauty with softmax over the whole catalogue."""
    data = InteractionData("beauty")
    value = epoch_seconds(data, FullSoftmax())
    versus = {
        "float32": round(epoch_seconds(data, FullSoftmax(half=False), share=0.3), 2),
        "plain_cross_entropy": round(epoch_seconds(data, PlainSoftmax(), share=0.3), 2),
        "padded_to_50": round(epoch_seconds(data, FullSoftmax(), pad_to=50, share=0.3), 2),
    }
    floor = training_floor(data, data.catalog.num_items)
    return [line("train/sasrec-full", value, "s/epoch", versus=versus, floor_ratio=round(value / floor, 2))]


def train_sampled() -> list[Figure]:
    """One epoch on Beauty with 256 shared negatives."""
    data = InteractionData("beauty")
    value = epoch_seconds(data, SampledSoftmax(num_negatives=256))
    versus = {
        "512_negatives": round(epoch_seconds(data, SampledSoftmax(num_negatives=512)), 2),
        "padded_to_50": round(epoch_seconds(data, SampledSoftmax(), pad_to=50, share=0.3), 2),
    }
    floor = training_floor(data, 256)
    return [
        line("train/sasrec-sampled", value, "s/epoch", versus=versus, floor_ratio=round(value / floor, 2))
    ]


def full_ranking() -> list[Figure]:
    """All Beauty users against all items: beside the bare product and one pass over its scores."""
    data = InteractionData("beauty")
    model = sasrec(data, FullSoftmax()).eval()
    with torch.inference_mode():
        users = torch.cat([model.encode(batch) for batch in data.test_dataloader()])
        table = model.item_vectors().T

        def encode() -> None:
            for batch in data.test_dataloader():
                model.encode(batch)

        def bare() -> None:
            for block in users.split(model.rows_per_block):
                (block @ table).sum(1)

        # a tenth of a second is at the mercy of whatever else the machine does: many repeats of each
        floor, encoding = timed(bare, repeats=12), timed(encode, repeats=12)
        value = timed(lambda: evaluate(model, data), repeats=12)
    versus = {"product_and_one_pass": round(floor, 3), "batches_and_encoder": round(encoding, 3)}
    ratio = round((value - encoding) / floor, 2)
    return [line("eval/full-ranking", value, "s", versus=versus, floor_ratio=ratio)]


def prepare_sports() -> list[Figure]:
    """Sports from its raw text to the prepared tables: beside merely unpacking the text."""
    data_set = DATA_SETS["sports"]
    found = raw.find(data_set.sequences)
    packed = gzip.compress(found.content) if found else b""
    unpack = timed(lambda: gzip.decompress(packed))
    value = timed(lambda: prepare.prepare("sports"))
    return [
        line(
            "data/prepare",
            value,
            "s",
            versus={"unpack": round(unpack, 4)},
            floor_ratio=round(value / unpack, 1),
        )
    ]


def ten_minutes() -> list[Figure]:
    """The shipped SASRec preset on Beauty for ten minutes.

    Test metrics are read after every epoch for this curve alone, off the clock; nothing is chosen by them.
    """
    curve = watched().curve(InteractionData("beauty"), minutes=10)
    seconds, hr, ndcg = curve[-1]
    return [line("train/sasrec-10min", ndcg, "ndcg@10", hr10=hr, seconds=seconds, curve=curve)]


def time_to() -> list[Figure]:
    """When SASRec on Beauty passes published figures: the preset at half its width, twice its rate."""
    model = watched(dim=64, num_heads=2, dropout=0.5, lr=2e-3, max_epochs=14)
    curve = model.curve(InteractionData("beauty"), minutes=2.5)
    marks = {"s3rec_readme .0605/.0318": (0.0605, 0.0318), "replay .0787/.0438": (0.0787, 0.0438)}
    passed = {
        name: next((s for s, hr, ndcg in curve if hr >= marks[name][0] and ndcg >= marks[name][1]), None)
        for name in marks
    }
    first = next((value for value in passed.values() if value), None)
    return [line("train/sasrec-time-to", first or float("inf"), "s", versus=passed, curve=curve)]


def watched(**changed: Any) -> Watched:
    """The shipped preset with some of its options, or of its recipe's, changed."""
    preset = yaml.safe_load((configs() / "model" / "sasrec.yaml").read_text())["init_args"]
    recipe = preset.pop("recipe")
    recipe |= {key: changed.pop(key) for key in set(changed) & set(recipe)}
    options = {key: value for key, value in preset.items() if key != "loss"} | changed
    torch.manual_seed(0)
    return Watched(**options, loss=FullSoftmax(), recipe=Recipe(**recipe))


class Watched(SASRec):
    """SASRec that notes its test metrics after every epoch, off the clock."""

    def curve(self, data: InteractionData, *, minutes: float) -> list[tuple[float, float, float]]:
        """(training seconds, HR@10, NDCG@10) of each epoch."""
        self.build(data.catalog)
        self._points: list[tuple[float, float, float]] = []
        self._data, self._off_clock, self._start = data, 0.0, time.perf_counter()
        options = TrainerOptions(progress=False, max_minutes=minutes)
        with tempfile.TemporaryDirectory() as scratch:
            for stage in self.stages(data):
                train(stage, Path(scratch), options, seed=0, resume=False, logger=None)
        return self._points

    def on_train_epoch_end(self) -> None:
        """Read the test metrics."""
        pause = time.perf_counter()
        found = means(evaluate(self, self._data).ranks)
        self.train()
        seconds = round(pause - self._start - self._off_clock, 1)
        self._points.append((seconds, round(found["hr@10"], 4), round(found["ndcg@10"], 4)))
        self._off_clock += time.perf_counter() - pause


def decoding(num_beams: int) -> Iterator[Figure]:
    """Beam search over item codes beside transformers' own (see `decode.py`); one thread."""
    import decode  # needs the extra llm, which other figures do not

    torch.set_num_threads(1)
    with torch.inference_mode():
        yield decode.figure(num_beams)


def boundary(name: str) -> Iterator[Figure]:
    """What the device-cloud boundary itself costs (see `edge_cost.py`); one thread."""
    import edge_cost

    torch.set_num_threads(1)
    yield edge_cost.exchange() if name == "exchange" else edge_cost.evaluation(num_items=12_000)


FIGURES: dict[str, Callable[[], Iterable[Figure]]] = {
    "train/sasrec-sampled": train_sampled,
    "train/sasrec-full": train_full,
    "eval/full-ranking": full_ranking,
    "data/prepare": prepare_sports,
    "train/sasrec-10min": ten_minutes,
    "train/sasrec-time-to": time_to,
    "decode/beam20": partial(decoding, 20),
    "decode/beam50": partial(decoding, 50),
    "edge/exchange": partial(boundary, "exchange"),
    "edge/evaluation": partial(boundary, "evaluation"),
    "methods": methods,
    **{name: partial(methods, [name]) for name in reversed(cells())},
}
QUICK = ("train/sasrec-sampled", "train/sasrec-full", "eval/full-ranking", "data/prepare")


def main(names: list[str]) -> None:
    """Print the figures named, or the quick ones."""
    unknown = set(names) - set(FIGURES)
    if unknown:
        raise SystemExit(f"unknown figures {sorted(unknown)}; known: {', '.join(FIGURES)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    runtime.keep_freed_memory()
    for measure in dict.fromkeys(FIGURES[name] for name in names or QUICK):
        for figure in measure():
            print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
