"""The item table beside the graph, in fixed shards: a device fetches whole shards, never items of its user's.

Every initialiser with a row per item is cut into runs of equally many rows, the same for everybody. Those of
one run share a file, which the graph names as external data; the graph puts them together again when it is
loaded. N items; row 0 is padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recbench.results import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def cut(graph: Any, file: Path, *, num_items: int, rows: int) -> list[Path]:
    """Take what has a row per item out of an ONNX model, in place.

    Args:
        graph: an `onnx.ModelProto`, with all its data in it.
        file: where the model will be; shards go to `<stem>.items-0000.bin` and on beside it.
        num_items: N.
        rows: of a shard.

    Returns:
        The shards' files, in order; none where the model has nothing that is per item.
    """
    import onnx

    num_shards = -(-(num_items + 1) // rows)
    contents = [bytearray() for _ in range(num_shards)]
    files = [file.with_name(f"{file.stem}.items-{number:04d}.bin") for number in range(num_shards)]
    joins = []
    for tensor, axis, values in list(_tables(graph, num_items)):
        names = [f"{tensor.name}.items-{number:04d}" for number in range(num_shards)]
        pieces = np.split(values, range(rows, num_items + 1, rows), axis=axis)
        for name, piece, content, path in zip(names, pieces, contents, files, strict=True):
            graph.graph.initializer.append(_outside(name, piece, tensor.data_type, path.name, len(content)))
            content += np.ascontiguousarray(piece).tobytes()
        graph.graph.initializer.remove(tensor)
        joins.append(onnx.helper.make_node("Concat", names, [tensor.name], axis=axis))
    for node in reversed(joins):
        graph.graph.node.insert(0, node)
    if not joins:
        return []
    for path, content in zip(files, contents, strict=True):
        write_atomic(path, bytes(content))
    return files


def _tables(graph: Any, num_items: int) -> Iterator[tuple[Any, int, NDArray[Any]]]:
    """Initialisers with a row or a column per item: each, its axis of items, its values."""
    import onnx

    for tensor in graph.graph.initializer:
        if num_items + 1 in tensor.dims:
            yield tensor, list(tensor.dims).index(num_items + 1), onnx.numpy_helper.to_array(tensor)


def _outside(name: str, values: NDArray[Any], data_type: int, location: str, offset: int) -> Any:
    """An initialiser whose data lies in another file."""
    import onnx

    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=values.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": values.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
