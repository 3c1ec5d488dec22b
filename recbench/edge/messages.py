"""What may cross the boundary, all of it: typed messages and their one binary encoding. Imports no torch.

A frame is a header (magic `RB`, version of the format, type of the message, checksum of the frame it answers,
bytes of the body), the fields in the order of the class, and a CRC-32 over everything before it. The checksum
is also how a question is known: a reply names the one it answers, so that asking again is the same question
and its answer is as good, and a reply to another one is never taken for it.

Adding a message: a dataclass here with the kind of every field, and its place in `MESSAGES`. Its code is
never used for anything else again. M numbers, C candidates.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from recbench.edge.wire import (
    Array,
    Flag,
    Kind,
    MessageError,
    Number,
    PrivateError,
    Tensors,
    Text,
    Whole,
)

__all__ = ["MAX_FRAME", "Message", "MessageError", "PrivateError", "answers", "checksum", "decode", "encode"]

VERSION = 1
MAX_FRAME = 64 << 20  # bytes; a table of 100,000 vectors of 128 numbers fits
_MAGIC = b"RB"
_HEAD, _CRC = struct.Struct("<2sBBII"), struct.Struct("<I")

Count = Annotated[int, Whole()]
Share = Annotated[float, Number()]
Yes = Annotated[bool, Flag()]
Name = Annotated[str, Text(64)]
Words = Annotated[str, Text(8192)]
Items = Annotated[NDArray[np.int32], Array("<i4", ndim=1, limit=1 << 20)]
Scores = Annotated[NDArray[np.float32], Array("<f4", ndim=1, limit=1 << 20)]
Numbers = Annotated[NDArray[np.float32], Array("<f4", ndim=1, limit=1 << 16)]
Weights = Annotated[dict[str, NDArray[Any]], Tensors()]


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One thing that can be said; two are equal when their frames are."""

    code: ClassVar[int]

    def check(self) -> None:
        """Refuse fields that do not fit each other.

        Raises:
            MessageError: they do not.
        """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Message) and encode(self) == encode(other)

    def __hash__(self) -> int:
        return hash(encode(self))


@dataclass(frozen=True, slots=True, eq=False)
class Question(Message):
    """What a device sends.

    Args:
        user: a name that is drawn for the session, never the user's own; empty where the cloud need not tell
            users apart.
    """

    user: Name


@dataclass(frozen=True, slots=True, eq=False)
class History(Question):
    """The user's items as they are: nothing about this is private.

    Args:
        items: (M,) item indices, oldest first.
        num_items: how many candidates are wanted.
        repeats: whether items of the history may be listed again.
    """

    code: ClassVar[int] = 1
    items: Items
    num_items: Count
    repeats: Yes


@dataclass(frozen=True, slots=True, eq=False)
class Vector(Question):
    """What the device made of the user, as numbers.

    Args:
        vector: (M,) numbers.
        num_items: how many candidates are wanted.
    """

    code: ClassVar[int] = 2
    vector: Numbers
    num_items: Count


@dataclass(frozen=True, slots=True, eq=False)
class Abstract(Question):
    """What the device says of the user in words that name no item.

    Args:
        text: the words.
        num_items: how many candidates are wanted at most; 0 for none.
        query: what is asked for, with everything personal taken out; empty if nothing is.
        padding: blanks, so that how long a frame is says little about what is in it.
    """

    code: ClassVar[int] = 3
    text: Words
    num_items: Count
    query: Words = ""
    padding: Words = ""


@dataclass(frozen=True, slots=True, eq=False)
class Patch(Question):
    """What the device has learnt.

    Args:
        base: version of the weights it was learnt upon.
        tensors: weights by name.
    """

    code: ClassVar[int] = 4
    base: Name
    tensors: Weights


@dataclass(frozen=True, slots=True, eq=False)
class Reply(Message):
    """What a cloud sends.

    Args:
        version: of what both sides must share, such as the item table: indices of another one mean other
            items.
    """

    version: Name


@dataclass(frozen=True, slots=True, eq=False)
class Candidates(Reply):
    """A list of items.

    Args:
        items: (C,) item indices, best first.
        scores: (C,) what the cloud thinks of them, higher is better.
    """

    code: ClassVar[int] = 16
    items: Items
    scores: Scores

    def check(self) -> None:
        """Every item has a score."""
        if len(self.items) != len(self.scores):
            raise MessageError(f"{len(self.items)} candidates with {len(self.scores)} scores")


@dataclass(frozen=True, slots=True, eq=False)
class Parameters(Reply):
    """Weights for the device's own model.

    Args:
        tensors: weights by name.
    """

    code: ClassVar[int] = 17
    tensors: Weights


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Reply):
    """What the cloud made of the user, as numbers.

    Args:
        vector: (M,) numbers.
    """

    code: ClassVar[int] = 18
    vector: Numbers


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Reply):
    """How the device is to rank, and what it needs for it.

    Args:
        text: the plan, as JSON.
        vector: (M,) what the cloud made of the abstract; empty if nothing.
        items: (C,) the items it retrieved, best first.
    """

    code: ClassVar[int] = 19
    text: Words
    vector: Numbers
    items: Items


@dataclass(frozen=True, slots=True, eq=False)
class Failure(Message):
    """The cloud has no answer.

    Args:
        reason: in one line.
        retry_after_ms: when it may be worth asking again; 0 for never.
    """

    code: ClassVar[int] = 31
    reason: Words
    retry_after_ms: Share


MESSAGES: tuple[type[Message], ...] = (
    *(History, Vector, Abstract, Patch),
    *(Candidates, Parameters, Embedding, Plan, Failure),
)


class _Form(NamedTuple):
    """A message class and the kind of each of its fields, in order."""

    cls: type[Message]
    fields: tuple[tuple[str, str, Kind], ...]  # name, name in complaints, kind


def _form(cls: type[Message]) -> _Form:
    hints = get_type_hints(cls, include_extras=True)
    named = [(field.name, f"{cls.__name__}.{field.name}") for field in fields(cls)]
    return _Form(cls, tuple((name, full, get_args(hints[name])[1]) for name, full in named))


_FORMS = {cls: _form(cls) for cls in MESSAGES}
_BY_CODE = {cls.code: form for cls, form in _FORMS.items()}
assert len(_BY_CODE) == len(MESSAGES), "every message has a code of its own"


def encode(message: Message, *, answers: int = 0) -> bytes:
    """The frame of a message.

    Args:
        message: what to say.
        answers: checksum of the frame that this replies to; 0 for a question.

    Raises:
        PrivateError: a field holds a `Private` value.
        MessageError: a field has a wrong type, dtype or length.
    """
    form = _FORMS.get(type(message))
    if form is None:
        raise MessageError(f"{type(message).__name__} is no message; recbench.edge.messages lists them")
    body = b"".join([kind.write(getattr(message, name), full) for name, full, kind in form.fields])
    message.check()
    if len(body) > MAX_FRAME:
        raise MessageError(
            f"{form.cls.__name__} has {len(body)} bytes, at most {MAX_FRAME} may cross at once"
        )
    frame = _HEAD.pack(_MAGIC, VERSION, message.code, answers, len(body)) + body
    return frame + _CRC.pack(zlib.crc32(frame))


def decode(frame: bytes, *, limit: int = MAX_FRAME) -> Message:
    """The message of a frame; its arrays are read-only views of the frame.

    Args:
        frame: what came.
        limit: bytes of the body that are accepted at most.

    Raises:
        MessageError: the frame is damaged, of another version, or not what `encode` writes.
    """
    if len(frame) < _HEAD.size + _CRC.size:
        raise MessageError(f"a frame of {len(frame)} bytes; the shortest has {_HEAD.size + _CRC.size}")
    magic, version, code, _, size = _HEAD.unpack_from(frame)
    if magic != _MAGIC:
        raise MessageError(f"a frame starts with {_MAGIC!r}, this one with {magic!r}")
    if version != VERSION:
        raise MessageError(f"the frame has version {version}, here is {VERSION}; update the older side")
    stop = len(frame) - _CRC.size
    if size > limit or size != stop - _HEAD.size:
        raise MessageError(f"a body of {stop - _HEAD.size} bytes that claims {size}, of {limit} allowed")
    if zlib.crc32(memoryview(frame)[:stop]) != checksum(frame):
        raise MessageError("the checksum is wrong: the frame was damaged on its way")
    if (form := _BY_CODE.get(code)) is None:
        raise MessageError(f"no message has the code {code}; update the older side")
    values, at = [], _HEAD.size
    for _, _, kind in form.fields:
        value, at = kind.read(frame, at, stop)
        values.append(value)
    message = form.cls(*values)
    if at != stop:
        raise MessageError(f"{stop - at} bytes are left after the last field of {form.cls.__name__}")
    message.check()
    return message


def checksum(frame: bytes) -> int:
    """The CRC-32 at the end of a frame, by which a question is known; of a whole frame only."""
    value: int = _CRC.unpack_from(frame, len(frame) - _CRC.size)[0]
    return value


def answers(frame: bytes) -> int:
    """The checksum of the question that a frame answers; of a whole frame only."""
    value: int = _HEAD.unpack_from(frame)[3]
    return value
