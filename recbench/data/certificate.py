"""What is wrong with a data set, or known to be right: leaks, duplicates, ties, repeats, cold targets.

The leak probe recommends `max(history) + 1, + 2, ...` and learns nothing. On the public Amazon and Yelp files
it finds 3 to 5 % of the targets among its first ten, more than some published models, because their items are
numbered by first appearance with the test items included. Item ids that carry no information give it about
10 / N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from recbench.data.prepared import Prepared

LEAK_LIMIT = 0.005  # HR@10 of the probe from which ids count as leaking, beside what chance gives
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_TOP = 10


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was found in a data set; rates are shares in 0..1, None where they cannot be known.

    Args:
        name: the data set.
        fingerprint: which version of it.
        num_users: users audited, every one.
        leak_hr10: HR@10 of the leak probe on the prepared indices.
        leak_hr10_by_chance: what ids without information give it, on average at most.
        raw_leak_hr10: HR@10 of the leak probe on the ids of the raw file.
        repeat_rate: interactions with an item that the user had before.
        repeat_user_rate: users who have some item more than once.
        repeat_target_rate: users whose last item is one they had before.
        duplicate_rate: interactions equal to the one before, in item and, where known, time.
        twin_rate: users whose whole history another user has as well.
        cold_target_rate: users whose last item is in nobody's training part.
        tied_rate: consecutive interactions of a user at the same time, so that their order is arbitrary.
        num_backwards: consecutive interactions whose time goes back.
        future_rate: users whose last item came before the newest training interaction of all; known for
            absolute times only. Leave-one-out lets a method learn from what had not happened yet for these
            users.
        length_quantiles: of interactions per user, at 0, 25, 50, 75, 95 and 100 %.
    """

    name: str
    fingerprint: str
    num_users: int
    leak_hr10: float
    leak_hr10_by_chance: float
    raw_leak_hr10: float | None
    repeat_rate: float
    repeat_user_rate: float
    repeat_target_rate: float
    duplicate_rate: float
    twin_rate: float
    cold_target_rate: float
    tied_rate: float | None
    num_backwards: int | None
    future_rate: float | None
    length_quantiles: tuple[float, ...]

    def faults(self) -> list[str]:
        """What makes results on this data meaningless, one line each."""
        found = []
        if self.leak_hr10 > self.leak_hr10_by_chance + LEAK_LIMIT:
            found.append(
                f"item indices leak the target: the leak probe has HR@10 {self.leak_hr10:.2%}; shuffle them"
            )
        if self.num_backwards:
            found.append(
                f"{self.num_backwards:,} interactions are earlier than the one before; sort users by time"
            )
        return found

    def text(self) -> str:
        """The certificate as it is printed."""
        quantiles = " / ".join(f"{value:g}" for value in self.length_quantiles)
        rows = (
            ("leak probe, HR@10", f"{self.leak_hr10:.2%} (chance: up to {self.leak_hr10_by_chance:.2%})"),
            ("leak probe on the raw ids, HR@10", _percent(self.raw_leak_hr10, "no raw file here")),
            ("repeats: interactions", f"{self.repeat_rate:.2%}"),
            ("repeats: users with any", f"{self.repeat_user_rate:.2%}"),
            ("repeats: last items", f"{self.repeat_target_rate:.2%}"),
            ("duplicates of the one before", f"{self.duplicate_rate:.2%}"),
            ("users with a twin", f"{self.twin_rate:.2%}"),
            ("last items never trained on", f"{self.cold_target_rate:.2%}"),
            ("ties in time", _percent(self.tied_rate, "no times known")),
            (
                "time goes back",
                "no times known" if self.num_backwards is None else f"{self.num_backwards:,} times",
            ),
            ("last items older than the newest training", _percent(self.future_rate, "no absolute times")),
            ("items per user, 0/25/50/75/95/100 %", quantiles),
        )
        width = max(len(label) for label, _ in rows)
        head = (
            f"{self.name}: certificate over all {self.num_users:,} users, fingerprint {self.fingerprint[:12]}"
        )
        verdict = [f"FAULT: {fault}" for fault in self.faults()] or ["no faults found"]
        return "\n".join([head, *(f"  {label:<{width}}  {value}" for label, value in rows), *verdict])


def certificate(prepared: Prepared, raw_sequences: pl.DataFrame | None = None) -> Certificate:
    """Audit a data set.

    Args:
        prepared: what methods train on.
        raw_sequences: raw `user`, `item` and `pos` as the source numbers them, where known.
    """
    frame = _marked(prepared.interactions)
    last, trained = frame.filter(left=0), frame.filter(pl.col("left") >= 2)
    lengths = frame.group_by("user").len()["len"]
    histories = frame.group_by("user", maintain_order=True).agg("item")
    histories = histories.select(pl.col("item").cast(pl.List(pl.String)).list.join(" "))
    return Certificate(
        name=prepared.name,
        fingerprint=prepared.card.fingerprint,
        num_users=len(last),
        leak_hr10=leak_probe(frame),
        leak_hr10_by_chance=min(1.0, _TOP / len(prepared.items)),
        raw_leak_hr10=None
        if raw_sequences is None
        else leak_probe(_marked(raw_sequences.sort("user", "pos"))),
        repeat_rate=_mean(frame["is_repeat"]),
        repeat_user_rate=_mean(frame.group_by("user").agg(pl.col("is_repeat").any())["is_repeat"]),
        repeat_target_rate=_mean(last["is_repeat"]),
        duplicate_rate=_mean(frame["is_duplicate"]),
        twin_rate=_mean(histories["item"].is_duplicated()),
        cold_target_rate=_mean(~last["item"].is_in(trained["item"].unique().implode())),
        length_quantiles=tuple(np.quantile(lengths.to_numpy(), _QUANTILES).tolist()),
        **_about_time(frame, is_absolute=prepared.card.clock == "unix"),
    )


def leak_probe(marked: pl.DataFrame) -> float:
    """HR@10 of recommending the ten ids after the largest of a history; the last item is the target."""
    largest, target = pl.col("item").filter(pl.col("left") > 0).max(), pl.col("item").last()
    ahead = marked.group_by("user").agg(ahead=target.cast(pl.Int64) - largest)["ahead"]
    return _mean(ahead.is_between(1, _TOP))


def _marked(interactions: pl.DataFrame) -> pl.DataFrame:
    """Interactions in order, with `left` (how many follow for the user), `is_repeat` and `is_duplicate`."""
    unchanged = [
        pl.col(name) == pl.col(name).shift().over("user") for name in ("item", "time") if name in interactions
    ]
    return interactions.with_columns(
        left=pl.int_range(pl.len(), dtype=pl.Int32).reverse().over("user"),
        is_repeat=pl.int_range(pl.len(), dtype=pl.Int32).over("user", "item") > 0,
        is_duplicate=pl.all_horizontal(unchanged).fill_null(value=False),
    )


class _AboutTime(TypedDict):
    tied_rate: float | None
    num_backwards: int | None
    future_rate: float | None


def _about_time(frame: pl.DataFrame, *, is_absolute: bool) -> _AboutTime:
    """What the times say; None throughout where there are none."""
    if "time" not in frame.columns:
        return {"tied_rate": None, "num_backwards": None, "future_rate": None}
    gap = frame.select(pl.col("time").diff().over("user")).to_series().drop_nulls()
    newest = frame.filter(pl.col("left") >= 2)["time"].max()
    future = _mean(frame.filter(left=0)["time"] < newest) if is_absolute else None
    return {"tied_rate": _mean(gap == 0), "num_backwards": int((gap < 0).sum()), "future_rate": future}


def _mean(flags: pl.Series) -> float:
    return float(flags.cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


def _percent(rate: float | None, unknown: str) -> str:
    return unknown if rate is None else f"{rate:.2%}"
