"""How the fields of a message are written: little-endian, every length checked before anything is taken.

Arrays are handed out as views of the frame, so reading allocates no more than the frame holds, whatever
lengths a damaged frame claims. There is no pickle, and nothing is called by a name that a frame gives.
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


def _end(at: int, size: int, stop: int) -> int:
    """Where `size` bytes from `at` end, if the frame has so many before `stop`."""
    if size > stop - at:
        raise MessageError(f"a field of {size} bytes in a frame that has {stop - at} left")
    return at + size


class Kind(ABC):
    """What a field may hold, and how it is written."""

    @abstractmethod
    def write(self, value: Any, name: str) -> bytes:
        """The bytes of `value`, of the field `name`."""

    @abstractmethod
    def read(self, frame: bytes, at: int, stop: int) -> tuple[Any, int]:
        """The value that `write` was given, which begins at `at`, and where it ends: at `stop` at most.

        Raises:
            MessageError: there is no such value.
        """


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

    def read(self, frame: bytes, at: int, stop: int) -> tuple[int, int]:
        """The number."""
        end = _end(at, 8, stop)
        return _U64.unpack_from(frame, at)[0], end


class Number(Kind):
    """A finite float."""

    def write(self, value: Any, name: str) -> bytes:
        """Eight bytes."""
        if type(value) is not float or not math.isfinite(value):
            _refuse(value, name, "a finite float")
        return _F64.pack(value)

    def read(self, frame: bytes, at: int, stop: int) -> tuple[float, int]:
        """The number."""
        end = _end(at, 8, stop)
        value: float = _F64.unpack_from(frame, at)[0]
        if not math.isfinite(value):
            raise MessageError(f"a number must be finite, got {value}")
        return value, end


class Flag(Kind):
    """A bool."""

    def write(self, value: Any, name: str) -> bytes:
        """One byte."""
        if type(value) is not bool:
            _refuse(value, name, "a bool")
        return b"\1" if value else b"\0"

    def read(self, frame: bytes, at: int, stop: int) -> tuple[bool, int]:
        """The flag."""
        end = _end(at, 1, stop)
        value = frame[at]
        if value > 1:
            raise MessageError(f"a flag must be 0 or 1, got {value}")
        return value == 1, end


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

    def read(self, frame: bytes, at: int, stop: int) -> tuple[str, int]:
        """The text."""
        start = _end(at, 4, stop)
        (size,) = _U32.unpack_from(frame, at)
        if size > self.limit:
            raise MessageError(f"a text of {size} bytes where {self.limit} are allowed")
        end = _end(start, size, stop)
        try:
            return frame[start:end].decode(), end
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

    def read(self, frame: bytes, at: int, stop: int) -> tuple[NDArray[Any], int]:
        """A read-only view of the frame."""
        _end(at, 2, stop)
        code, ndim = frame[at], frame[at + 1]
        if code not in DTYPES or (self.code and code != self.code):
            raise MessageError(f"an array of dtype code {code} where it is not allowed")
        if ndim > MAX_DIMENSIONS or (self.ndim is not None and ndim != self.ndim):
            raise MessageError(f"an array of {ndim} dimensions where it is not allowed")
        form, dtype = _SHAPES[ndim], DTYPES[code]
        start = _end(at, form.size, stop)
        shape = form.unpack_from(frame, at)[2:]
        count = math.prod(shape)
        if count > self.limit:
            raise MessageError(f"an array of {count} numbers where {self.limit} are allowed")
        end = _end(start, count * dtype.itemsize, stop)
        flat = np.frombuffer(frame, dtype, count, start)
        return flat if ndim == 1 else flat.reshape(shape), end


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

    def read(self, frame: bytes, at: int, stop: int) -> tuple[dict[str, NDArray[Any]], int]:
        """The arrays by name."""
        end = _end(at, 2, stop)
        (count,) = _U16.unpack_from(frame, at)
        if count > MAX_TENSORS:
            raise MessageError(f"{count} arrays where {MAX_TENSORS} are allowed")
        found: dict[str, NDArray[Any]] = {}
        for _ in range(count):
            key, end = self._name.read(frame, end, stop)
            if key in found:
                raise MessageError(f"two arrays are called {key!r:.60}")
            found[key], end = self._array.read(frame, end, stop)
        return found, end
