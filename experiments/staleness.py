"""How much worse a device ranks by what its cloud said some time ago, and what asking again is worth.

    python experiments/staleness.py RUN [RUN ...] [--figure staleness.svg] [--json]

Takes trained run folders of any methods; nothing is trained. Each method of two sides gets a cache that was
filled 0, 1, 2, 3, 5 or 10 interactions ago, or 1, 7, 30 or 180 days before the newest one, and asks nothing;
then an empty cache, which is the device on its own. A lag leaves the cloud two interactions to know, so short
histories have a smaller one: how old the answers are in fact is told beside the tables. Last, from a cache of
two interactions ago, a share of the requests asks: whichever, and where the method itself sees most need, if
it has a measure of need, by a threshold from validation. Differences are paired, user by user, with 95 %
bootstrap intervals. A method of one side asks nobody: one row, a level line in the figure. U users.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import torch
from probing import Probe
from remembering import remember

from recbench import config, runs
from recbench.edge.policy import Never, Threshold, threshold_at
from recbench.evaluate import evaluate
from recbench.metrics import Difference, per_user
from recbench.models.collaborative import Boundary, Collaborative
from recbench.nn.calibration import possible_lag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.module import InteractionData
    from recbench.models.base import Recommender

LAGS = (0, 1, 2, 3, 5, 10)
DAYS = (1, 7, 30, 180)
BUDGETS = (0.05, 0.1, 0.2, 0.4)
LAG = 2  # of the cache that a budget refreshes
LEFT = 2  # interactions that the cloud knows at least
SHOWN = ("hr@10", "ndcg@10")
TITLES = ("method", "view", "asked", "HR@10", "NDCG@10", "NDCG@10 against fresh")
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8d5524", "#444444")


@dataclass(frozen=True)
class Aged(Boundary):
    """A cache that was filled `lag` interactions ago, or `days` days before the newest interaction.

    Args:
        days: where above 0, these instead of the lag.
    """

    days: float = 0.0

    def missing(self, batch: SequenceBatch) -> Tensor:
        """(B,) interactions that the cloud does not know."""
        wanted = torch.full((len(batch),), self.lag, device=batch.history.device)
        if self.days:
            assert batch.times is not None
            is_later = batch.times > batch.times[:, -1:] - self.days * 86_400
            wanted = (is_later & (batch.history != 0)).sum(1)
        return possible_lag(batch.history, wanted, num_left=LEFT)

    def earlier(self, batch: SequenceBatch) -> SequenceBatch:
        """Without these."""
        return batch.without_newest(self.missing(batch))


class Row(NamedTuple):
    """One view of one method.

    Args:
        data: name of the data set.
        method: name of the run.
        kind: `lag`, `days`, `alone`, `random`, `chosen`, or `any` of a method that asks nobody.
        at: interactions, days, or the share that may ask.
        asked: share of the requests that went to the cloud.
        values: (U, 2) the metrics `SHOWN` of every user.
        change: mean NDCG@10 less that of fresh answers, and its interval; zeros where there are none.
    """

    data: str
    method: str
    kind: str
    at: float
    asked: float
    values: NDArray[np.float64]
    change: Difference = Difference(0.0, 0.0, 0.0)

    @property
    def means(self) -> dict[str, float]:
        """Over the users."""
        return dict(zip(SHOWN, self.values.mean(axis=0).tolist(), strict=True))

    @property
    def view(self) -> str:
        """In words."""
        words = {
            "lag": f"{self.at:g} interactions old",
            "days": f"{self.at:g} days old",
            "alone": "nothing from the cloud",
            "random": f"{self.at:.0%} ask, whichever",
            "chosen": f"{self.at:.0%} ask, in need",
            "any": "no cloud",
        }
        return words[self.kind]

    def as_json(self) -> str:
        """One line."""
        rest = {key: value for key, value in self._asdict().items() if key != "values"}
        return json.dumps(rest | self.means)

    def as_markdown(self) -> str:
        """One row of the table."""
        mean, low, high = self.change
        change = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if any(self.change) else ""
        means = [f"{value:.4f}" for value in self.means.values()]
        return f"| {' | '.join((self.method, self.view, f'{self.asked:.3f}', *means, change))} |"


def rows(name: str, model: Recommender, data: InteractionData) -> list[Row]:
    """All views of one method, which stays behind the last boundary.

    Args:
        name: what it is called.
        model: trained.
        data: its data.
    """
    title = data.prepared.name
    if not isinstance(model, Collaborative):
        return [Row(title, name, "any", 0, 0.0, per_user(evaluate(model, data).ranks, SHOWN))]
    remember(model)
    views = [("lag", lag, Aged(policy=Never(), lag=lag)) for lag in LAGS]
    if data.prepared.card.clock == "unix":
        views += [("days", days, Aged(policy=Never(), lag=0, days=days)) for days in DAYS]
    views.append(("alone", 0, Aged(policy=Never(), lag=-1)))
    found = [_row(title, name, kind, at, model, data, boundary) for kind, at, boundary in views]
    fresh, old = found[LAGS.index(0)], found[LAGS.index(LAG)]
    for budget in BUDGETS:  # what asking at random gives on average over all draws
        values = (1 - budget) * old.values + budget * fresh.values
        found.append(Row(title, name, "random", budget, budget, values))
    needs = _needs(model, data)
    for budget in BUDGETS if len(needs) else ():
        policy = Threshold(threshold=threshold_at(needs, budget))
        found.append(_row(title, name, "chosen", budget, model, data, Aged(policy=policy, lag=LAG)))
    return [row._replace(change=_change(row, fresh)) for row in found]


def _row(
    title: str,
    name: str,
    kind: str,
    at: float,
    model: Collaborative,
    data: InteractionData,
    boundary: Boundary,
) -> Row:
    model.cross(boundary)
    found = evaluate(model, data)
    asked = found.usage["exchanges"] / len(found.users)
    return Row(title, name, kind, at, asked, per_user(found.ranks, SHOWN))


def _needs(model: Collaborative, data: InteractionData) -> NDArray[np.float64]:
    """(U,) how much every validation request needs a fresh answer; none where a method cannot tell."""
    probe = Probe()
    model.cross(Aged(policy=probe, lag=LAG))
    try:
        evaluate(model, data, split="validation")
    except TypeError as error:
        if "no measure of need" not in str(error):
            raise
        return np.empty(0)
    return np.concatenate(probe.scores)


def _change(row: Row, fresh: Row) -> Difference:
    return Difference.of(*(one.values[:, SHOWN.index("ndcg@10")] for one in (row, fresh)))


def effective_lags(data: InteractionData) -> Iterator[str]:
    """For each lag, how old the answers are in fact, a line each."""
    batches = list(data.targets("test"))
    total = sum(map(len, batches))
    for lag in LAGS[1:]:
        boundary, count = Aged(lag=lag), Counter[int]()
        for batch in batches:
            count.update(boundary.missing(batch).tolist())
        shares = ", ".join(f"{value}: {number / total:.1%}" for value, number in sorted(count.items()))
        yield f"- {lag} interactions: in fact {shares}"


def table(found: Sequence[Row]) -> Iterator[str]:
    """Markdown, for one data set."""
    yield f"\n### {found[0].data}, {len(found[0].values):,} requests\n"
    yield f"| {' | '.join(TITLES)} |"
    yield "|---" * len(TITLES) + "|"
    yield from (row.as_markdown() for row in found)


class Panel(NamedTuple):
    """One half of the figure.

    Args:
        title: below it.
        left: of the plane, in pixels.
        span: least and greatest value from left to right.
        ticks: marked there.
        heights: least and greatest value from bottom to top.
    """

    title: str
    left: float
    span: tuple[float, float]
    ticks: tuple[float, ...]
    heights: tuple[float, float]

    width, height, top = 300.0, 220.0, 30.0

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a value."""
        across = (x - self.span[0]) / (self.span[1] - self.span[0])
        up = (y - self.heights[0]) / (self.heights[1] - self.heights[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def axes(self) -> Iterator[str]:
        """Lines, ticks and the title."""
        right, bottom = self.left + self.width, self.top + self.height
        yield f'<path d="M{self.left} {self.top}V{bottom}H{right}" fill="none" stroke="#888"/>'
        for tick in self.ticks:
            x, _ = self.point(tick, self.heights[0])
            yield _text(x, bottom + 16, f"{tick:g}", anchor="middle")
        for value in np.linspace(*self.heights, 5):
            _, y = self.point(self.span[0], float(value))
            yield f'<path d="M{self.left} {y:.1f}H{right}" stroke="#e5e5e5"/>'
            yield _text(self.left - 6, y + 4, f"{value:.4f}", anchor="end")
        yield _text(self.left + self.width / 2, bottom + 36, self.title, anchor="middle")

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dash: str = "") -> Iterator[str]:
        """Values joined, each marked."""
        pixels = [self.point(*point) for point in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        yield (
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in pixels)


def figure(found: Sequence[Row]) -> str:
    """SVG of one data set: NDCG@10 against lag, and against the share of the requests that ask.

    A broken line is a cache that is refreshed at random; a level one a device on its own.
    """
    values = [row.means["ndcg@10"] for row in found]
    margin = 0.05 * (max(values) - min(values)) or 0.01
    heights = (min(values) - margin, max(values) + margin)
    lags = Panel("interactions since the cloud's answer", 70, (0, max(LAGS)), LAGS, heights)
    budgets = Panel("share of the requests that ask", 450, (0, 1), (0, *BUDGETS, 1), heights)
    names = list(dict.fromkeys(row.method for row in found))
    parts = [*lags.axes(), *budgets.axes(), _text(20, 18, f"NDCG@10, {found[0].data}")]
    for number, name in enumerate(names):
        colour, own = COLOURS[number % len(COLOURS)], [row for row in found if row.method == name]
        parts += _lines(own, lags, budgets, colour)
        y = lags.top + lags.height + 60 + 18 * number
        parts += [f'<rect x="70" y="{y - 9}" width="14" height="10" fill="{colour}"/>', _text(90, y, name)]
    height = lags.top + lags.height + 70 + 18 * len(names)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {height:g}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def _lines(own: Sequence[Row], lags: Panel, budgets: Panel, colour: str) -> Iterator[str]:
    by_kind: dict[str, list[tuple[float, float]]] = {}
    for row in own:
        x = row.asked if row.kind == "chosen" else row.at
        by_kind.setdefault(row.kind, []).append((x, row.means["ndcg@10"]))
    for kind in ("any", "alone"):
        for _, y in by_kind.get(kind, ()):
            for panel in (lags, budgets):
                yield from panel.line([(panel.span[0], y), (panel.span[1], y)], colour, dash="2 4")
    if "lag" not in by_kind:
        return
    yield from lags.line(by_kind["lag"], colour)
    (_, fresh), (_, old) = by_kind["lag"][LAGS.index(0)], by_kind["lag"][LAGS.index(LAG)]
    for kind, dash in (("random", "6 4"), ("chosen", "")):
        if kind in by_kind:
            yield from budgets.line([(0, old), *sorted(by_kind[kind]), (1, fresh)], colour, dash=dash)


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}">{escape(words)}</text>'


def main(words: Sequence[str] | None = None) -> None:
    """Print the rows of the runs named, and draw them."""
    parser = argparse.ArgumentParser(description="Accuracy against the age of what the cloud said.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, all of one data set")
    parser.add_argument("--figure", type=Path, help="SVG file to write")
    parser.add_argument("--json", action="store_true", help="a JSON line per row instead of a table")
    asked = parser.parse_args(words)
    torch.manual_seed(0)
    found: list[Row] = []
    lines: list[str] = []
    for folder in asked.runs:
        model, data = runs.restore(folder)
        name = config.read(folder / "config.yaml").get("name") or folder.name
        if found and data.prepared.name != found[0].data:
            raise SystemExit(f"{folder}: a run on {data.prepared.name}; the others are on {found[0].data}")
        found += rows(name, model, data)
        lines = lines or list(effective_lags(data))
    for line in [row.as_json() for row in found] if asked.json else (*table(found), "", *lines):
        print(line, flush=True)
    if asked.figure:
        asked.figure.write_text(figure(found))


if __name__ == "__main__":
    main()
