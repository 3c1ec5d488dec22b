"""Private: a value that stays on the device. No message field takes one, so it cannot be encoded."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar, final

from recbench.edge.wire import PrivateError

T = TypeVar("T")


@final
class Private(Generic[T]):
    """Wraps what only the device may read, such as a history or a query.

    It has no length, no items and no text of its own, does not turn into an array, and cannot be pickled: the
    one way in is `reveal`, which is easy to search for.

    Args:
        value: what is kept.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value, for computations that stay on the device."""
        return self._value

    def __repr__(self) -> str:
        return f"Private[{type(self._value).__name__}]"

    def __reduce__(self) -> NoReturn:
        raise PrivateError("a Private value cannot be pickled or copied; it does not leave the device")

    def __array__(self, *args: Any, **options: Any) -> NoReturn:
        raise PrivateError("a Private value does not turn into an array; reveal() it on the device")
