"""Export: what a device needs of a trained method, as one ONNX file that is checked and timed.

The graph serves one user: it takes the history, 0-padded on the left to a fixed length, what must not be
shown, and where the method reads them the times, the user's index, or weights that a cloud sent; it returns
the best items and their scores. Item table and encoder are in it, nothing else. B users, L history, N items,
S seen items.
"""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench import latency
from recbench.data.batch import SequenceBatch
from recbench.edge.messages import Parameters, decode, encode
from recbench.edge.parameters import Personal, PersonalBrain, stacked
from recbench.errors import DataError, UsageError
from recbench.models.base import Scorer
from recbench.models.collaborative import Collaborative
from recbench.nn.ranking import best_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender
    from recbench.results import Latency

MUST_AGREE = 0.999  # share of users for whom a float graph has to find what torch finds
_CLOSE = 1e-4  # scores nearer than this, relatively, are a tie that rounding may break either way


class Figures(NamedTuple):
    """One form of the device's part.

    Args:
        name: torch, onnx float, onnx int8.
        megabytes: of the file, of torch the tensors.
        cold_ms: from the file to the first answer; None for torch, whose start is the whole package's.
        latency: of one request.
        agreement: share of users who get the same top k as from torch, in the same order.
        overlap: share of torch's top k that is in its own, mean over users.
    """

    name: str
    megabytes: float
    cold_ms: float | None
    latency: Latency
    agreement: float
    overlap: float


class DeviceNet(nn.Module):
    """Scores, bars and picks: the part of a method that runs on the device, as a function of tensors.

    Args:
        model: scores all items.
        names: of the inputs: `history`, then any of `seen`, `times`, `users`, and the places for weights.
        k: how many items.
    """

    def __init__(self, model: Scorer | Personal, names: Sequence[str], *, k: int) -> None:
        super().__init__()
        self.model, self.names, self.k = model, tuple(names), k

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, k) items and scores, best first."""
        given = dict(zip(self.names, inputs, strict=True))
        history = given.pop("history")
        nobody = history.new_zeros(len(history))
        seen, times = given.pop("seen", None), given.pop("times", None)
        batch = SequenceBatch(given.pop("users", nobody), history, nobody, times=times, seen=seen)
        if isinstance(self.model, Personal):
            scores = self.model.score(batch, given)
        else:
            scores = self.model.score(batch)
        best = best_of(scores, self.k, seen=seen)
        return best.items, best.scores


def export(
    model: Recommender,
    data: InteractionData,
    file: Path,
    *,
    int8: bool = False,
    k: int = 10,
    num_users: int = 1000,
) -> list[Figures]:
    """Write the device's part of a trained method to `file`, and with `int8` beside it with small integers.

    Args:
        model: trained.
        data: whose users it is checked with.
        file: where; the int8 graph goes to `<stem>.int8.onnx`.
        int8: whether matrices are also quantised.
        k: length of the list.
        num_users: how many are compared.

    Raises:
        UsageError: the device's part scores no items, no graph can hold it, or a package is missing.
        DataError: the float graph disagrees with torch.
    """
    _need_packages()
    users = data.users("known")
    chosen = np.sort(np.random.default_rng(0).permutation(users)[:num_users])
    with torch.inference_mode(mode=False), torch.no_grad():
        device = _device_model(model.eval())
        requests = _requests(model, data, chosen)
        net = DeviceNet(device, list(requests), k=k).eval()
        names = _write(net, requests, file, title=type(model).__name__)
        found = [_figures_of_torch(net, requests)]
        found.append(_figures_of_graph("onnx float", file, net, requests, names))
        if found[-1].agreement < MUST_AGREE:
            share = f"{found[-1].agreement:.2%} of {len(chosen)} users"
            raise DataError(f"{file}: the graph finds what torch finds for {share} only; do not ship it")
        if int8:
            small = file.with_suffix(".int8.onnx")
            _quantise(file, small)
            found.append(_figures_of_graph("onnx int8", small, net, requests, names))
    return found


def _device_model(model: Recommender) -> Scorer | Personal:
    side = model.sides()["device"] if isinstance(model, Collaborative) else model
    if isinstance(side, Scorer | Personal):
        return side
    name = type(model).__name__
    raise UsageError(
        f"{name} cannot be exported: its part on the device is {type(side).__name__}, which scores no items; "
        "export a method that scores all of them, such as sasrec"
    )


def _requests(model: Recommender, data: InteractionData, users: NDArray[np.int64]) -> dict[str, Tensor]:
    """(B, ...) what the graph is given for each user now."""
    batch = data.request(users, back=0)
    if batch.allowed is not None:
        raise UsageError(f"{data.name}: which items compete depends on distance, which the graph knows not")
    found = {"history": _wide(batch.history, data.max_len)}
    if batch.seen is not None:
        found["seen"] = batch.seen
    if batch.times is not None:
        found["times"] = _wide(batch.times, data.max_len)
    found["users"] = batch.users
    if isinstance(model, Collaborative) and isinstance(brain := model.device_side(), PersonalBrain):
        frames = [encode(question) for question in brain.ask(batch, [""] * len(batch))]
        replies = [decode(frame) for frame in model.cloud_side().handle(frames)]
        found |= stacked([reply for reply in replies if isinstance(reply, Parameters)])
    return found


def _wide(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (length - x.shape[1], 0))


def _write(net: DeviceNet, requests: dict[str, Tensor], file: Path, *, title: str) -> tuple[str, ...]:
    """Export with the first user as the example; returns the inputs that the graph uses."""
    import onnx

    example = tuple(value[:1].clone() for value in requests.values())
    widths = {name: {1: torch.export.Dim("num_seen", min=1)} if name == "seen" else None for name in requests}
    try:
        with _quiet():
            program = torch.onnx.export(
                net,
                example,
                input_names=list(requests),
                output_names=["items", "scores"],
                dynamic_shapes=(tuple(widths.values()),),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
    except Exception as error:  # the exporter raises whatever its many layers raise
        raise UsageError(f"{title} cannot be exported: {_reason(error)}") from None
    graph = program.model_proto
    names = _drop_unused(graph)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, file)
    return names


def _reason(error: BaseException) -> str:
    """The first line of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _drop_unused(graph: Any) -> tuple[str, ...]:
    """Take inputs that no node reads out of the graph; the names of the others, in order."""
    read = {name for node in graph.graph.node for name in node.input}
    for value in [value for value in graph.graph.input if value.name not in read]:
        graph.graph.input.remove(value)
    return tuple(value.name for value in graph.graph.input)


def _quantise(file: Path, small: Path) -> None:
    """Matrices to 8 bits per number, activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(file, small, weight_type=QuantType.QInt8)


def _figures_of_torch(net: DeviceNet, requests: dict[str, Tensor]) -> Figures:
    rows = [tuple(value[i : i + 1] for value in requests.values()) for i in range(len(requests["history"]))]
    spent = latency.measure(lambda i: net(*rows[i % len(rows)]))
    num_bytes = sum(value.nbytes for value in {id(v): v for v in net.state_dict().values()}.values())
    return Figures("torch", num_bytes / 1e6, None, spent, 1.0, 1.0)


def _figures_of_graph(
    name: str, file: Path, net: DeviceNet, requests: dict[str, Tensor], inputs: tuple[str, ...]
) -> Figures:
    columns = {key: value.numpy() for key, value in requests.items() if key in inputs}
    feeds = [
        {key: value[i : i + 1] for key, value in columns.items()} for i in range(len(requests["history"]))
    ]
    start = time.perf_counter()
    session = _session(file)
    session.run(None, feeds[0])
    cold_ms = 1000 * (time.perf_counter() - start)
    listed = np.concatenate([session.run(["items"], feed)[0] for feed in feeds])
    spent = latency.measure(lambda i: session.run(None, feeds[i % len(feeds)]))
    is_same, overlap = _compare(net, requests, torch.from_numpy(listed))
    agreement, shared = float(is_same.double().mean()), float(overlap.double().mean())
    return Figures(name, file.stat().st_size / 1e6, cold_ms, spent, agreement, shared)


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _compare(net: DeviceNet, requests: dict[str, Tensor], listed: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) whether each list is torch's but for what torch scores alike; (B,) the share both have."""
    everything = DeviceNet(net.model, net.names, k=1 << 30)
    is_same, overlap = [], []
    for i in range(0, len(listed), 256):
        rows = slice(i, i + 256)
        items, scores = everything(*(value[rows] for value in requests.values()))
        of_item = torch.full((len(items), items.shape[1] + 1), -torch.inf).scatter(1, items, scores)
        theirs, ours = of_item.gather(1, listed[rows]), scores[:, : net.k]
        near = (theirs - ours).abs() <= _CLOSE * ours.abs().clamp_min(1e-3)
        is_same.append((near | (theirs == ours)).all(1))
        wanted = items[:, : net.k]
        both = (wanted[:, :, None] == listed[rows, None]).any(2) & (wanted != 0)
        overlap.append(both.sum(1) / (wanted != 0).sum(1).clamp_min(1))
    return torch.cat(is_same), torch.cat(overlap)


def _need_packages() -> None:
    try:
        import onnx  # noqa: F401 - told here, not halfway
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("exporting needs ONNX: pip install 'recbench-suite[export]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says of itself is of no use to whoever exports."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in (*loggers, logging.getLogger())]
    for logger in (*loggers, logging.getLogger()):
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip((*loggers, logging.getLogger()), before, strict=True):
            logger.setLevel(level)
