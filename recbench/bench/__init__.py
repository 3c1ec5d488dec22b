"""The bench: a matrix of runs, each in its own process, resumable because a run with a record is done."""

from recbench.bench.plan import Cell, Plan, read_plan
from recbench.bench.runner import Bench, BenchFailedError, Job

__all__ = ["Bench", "BenchFailedError", "Cell", "Job", "Plan", "read_plan"]
