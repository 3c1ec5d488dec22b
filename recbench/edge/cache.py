"""What a device keeps of what the cloud said, and how old that is. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbench.edge.messages import Reply


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer and what was known when it was asked for.

    Args:
        reply: what the cloud said.
        count: interactions of the user then.
        time_s: unix seconds of the newest of them; 0 where the data has no times.
    """

    reply: Reply
    count: int
    time_s: float = 0.0


class Cache:
    """The newest answer per user; one user on a device, many in an evaluation.

    Args:
        max_lag_items: interactions after which an answer is of no use any more.
        max_lag_s: seconds, from the newest interaction then to the newest now.
    """

    def __init__(self, *, max_lag_items: float = math.inf, max_lag_s: float = math.inf) -> None:
        for name, value in (("max_lag_items", max_lag_items), ("max_lag_s", max_lag_s)):
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value:g}")
        self.max_lag_items, self.max_lag_s = max_lag_items, max_lag_s
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, user: int, entry: Entry) -> bool:
        """Keep `entry` unless a newer one is there; whether it was kept."""
        old = self._entries.get(user)
        if old is not None and (old.count, old.time_s) > (entry.count, entry.time_s):
            return False
        self._entries[user] = entry
        return True

    def find(self, user: int, *, version: str, count: int, time_s: float = 0.0) -> Entry | None:
        """The user's entry, if it is of this version and not too old.

        Args:
            user: whose.
            version: of what both sides share; an entry of another one is thrown away.
            count: interactions now.
            time_s: unix seconds of the newest of them.
        """
        entry = self._entries.get(user)
        if entry is None:
            return None
        if entry.reply.version != version:
            del self._entries[user]
            return None
        is_old = count - entry.count > self.max_lag_items or time_s - entry.time_s > self.max_lag_s
        return None if is_old else entry

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
