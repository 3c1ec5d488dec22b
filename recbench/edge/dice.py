"""Chance that depends on nothing but a seed and what is thrown for: no order, no batch size, no clock."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple

_KEY, _DRAWS = struct.Struct("<qd"), struct.Struct("<4Q")


class Dice(NamedTuple):
    """Four independent uniform draws from [0, 1)."""

    a: float
    b: float
    c: float
    d: float


def throw(seed: int, what: bytes, frame: bytes, sent_ms: float = 0.0) -> Dice:
    """The draws for `frame`, sent at `sent_ms`, in the matter of `what`.

    The same frame meets the same fate wherever and however often the run is repeated; sent again later it
    meets another one.

    Args:
        seed: of the run.
        what: tells apart the uses of one seed; at most 16 bytes.
        frame: what is thrown for.
        sent_ms: when it is sent.
    """
    digest = blake2b(frame, digest_size=32, key=_KEY.pack(seed, sent_ms), person=what).digest()
    return Dice(*((number >> 11) / (1 << 53) for number in _DRAWS.unpack(digest)))
