"""Length and popularity of a data set as two curves in one SVG, drawn without a plotting library.

Both axes are logarithmic, for both quantities span decades: a straight line is a power law.
"""

from __future__ import annotations

import math
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recbench.data.profile import LEAST_MEDIUM, LENGTH_GROUPS, MOST_MEDIUM, at_least, by_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

WIDTH, HEIGHT = 360, 250  # of one plot
_LEFT, _TOP, _GAP = 70, 84, 100  # margins of the first plot, and between the two
_MAX_POINTS = 400
_STYLE = (
    "text{font:13px system-ui,Helvetica,Arial,sans-serif;fill:#333}.h{font-size:17px;font-weight:600}"
    ".t{font-weight:600}.n{fill:#666}.g{stroke:#e3e3e3}.a{stroke:#888}.m{stroke:#999;stroke-dasharray:3 4}"
    ".c{fill:none;stroke:#1f5fa8;stroke-width:2.2;stroke-linejoin:round}"
)


class Curve(NamedTuple):
    """One plot: `x` and `y` from 1 up, what they are, one line of figures, and names of ranges of `x`."""

    title: str
    note: str
    x_name: str
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    marks: Mapping[int, str] = MappingProxyType({})


def svg(title: str, lengths: NDArray[np.int64], popularity: NDArray[np.int64]) -> str:
    """The picture.

    Args:
        title: headline.
        lengths: (U,) interactions per user, at least 1.
        popularity: (N,) interactions per item; items without any are left out.
    """
    popularity = np.sort(popularity[popularity > 0])[::-1]
    top = popularity[: max(1, round(len(popularity) / 100))].sum() / popularity.sum()
    curves = (
        Curve(
            "Users with at least n interactions",
            f"{len(lengths):,} users; median {np.median(lengths):g}, longest {lengths.max():,}",
            "interactions n",
            *at_least(lengths),
            dict(zip((1, LEAST_MEDIUM, MOST_MEDIUM + 1), LENGTH_GROUPS, strict=True)),
        ),
        Curve(
            "Interactions of the n-th most popular item",
            f"{len(popularity):,} items; the first 1% have {top:.0%} of all interactions",
            "rank n",
            *by_rank(popularity),
        ),
    )
    width, height = 2 * (_LEFT + WIDTH) + _GAP - 40, _TOP + HEIGHT + 56
    plots = [_plot(curve, _LEFT + i * (WIDTH + _GAP), _TOP) for i, curve in enumerate(curves)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style>'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="h" x="{_LEFT}" y="28">{escape(title)}</text>\n' + "\n".join(plots) + "\n</svg>\n"
    )


def _plot(curve: Curve, left: float, top: float) -> str:
    """One plot with its upper left corner at (left, top)."""
    span_x, span_y = (1.1 * max(math.log10(values.max()), 0.3) for values in (curve.x, curve.y))

    def across(value: float) -> float:
        return round(left + WIDTH * math.log10(value) / span_x, 1)

    def down(value: float) -> float:
        return round(top + HEIGHT - HEIGHT * math.log10(value) / span_y, 1)

    bottom, right = top + HEIGHT, left + WIDTH
    parts = [f'<text class="t" x="{left}" y="{top - 28}">{curve.title}</text>']
    parts += [f'<text class="n" x="{left}" y="{top - 10}">{curve.note}</text>']
    for tick in _decades(span_x):
        parts.append(f'<path class="g" d="M{across(tick)} {top}V{bottom}"/>')
        parts.append(f'<text x="{across(tick)}" y="{bottom + 18}" text-anchor="middle">{_short(tick)}</text>')
    for tick in _decades(span_y):
        parts.append(f'<path class="g" d="M{left} {down(tick)}H{right}"/>')
        parts.append(f'<text x="{left - 8}" y="{down(tick) + 4}" text-anchor="end">{_short(tick)}</text>')
    for mark, meaning in curve.marks.items():
        if math.log10(mark) < span_x:
            parts.append(f'<path class="m" d="M{across(mark)} {top}V{bottom}"/>')
            parts.append(f'<text class="n" x="{across(mark) + 5}" y="{bottom - 8}">{meaning}</text>')
    parts.append(f'<path class="a" fill="none" d="M{left} {top}V{bottom}H{right}"/>')
    parts.append(f'<text x="{left + WIDTH / 2}" y="{bottom + 40}" text-anchor="middle">{curve.x_name}</text>')
    points = " ".join(f"{across(curve.x[i])},{down(curve.y[i])}" for i in _spread(curve.x))
    return "\n".join([*parts, f'<polyline class="c" points="{points}"/>'])


def _spread(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in ascending `x` that are evenly spread on a logarithmic axis, the first and last among them."""
    wanted = np.geomspace(x[0], x[-1], _MAX_POINTS)
    return np.unique(np.append(np.searchsorted(x, wanted * (1 - 1e-9)).clip(max=len(x) - 1), len(x) - 1))


def _decades(span: float) -> list[int]:
    return [10**power for power in range(int(span) + 1)]


def _short(number: int) -> str:
    """1, 10, 100, 1k, ..., 1M."""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number // unit}{name}"
    return str(number)
