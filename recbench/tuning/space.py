"""What a search may vary, and a method's configuration with something else in its place."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optuna.distributions import BaseDistribution

Space = dict[str, "BaseDistribution"]


def read_space(content: Mapping[str, Any], path: Path, *, known: set[str]) -> Space:
    """What may be varied: option -> distribution, for the options that are `known`.

    An entry is `{choices: [...]}`, or `{low: , high: }` with `log: true` or `step:`; integers stay so.

    Raises:
        DataError: an entry is of another form.
        UsageError: none of the options is known.
    """
    space = {}
    for name, entry in content.items():
        try:
            found = _distribution(**entry)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: {name}: {error}; write {{choices: [a, b]}} or {{low: 1, high: 9}}"
            ) from None
        if name in known:
            space[name] = found
    if not space:
        raise UsageError(
            f"{path}: the method has none of the options {', '.join(content)}; give --space FILE"
        )
    return space


def _distribution(
    *,
    choices: list[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    log: bool = False,
) -> BaseDistribution:
    if choices is not None:
        return CategoricalDistribution(choices)
    if low is None or high is None:
        raise ValueError("neither choices nor both low and high")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def options_of(init_args: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of a method's options, such as `dim` and `recipe.lr`."""
    found = set()
    for name, value in init_args.items():
        if isinstance(value, dict):
            found |= options_of(value, f"{prefix}{name}.")
        found.add(f"{prefix}{name}")
    return found


def given(init_args: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """What a method's configuration says for the options of a space; one it leaves open is left out."""
    found = {}
    for name in space:
        value: Any = init_args
        for part in name.split("."):
            value = value[part]
        if value is not None:
            found[name] = value
    return found


def holding(space: Space, options: Mapping[str, Any]) -> Space:
    """The space, each entry widened as far as it must be to hold these options."""
    return space | {name: _holding(space[name], value) for name, value in options.items()}


def _holding(entry: BaseDistribution, value: Any) -> BaseDistribution:
    if isinstance(entry, CategoricalDistribution):
        return entry if value in entry.choices else CategoricalDistribution([*entry.choices, value])
    assert isinstance(entry, IntDistribution | FloatDistribution)
    if entry.low <= value <= entry.high:
        return entry
    low, high = min(entry.low, value), max(entry.high, value)
    # a step counts from the lower end, which may have moved off it
    if isinstance(entry, IntDistribution):
        return IntDistribution(int(low), int(high), log=entry.log and low > 0)
    return FloatDistribution(low, high, log=entry.log and low > 0)


def described(options: Mapping[str, Any]) -> str:
    """Options and their values on one line."""
    return ", ".join(
        f"{name.removeprefix('recipe.')} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in options.items()
    )


def with_options(model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's configuration with these dotted `options` in place of its own."""
    changed = copy.deepcopy(dict(model))
    for name, value in options.items():
        place = changed["init_args"]
        *parents, last = name.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return changed
