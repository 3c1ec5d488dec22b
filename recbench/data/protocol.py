"""What the rules of split and candidates are called, and which of them go together. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from recbench.data import splits

DEFAULT_SHARE = 0.1  # of the interactions, for validation and for test when time cuts them


class Protocol(NamedTuple):
    """Who the targets are and what they compete with; each as in `InteractionData`."""

    split: splits.Rule
    validation_share: float
    test_share: float
    reach_km: float
    reach_from: Literal["last", "target"]
    num_negatives: int

    def check(self) -> None:
        """Refuse what is out of range, or what contradicts something else.

        Raises:
            ValueError: so it is.
        """
        shares = self.validation_share, self.test_share
        if not (min(shares) > 0 and sum(shares) < 1):
            raise ValueError(
                "validation_share and test_share must be above 0 and leave something to train on, got "
                f"{shares[0]} and {shares[1]}"
            )
        if not 0 <= self.reach_km < float("inf"):
            raise ValueError(f"reach_km must be 0 for no limit or a distance in km, got {self.reach_km}")
        if self.num_negatives < 0:
            raise ValueError(f"num_negatives must be 0 for all items or a count, got {self.num_negatives}")
        if self.num_negatives and self.reach_km:
            raise ValueError(
                "num_negatives and reach_km both say who the candidates are, so one of them must be 0, got "
                f"{self.num_negatives} and {self.reach_km:g}"
            )

    def __str__(self) -> str:
        """`loo-full`, `top-n-99`, `time-5km-target`, ..."""
        if self.num_negatives:
            candidates = f"top-n-{self.num_negatives}"
        elif self.reach_km:
            candidates = f"{self.reach_km:g}km" + ("-target" if self.reach_from == "target" else "")
        else:
            candidates = "full"
        if self.split == "leave_one_out":
            return candidates if self.num_negatives else f"loo-{candidates}"  # P5's top-N names no split
        shares = self.validation_share, self.test_share
        usual = shares == (DEFAULT_SHARE, DEFAULT_SHARE)
        return f"time-{candidates}" + ("" if usual else "".join(f"-{share:g}" for share in shares))

    def notes(self) -> tuple[str, ...]:
        """What the name does not say: how good chance is among few."""
        if not self.num_negatives:
            return ()
        chance = min(1.0, 10 / (self.num_negatives + 1))
        return (
            f"the target among {self.num_negatives:,} random items that its user never took: "
            f"a random order has HR@10 {chance:.3g}",
        )
