"""A graph beside torch: whether it recommends the same, how large and how fast it is. B users."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from recbench import latency

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from recbench.export.nets import Net
    from recbench.results import Latency

_CLOSE = 1e-4  # scores nearer than this, relatively, are a tie that rounding may break either way


class Figures(NamedTuple):
    """One form of the device's part.

    Args:
        name: torch, onnx float, onnx int8, and which graph if there are several.
        megabytes: of the files, of torch the tensors.
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


def of_torch(name: str, net: Net, requests: dict[str, Tensor]) -> Figures:
    """Those of the net itself.

    Args:
        name: what to call them.
        net: in evaluation mode.
        requests: (B, ...) by the names of the net's inputs.
    """
    columns = [requests[key] for key in net.inputs]
    rows = [tuple(value[i : i + 1] for value in columns) for i in range(len(requests["history"]))]
    spent = latency.measure(lambda i: net(*rows[i % len(rows)]))
    num_bytes = sum(value.nbytes for value in {id(v): v for v in net.state_dict().values()}.values())
    return Figures(name, num_bytes / 1e6, None, spent, 1.0, 1.0)


def of_graph(
    name: str, files: Sequence[Path], net: Net, requests: dict[str, Tensor], inputs: tuple[str, ...]
) -> Figures:
    """Those of a graph that was made of the net.

    Args:
        name: what to call them.
        files: the graph, then what lies beside it.
        net: in evaluation mode.
        requests: (B, ...) by the names of the net's inputs.
        inputs: what of these the graph reads.
    """
    columns = {key: value.numpy() for key, value in requests.items() if key in inputs}
    feeds = [
        {key: value[i : i + 1] for key, value in columns.items()} for i in range(len(requests["history"]))
    ]
    start = time.perf_counter()
    session = _session(files[0])
    session.run(None, feeds[0])
    cold_ms = 1000 * (time.perf_counter() - start)
    found = [session.run(None, feed) for feed in feeds]
    columns_out = [torch.from_numpy(np.concatenate(column)) for column in zip(*found, strict=True)]
    spent = latency.measure(lambda i: session.run(None, feeds[i % len(feeds)]))
    is_same, overlap = compare(net, requests, dict(zip(net.outputs, columns_out, strict=True)))
    agreement, shared = float(is_same.double().mean()), float(overlap.double().mean())
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    return Figures(name, megabytes, cold_ms, spent, agreement, shared)


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def compare(net: Net, requests: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Whether a graph says what torch says.

    Args:
        net: in torch.
        requests: (B, ...) by the names of its inputs.
        found: (B, ...) by the names of its outputs, what the graph said.

    Returns:
        (B,) whether each list is torch's but for what torch scores alike, and the need of a fresh one is;
        (B,) the share of torch's list that is in the graph's.
    """
    everything, k = net.longer(1 << 30), found["items"].shape[1]
    is_same, overlap = [], []
    for i in range(0, len(found["items"]), 256):
        rows = slice(i, i + 256)
        said = dict(zip(net.outputs, everything(*(requests[name][rows] for name in net.inputs)), strict=True))
        items, scores, listed = said["items"], said["scores"], found["items"][rows]
        of_item = torch.full((len(items), int(items.max()) + 1), -torch.inf).scatter(1, items, scores)
        is_known = listed < of_item.shape[1]
        theirs = of_item.gather(1, listed.where(is_known, 0)).where(is_known, -torch.inf)
        ours = scores[:, :k]
        near = (theirs - ours).abs() <= _CLOSE * ours.abs().clamp_min(1e-3)
        alike = (near | (theirs == ours)).all(1)
        if "need" in said:
            alike &= (said["need"] - found["need"][rows]).abs() <= _CLOSE
        is_same.append(alike)
        wanted = items[:, :k]
        both = (wanted[:, :, None] == listed[:, None]).any(2) & (wanted != 0)
        overlap.append(both.sum(1) / (wanted != 0).sum(1).clamp_min(1))
    return torch.cat(is_same), torch.cat(overlap)
