"""How the fields of a message are written: little-endian, every length checked before anything is taken.

A reader hands out views of the frame, so reading allocates no more than the frame holds, whatever lengths a
damaged frame claims. There is no pickle, and nothing is called by a name that a frame gives.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from recbench.errors import RecbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = {code: np.dtype(name) for code, name in enumerate(("<i1", "<i4", "<f2", "<f4"), start=1)}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_DIMENSIONS, MAX_TENSORS, MAX_NAME = 4, 1024, 128
_U16, _U32, _U64, _F64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<d")
_SHAPES = [struct.Struct(f"<BB{ndim}I") for ndim in range(MAX_DIMENSIONS + 1)]


class MessageError(RecbenchError):
    """A frame that is not what an encoder writes, or a message that cannot be encoded."""

    exit_code = 3


class PrivateError(MessageError):
    """A value that must stay on the device was about to leave it."""


class Reader:
    """A frame and how far it has been read.

    Args:
        frame: the bytes.
        start: where reading begins.
        stop: where it must end.
    """

    __slots__ = ("at", "frame", "stop")

    def __init__(self, frame: bytes, start: int, stop: int) -> None:
        self.frame, self.at, self.stop = frame, start, stop

    def take(self, size: int) -> int:
        """Where the next `size` bytes begin; the reader goes past them.

        Raises:
            MessageError: the frame has not so many left.
        """
        start = self.at
        if size > self.stop - start:
            raise MessageError(f"a field of {size} bytes in a frame that has {self.stop - start} left")
        self.at = start + size
        return start

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """The next fixed-size values."""
        return form.unpack_from(self.frame, self.take(form.size))


class Kind(ABC):
    """What a field may hold, and how it is written."""

    @abstractmethod
    def write(self, value: Any, name: str) -> bytes:
        """The bytes of `value`, of the field `name`."""

    @abstractmethod
    def read(self, reader: Reader) -> Any:
        """The value that `write` was given."""


def _refuse(value: object, name: str, wanted: str) -> NoReturn:
    from recbench.edge.privacy import Private  # which raises this module's error

    if isinstance(value, Private):
        raise PrivateError(f"{name} is private and may not leave the device; send something derived from it")
    raise MessageError(f"{name} must be {wanted}, got {type(value).__name__} {value!r:.60}")


class Whole(Kind):
    """An int of 0 to 2^64 - 1."""

    def write(self, value: Any, name: str) -> bytes:
        """Eight bytes."""
        if type(value) is not int or not 0 <= value < 1 << 64:
            _refuse(value, name, "an int of 0 to 2^64 - 1")
        return _U64.pack(value)

    def read(self, reader: Reader) -> int:
        """The number."""
        value: int = reader.unpack(_U64)[0]
        return value


class Number(Kind):
    """A finite float."""

    def write(self, value: Any, name: str) -> bytes:
        """Eight bytes."""
        if type(value) is not float or not math.isfinite(value):
            _refuse(value, name, "a finite float")
        return _F64.pack(value)

    def read(self, reader: Reader) -> float:
        """The number."""
        value: float = reader.unpack(_F64)[0]
        if not math.isfinite(value):
            raise MessageError(f"a number must be finite, got {value}")
        return value


class Flag(Kind):
    """A bool."""

    def write(self, value: Any, name: str) -> bytes:
        """One byte."""
        if type(value) is not bool:
            _refuse(value, name, "a bool")
        return b"\1" if value else b"\0"

    def read(self, reader: Reader) -> bool:
        """The flag."""
        value = reader.frame[reader.take(1)]
        if value > 1:
            raise MessageError(f"a flag must be 0 or 1, got {value}")
        return value == 1


class Text(Kind):
    """A str of at most `limit` bytes of UTF-8."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def write(self, value: Any, name: str) -> bytes:
        """Length, then the bytes."""
        if type(value) is not str:
            _refuse(value, name, "a str")
        try:
            content = value.encode()
        except UnicodeEncodeError:
            raise MessageError(f"{name} must be text that UTF-8 can hold, got a lone surrogate") from None
        if len(content) > self.limit:
            raise MessageError(f"{name} must have at most {self.limit} bytes, got {len(content)}; shorten it")
        return _U32.pack(len(content)) + content

    def read(self, reader: Reader) -> str:
        """The text."""
        (size,) = reader.unpack(_U32)
        if size > self.limit:
            raise MessageError(f"a text of {size} bytes where {self.limit} are allowed")
        start = reader.take(size)
        try:
            return reader.frame[start : start + size].decode()
        except UnicodeDecodeError:
            raise MessageError("a text is not UTF-8") from None


class Array(Kind):
    """A numpy array of one dtype and number of dimensions, with at most `limit` numbers.

    Args:
        dtype: one of `DTYPES`, or None for any of them.
        ndim: dimensions, or None for any up to `MAX_DIMENSIONS`.
        limit: numbers at most.
    """

    def __init__(self, dtype: str | None = None, *, ndim: int | None = None, limit: int = 1 << 28) -> None:
        self.code = CODES[np.dtype(dtype)] if dtype else None
        self.ndim, self.limit = ndim, limit

    def write(self, value: Any, name: str) -> bytes:
        """Dtype and dimensions, shape, then the numbers row by row."""
        if type(value) is not np.ndarray:
            _refuse(value, name, "a numpy array")
        code = CODES.get(value.dtype)
        if code is None or (self.code and code != self.code):
            allowed = DTYPES[self.code] if self.code else ", ".join(map(str, CODES))
            raise MessageError(f"{name} must have dtype {allowed}, got {value.dtype}; convert it first")
        if value.ndim > MAX_DIMENSIONS or (self.ndim is not None and value.ndim != self.ndim):
            raise MessageError(f"{name} must have {self.ndim or 'at most 4'} dimensions, got {value.ndim}")
        if value.size > self.limit:
            raise MessageError(f"{name} must have at most {self.limit} numbers, got {value.size}")
        return _SHAPES[value.ndim].pack(code, value.ndim, *value.shape) + value.tobytes()

    def read(self, reader: Reader) -> NDArray[Any]:
        """A read-only view of the frame."""
        start = reader.take(2)
        code, ndim = reader.frame[start], reader.frame[start + 1]
        if code not in DTYPES or (self.code and code != self.code):
            raise MessageError(f"an array of dtype code {code} where it is not allowed")
        if ndim > MAX_DIMENSIONS or (self.ndim is not None and ndim != self.ndim):
            raise MessageError(f"an array of {ndim} dimensions where it is not allowed")
        reader.at = start
        shape = reader.unpack(_SHAPES[ndim])[2:]
        count, dtype = math.prod(shape), DTYPES[code]
        if count > self.limit:
            raise MessageError(f"an array of {count} numbers where {self.limit} are allowed")
        start = reader.take(count * dtype.itemsize)
        flat = np.frombuffer(reader.frame, dtype, count, start)
        return flat if ndim == 1 else flat.reshape(shape)


class Tensors(Kind):
    """Named arrays of any whitelisted dtype, such as the weights of a layer; names are all different."""

    _name, _array = Text(MAX_NAME), Array()

    def write(self, value: Any, name: str) -> bytes:
        """How many, then name and array of each, in their order."""
        if type(value) is not dict:
            _refuse(value, name, "a dict of numpy arrays")
        if len(value) > MAX_TENSORS:
            raise MessageError(f"{name} must have at most {MAX_TENSORS} arrays, got {len(value)}")
        parts = [_U16.pack(len(value))]
        for key, array in value.items():
            parts += [self._name.write(key, f"a key of {name}"), self._array.write(array, f"{name}[{key!r}]")]
        return b"".join(parts)

    def read(self, reader: Reader) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        (count,) = reader.unpack(_U16)
        if count > MAX_TENSORS:
            raise MessageError(f"{count} arrays where {MAX_TENSORS} are allowed")
        found: dict[str, NDArray[Any]] = {}
        for _ in range(count):
            key = self._name.read(reader)
            if key in found:
                raise MessageError(f"two arrays are called {key!r:.60}")
            found[key] = self._array.read(reader)
        return found
