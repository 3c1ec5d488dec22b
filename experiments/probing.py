"""A policy that only looks: how much every request would want a fresh answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recbench.edge.policy import Policy, State

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Probe(Policy):
    """Asks nothing, and notes how much everybody would want to."""

    def __init__(self) -> None:
        self.scores: list[NDArray[np.float64]] = []

    def decide(self, state: State) -> NDArray[np.bool_]:
        """No."""
        self.scores.append(state.score())
        return np.zeros(len(state.users), dtype=bool)
