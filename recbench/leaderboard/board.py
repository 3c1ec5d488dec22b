"""The command: read all records, write all pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbench.errors import DataError
from recbench.leaderboard.cited import Citation, read_cited
from recbench.leaderboard.compare import compare
from recbench.leaderboard.pages import front, markdown, page
from recbench.leaderboard.rows import TABLE, average_seeds, best_configurations
from recbench.leaderboard.tables import sections
from recbench.results import read_runs, write_atomic

if TYPE_CHECKING:
    import polars as pl

    from recbench.results import Run

START, END = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"


def leaderboard(root: Path = Path("leaderboard")) -> list[Path]:
    """Write `README.md` and `index.html` in `root` from its `results/` and its `cited.json`.

    A README.md beside `root` gets the main figures, of each model the configuration best on validation,
    between the lines `<!-- leaderboard:start -->` and `<!-- leaderboard:end -->`, if it has them. Equal
    records give equal bytes.

    Returns:
        The files written.

    Raises:
        DataError: a record, its ranks or a citation is damaged.
    """
    records = {f"results/{run.key}.json": run for run in read_runs(root / "results")}
    measured = {path: run for path, run in records.items() if run.origin == "measured"}
    rows = average_seeds(measured)
    cited = [Citation.of(run) for run in records.values() if run.origin == "cited"]
    found = sections(_compared(rows, measured, root), [*cited, *read_cited(root / "cited.json")])
    pages = {root / "README.md": markdown(found), root / "index.html": page(found)}
    top = root.resolve().parent / "README.md"
    if top.exists() and START in (text := top.read_text(encoding="utf-8")):
        best = sections(_compared(best_configurations(rows), measured, root), [])
        pages[top] = _between_marks(text, front(best, root.resolve().name), top)
    for path, content in pages.items():
        write_atomic(path, content.encode())
    return list(pages)


def _compared(rows: pl.DataFrame, runs: dict[str, Run], root: Path) -> list[pl.DataFrame]:
    """A table per data set and protocol, its rows compared with each other."""
    return [compare(table, runs, root) for table in rows.partition_by(TABLE, maintain_order=True)]


def _between_marks(text: str, content: str, path: Path) -> str:
    """`text` with `content` in place of what lay between the two marks."""
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise DataError(f"{path}: {START} is not followed by {END}; add that line where the tables shall end")
    return f"{before}{START}\n{content}\n{END}{after}"
