"""What P5 and POD are asked: the tasks, and templates for each in our own words.

Of P5's task families those that recommend are here: the next item of a sequence, and "direct" recommendation
to a user of whom nothing but the number is named, by a list of candidates or by one question per candidate.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

# the first of a task's templates is the one that is asked with
TEMPLATES = {
    "sequential": (
        "{user} chose {history} and chooses next",
        "after {history} the next choice of {user} is",
        "the history of {user} is {history} what follows",
        "{history} were chosen in this order name the next for {user}",
        "given {history} recommend one more item to {user}",
        "{user} had {history} predict what comes after them",
    ),
    "select": (
        "{user} chose {history} and chooses next one of {candidates}",
        "one of {candidates} follows {history} for {user} which",
        "after {history} pick for {user} among {candidates}",
    ),
    "top_n": (
        "choose for {user} one of {candidates}",
        "{candidates} which of them does {user} want",
        "recommend to {user} something out of {candidates}",
    ),
    "yes_no": (
        "does {user} want {item}",
        "is {item} something for {user}",
        "{item} is shown to {user} will it be chosen",
    ),
}
TASKS = tuple(TEMPLATES)
ANSWERS = ("yes", "no")  # to the last of them


@dataclass(frozen=True)
class Tasks:
    """Shares of the training batches.

    Args:
        sequential: the next item after a history.
        select: the same among candidates that are named.
        top_n: an item among candidates, for a user of whom nothing but the number is named.
        yes_no: whether such a user wants one item; candidates are then ranked by how certain the yes is.
    """

    sequential: float = 1.0
    select: float = 0.0
    top_n: float = 0.0
    yes_no: float = 0.0

    def __post_init__(self) -> None:
        shares = astuple(self)
        if min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"shares of tasks must be 0 or more and not all 0, got {shares}")
