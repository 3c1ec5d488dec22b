"""Figures that others report: shown beside ours, never among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from recbench.errors import DataError
from recbench.metrics import METRICS, impossibilities
from recbench.results import PROTOCOL, Run

if TYPE_CHECKING:
    from pathlib import Path

HALF_DIGIT = 0.5e-4  # papers print four digits, or percent with two


class Citation(BaseModel):
    """One row of somebody's table.

    Args:
        model: our name of the method where we have it, so that both figures can be set side by side.
        data: data set.
        protocol: protocol id that comes closest to what the source did.
        metrics: fractions by key (`hr@10`, ...).
        source: where the figure is printed.
        variant: what tells this row from the source's others of the same model: loss, input, encoder.
        note: what to know before comparing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    data: str
    protocol: str = PROTOCOL
    metrics: dict[str, FiniteFloat] = Field(min_length=1)
    source: str = Field(min_length=4)
    variant: str = ""
    note: str = ""

    @classmethod
    def of(cls, run: Run) -> Citation:
        """A record that quotes a figure, `origin` "cited"."""
        metrics = {key: estimate.value for key, estimate in run.metrics.items()}
        return cls(
            model=run.model,
            data=run.data,
            protocol=run.protocol,
            metrics=metrics,
            source=run.source,
            note=run.note,
        )

    @property
    def flaws(self) -> list[str]:
        """Why no ranking of one target per user gives these figures, beyond rounding; empty when one may."""
        return impossibilities(self.metrics, tolerance=HALF_DIGIT)


def read_cited(path: Path) -> list[Citation]:
    """The citations in the JSON list at `path`; none where the file does not exist.

    Raises:
        DataError: a row is not a citation, or has a metric that is unknown.
    """
    if not path.exists():
        return []
    try:
        citations = TypeAdapter(list[Citation]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{path}: row {where}: {first['msg']}; correct the row or remove it") from None
    for number, citation in enumerate(citations):
        for key in citation.metrics:
            name, _, k = key.partition("@")
            if name not in METRICS or not k.isdigit():
                known = ", ".join(f"{metric}@K" for metric in METRICS)
                raise DataError(
                    f"{path}: row {number} ({citation.model}): unknown metric {key!r}; known: {known}"
                )
    return citations
