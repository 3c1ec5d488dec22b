"""What a device must know beside the graph, as JSON in the file's metadata under `recbench`.

Whose indices it speaks, how long its inputs are, and where a cloud is to be asked: when, how often, how long
to wait, for what, and which version an answer must have.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from recbench.edge.policy import Always
from recbench.edge.reranker import Reranker
from recbench.models.collaborative import Collaborative, catalog_version

if TYPE_CHECKING:
    from pathlib import Path

    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender

KEY = "recbench"


def card(model: Recommender, data: InteractionData, *, k: int) -> dict[str, Any]:
    """The card of the device's part of a trained method.

    Args:
        model: trained.
        data: whose items it knows.
        k: length of the list it gives.
    """
    found: dict[str, Any] = {
        "method": type(model).__name__,
        "data": data.prepared.name,
        "catalog": catalog_version(data.catalog),
        "num_items": data.catalog.num_items,
        "max_len": data.max_len,
        "k": k,
    }
    if not isinstance(model, Collaborative):
        return found
    brain, boundary = model.device_side(), model.boundary
    policy = (boundary.policy or Always()).described()
    found |= {
        "version": brain.version,
        "expects": brain.expects.__name__,
        "policy": {name: "inf" if value == math.inf else value for name, value in policy.items()},
        "deadline_ms": boundary.deadline_ms,
        "num_tries": boundary.num_tries,
    }
    return found | ({"num_listed": brain.num_listed} if isinstance(brain, Reranker) else {})


def threshold_of(model: Collaborative) -> float:
    """The need from which the method's devices ask; infinity where it is not the need that decides."""
    return float((model.boundary.policy or Always()).described().get("threshold", math.inf))


def attach(content: dict[str, Any], file: Path) -> None:
    """Write the card into a graph that lies in a file; data beside it stays there."""
    import onnx

    graph = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(graph, {KEY: json.dumps(content, allow_nan=False)})
    onnx.save(graph, file)
