"""Tuning on the validation split with Optuna: the same number of trials for every method, resumable.

A study is a journal file below its folder, named after everything that decides its outcome. A trial is one
training, judged by validation NDCG@10; the test targets are out of reach. A study that was stopped ends as an
unbroken one.
"""

from recbench.tuning.journal import OBJECTIVE, Outcome, search
from recbench.tuning.space import Space, described, given, holding, options_of, read_space, with_options
from recbench.tuning.study import Study

__all__ = [
    "OBJECTIVE",
    "Outcome",
    "Space",
    "Study",
    "described",
    "given",
    "holding",
    "options_of",
    "read_space",
    "search",
    "with_options",
]
