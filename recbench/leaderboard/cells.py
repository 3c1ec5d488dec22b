"""Cells and tables of text, the same for every page that shows them, and how figures are written in them."""

from __future__ import annotations

from dataclasses import dataclass, field

NEVER = "–"  # what was not measured


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, the number a reader may sort by, and how it stands out.

    Args:
        text: what is shown.
        value: what is sorted by; None sorts by the text.
        is_best: the best of its column.
        is_tied: not separable from the best.
        hint: more, on demand.
        links: text and relative address of what the text lists instead.
    """

    text: str = NEVER
    value: float | None = None
    is_best: bool = False
    is_tied: bool = False
    hint: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of cells under a caption; `is_detail` tables are folded away."""

    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    is_detail: bool = False
    is_cited: bool = False

    def select(self, *columns: str) -> Table:
        """The same rows with these columns only."""
        places = [self.columns.index(column) for column in columns]
        return Table(self.caption, columns, [[row[place] for place in places] for row in self.rows])


@dataclass(frozen=True, slots=True)
class Section:
    """All there is on one data set."""

    data: str
    tables: list[Table] = field(default_factory=list)


def number(value: float | None, form: str) -> Cell:
    """`value` in the format `form`."""
    return Cell() if value is None else Cell(form.format(value), value)


def estimate(mean: float | None, low: float | None, high: float | None) -> Cell:
    """A mean and half the width of its interval; the bounds themselves on demand."""
    if mean is None or low is None or high is None:
        return number(mean, "{:.4f}")
    return Cell(f"{mean:.4f} ±{(high - low) / 2:.4f}", mean, hint=f"95 %: {low:.4f} to {high:.4f}")


def duration(seconds: float | None) -> Cell:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return Cell()
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return Cell(f"{seconds / length:.1f} {unit}", seconds)
    return Cell(f"{seconds:.1f} s", seconds)


def size(count: int | None) -> Cell:
    """A count with three digits and a unit."""
    if count is None:
        return Cell()
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= scale:
            return Cell(f"{count / scale:.3g} {unit}", count)
    return Cell(str(count), count)
