"""Export: what a device needs of a trained method, as ONNX files that are checked and timed.

A graph serves one user: it takes the history, 0-padded on the left to a fixed length, what must not be shown,
and where the method reads them the times, the user's index, or weights that a cloud sent; it returns the best
items and their scores. Encoder and item table are in it, or the table lies beside it in fixed shards. A
method whose cloud lists has a second graph, which takes such a list too, and returns also how much a fresh
one is needed and whether to ask for it. When else to ask, and whom to believe, is on a card in the file.
B users, L history, N items, S seen items, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from recbench.edge import lists
from recbench.edge.messages import Candidates, Parameters, decode, encode
from recbench.edge.parameters import Personal, PersonalBrain, stacked
from recbench.edge.reranker import Reranker
from recbench.errors import DataError, UsageError
from recbench.export import graph
from recbench.export.card import attach, card, threshold_of
from recbench.export.check import Figures, of_graph, of_torch
from recbench.export.nets import LISTED, LISTED_SCORES, DeviceNet, ListNet, Net
from recbench.models.base import Scorer
from recbench.models.collaborative import Collaborative

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.module import InteractionData
    from recbench.edge.messages import Message
    from recbench.models.base import Recommender

__all__ = ["MUST_AGREE", "Figures", "Form", "export"]

MUST_AGREE = 0.999  # share of users for whom a float graph has to find what torch finds


@dataclass(frozen=True)
class Form:
    """How the files are written.

    Args:
        int8: whether matrices are also quantised.
        shard: rows of a shard of the item table, which then lies beside the float graph; 0 for none.
        k: length of the list.
    """

    int8: bool = False
    shard: int = 0
    k: int = 10

    def __post_init__(self) -> None:
        if self.shard < 0:
            raise UsageError(f"--shard {self.shard}: rows of a shard, or 0 for the whole table in one file")


def export(
    model: Recommender, data: InteractionData, file: Path, *, form: Form = Form(), num_users: int = 1000
) -> list[Figures]:
    """Write the device's part of a trained method to `file`, and what belongs to it beside that.

    With `int8` matrices of small integers go to `<stem>.int8.onnx`; the graph for a cloud's list goes to
    `<stem>.list.onnx`, shards of the item table to `<stem>.items-0000.bin` and on.

    Args:
        model: trained.
        data: whose users it is checked with.
        file: where.
        form: how.
        num_users: how many are compared.

    Raises:
        UsageError: the device's part scores no items, no graph can hold it, or a package is missing.
        DataError: a float graph disagrees with torch.
    """
    graph.need_packages()
    chosen = np.sort(np.random.default_rng(0).permutation(data.users("known"))[:num_users])
    found = []
    with torch.inference_mode(mode=False), torch.no_grad():
        about = card(model.eval(), data, k=form.k)
        for name, net, requests in _nets(model, data, chosen, k=form.k):
            path = file.with_suffix(f".{name}.onnx") if name else file
            found += _written(net, requests, path, form, about, title=type(model).__name__, name=name)
    return found


def _written(
    net: Net,
    requests: dict[str, Tensor],
    file: Path,
    form: Form,
    about: dict[str, Any],
    *,
    title: str,
    name: str,
) -> list[Figures]:
    """One net in all its forms."""
    ending = f", {name}" if name else ""
    made = graph.traced(net, requests, title=title)
    inputs = graph.inputs_of(made)
    found = [of_torch(f"torch{ending}", net, requests)]
    small = file.with_suffix(".int8.onnx")
    if form.int8:
        graph.quantise(made, small)
    files = graph.save(made, file, num_items=about["num_items"], shard=form.shard)
    attach(about, file)
    found.append(of_graph(f"onnx float{ending}", files, net, requests, inputs))
    if found[-1].agreement < MUST_AGREE:
        share = f"{found[-1].agreement:.2%} of {len(requests['history'])} users"
        raise DataError(f"{file}: the graph finds what torch finds for {share} only; do not ship it")
    if form.int8:
        attach(about, small)
        found.append(of_graph(f"onnx int8{ending}", [small], net, requests, inputs))
    return found


def _nets(
    model: Recommender, data: InteractionData, users: NDArray[np.int64], *, k: int
) -> Iterator[tuple[str, Net, dict[str, Tensor]]]:
    """What becomes a graph: its name, empty for the first; (B, ...) what it is given for each user now."""
    device = _device_model(model)
    requests, replies = _requests(model, data, users)
    brain = model.device_side() if isinstance(model, Collaborative) else None
    if isinstance(brain, PersonalBrain):
        sent = [reply for reply in replies if isinstance(reply, Parameters)]
        if len(sent) < len(users):
            raise UsageError(
                f"{type(model).__name__} cannot be exported: its cloud sends no weights, the device learns "
                "them at every request, which no graph does; export its base, such as sasrec"
            )
        requests |= stacked(sent)
    yield "", DeviceNet(device, list(requests), k=k).eval(), requests
    if isinstance(brain, Reranker) and isinstance(model, Collaborative):
        if brain.own_steps.num_steps:
            raise UsageError(
                f"{type(model).__name__} learns from its user before it ranks a list, which no graph does; "
                "train it with --model.own_steps 0"
            )
        items, scores = lists.stacked([reply for reply in replies if isinstance(reply, Candidates)])
        missing = (0, brain.num_listed - items.shape[1])
        given = requests | {
            LISTED: F.pad(items, missing),
            LISTED_SCORES: F.pad(scores, missing, value=-torch.inf),
        }
        how = {"num_items": brain.num_items, "fusion": brain.fusion, "alpha": brain.alpha}
        net = ListNet(brain.model, list(given), k=k, threshold=threshold_of(model), **how)  # type: ignore[arg-type]
        yield "list", net.eval(), given


def _device_model(model: Recommender) -> Scorer | Personal:
    side = model.sides()["device"] if isinstance(model, Collaborative) else model
    if isinstance(side, Scorer | Personal):
        return side
    name = type(model).__name__
    raise UsageError(
        f"{name} cannot be exported: its part on the device is {type(side).__name__}, which scores no items; "
        "export a method that scores all of them, such as sasrec"
    )


def _requests(
    model: Recommender, data: InteractionData, users: NDArray[np.int64]
) -> tuple[dict[str, Tensor], list[Message]]:
    """(B, ...) what is known of each user now; and what the cloud says to each, where there is one."""
    batch = data.request(users, back=0)
    if batch.allowed is not None:
        raise UsageError(f"{data.name}: which items compete depends on distance, which the graph knows not")
    found = {"history": _wide(batch.history, data.max_len)}
    if batch.seen is not None:
        found["seen"] = batch.seen
    if batch.times is not None:
        found["times"] = _wide(batch.times, data.max_len)
    found["users"] = batch.users
    if not isinstance(model, Collaborative):
        return found, []
    frames = [encode(question) for question in model.device_side().ask(batch, [""] * len(batch))]
    return found, [decode(frame) for frame in model.cloud_side().handle(frames)]


def _wide(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (length - x.shape[1], 0))
