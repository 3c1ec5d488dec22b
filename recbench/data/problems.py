"""What is wrong with a file, line by line, and how it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_PROBLEMS = 1000  # are worked out; a file with more is of another kind
_SHOWN = 40  # characters of a value


class Problem(NamedTuple):
    """What is wrong, and in which line; line 0 stands for the file as a whole."""

    line: int
    text: str


class BrokenFileError(DataError):
    """A file with problems: the first of them, and how many others there are.

    Args:
        where: the file.
        problems: at least one, in order of lines.
        num_problems: how many there are, where not all of them were worked out.
    """

    def __init__(self, where: Path | str, problems: Sequence[Problem], num_problems: int = 0) -> None:
        self.where, self.problems = str(where), problems
        self.num_problems = max(num_problems, len(problems))
        others = self.num_problems - 1
        more = f" ({others:,} more line{'s are' if others > 1 else ' is'} wrong)" if others else ""
        super().__init__(describe(self.where, problems[0]) + more)


def describe(where: str, problem: Problem) -> str:
    """One line: file, line number, what is wrong and what to do."""
    return f"{where}:{problem.line}: {problem.text}" if problem.line else f"{where}: {problem.text}"


def shown(text: str) -> str:
    """A value in quotes, cut when long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
