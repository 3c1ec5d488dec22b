"""From a function of tensors to an ONNX file, and from there to small integers."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from recbench.errors import UsageError
from recbench.export import shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from recbench.export.nets import Net


def need_packages() -> None:
    """Refuse to begin what cannot be ended.

    Raises:
        UsageError: a package of the extra `export` is missing.
    """
    try:
        import onnx  # noqa: F401 - told here, not halfway
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("exporting needs ONNX: pip install 'recbench-suite[export]'") from None


def traced(net: Net, requests: dict[str, Tensor], *, title: str) -> Any:
    """The net as an `onnx.ModelProto`, of the first user's request; inputs that it does not read are gone.

    Args:
        net: in evaluation mode.
        requests: (B, ...) by the names of the net's inputs.
        title: what it is a part of, for complaints.

    Raises:
        UsageError: no graph can hold it.
    """
    example = tuple(requests[name][:1].clone() for name in net.inputs)
    num_seen = torch.export.Dim("num_seen", min=1)
    widths = tuple({1: num_seen} if name == "seen" else None for name in net.inputs)
    try:
        with quiet():
            program = torch.onnx.export(
                net,
                example,
                input_names=list(net.inputs),
                output_names=list(net.outputs),
                dynamic_shapes=(widths,),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
    except Exception as error:  # the exporter raises whatever its many layers raise
        raise UsageError(f"{title} cannot be exported: {_reason(error)}") from None
    graph = program.model_proto
    _drop_unused(graph)
    return graph


def inputs_of(graph: Any) -> tuple[str, ...]:
    """Names of what it is given."""
    return tuple(value.name for value in graph.graph.input)


def save(graph: Any, file: Path, *, num_items: int, shard: int) -> list[Path]:
    """Write it, the item table in shards of `shard` rows beside it or, at 0, in it; all files.

    Args:
        graph: an `onnx.ModelProto` with all its data in it; is changed.
        file: where.
        num_items: N.
        shard: rows, or 0.
    """
    import onnx

    file.parent.mkdir(parents=True, exist_ok=True)
    beside = shards.cut(graph, file, num_items=num_items, rows=shard) if shard else []
    onnx.save(graph, file)
    return [file, *beside]


def quantise(graph: Any, small: Path) -> None:
    """Write it with matrices of 8 bits per number, activations at run time.

    Args:
        graph: an `onnx.ModelProto` with all its data in it.
        small: where.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(graph, small, weight_type=QuantType.QInt8)


def _reason(error: BaseException) -> str:
    """The first line of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _drop_unused(graph: Any) -> None:
    """Take inputs that no node reads out of the graph."""
    read = {name for node in graph.graph.node for name in node.input}
    for value in [value for value in graph.graph.input if value.name not in read]:
        graph.graph.input.remove(value)


@contextmanager
def quiet() -> Iterator[None]:
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
