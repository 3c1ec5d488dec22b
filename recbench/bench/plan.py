"""A bench file -> the runs it asks for.

    timeout_minutes: 120                      # of every run; 0 or absent for none
    options: {trainer: cpu}                   # of every run, as on the command line of fit
    cells:
      - {models: [bsarec, hstu], data: [beauty, sports], seeds: [0]}
      - {models: [sasrec], data: [beauty], seeds: [0, 1, 2], options: {model.recipe.lr: 0.002}}

A cell is the product of its models, data sets and seeds; its options win over those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from recbench import config
from recbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_FILE_KEYS = ("timeout_minutes", "options", "cells")
_CELL_KEYS = ("models", "data", "seeds", "options")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run that a bench file asks for.

    Args:
        model: preset, class or file.
        data: preset or file.
        seed: of the run.
        options: further words of `fit`'s command line.
    """

    model: str
    data: str
    seed: int
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The options of `recbench fit`."""
        return ["--model", self.model, "--data", self.data, f"--seed={self.seed}", *self.options]

    def __str__(self) -> str:
        return f"{self.data} / {self.model} / {self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bench file says.

    Args:
        cells: the runs, in the file's order, each once.
        timeout_s: seconds a run may take; 0 for no limit.
    """

    cells: tuple[Cell, ...]
    timeout_s: float = 0.0


def read_plan(path: Path) -> Plan:
    """The runs a bench file asks for.

    Raises:
        DataError: the file is missing, no YAML, or not of this form; the message names the cell and the rule.
        UsageError: a model or data set in it is unknown.
    """
    content = config.read(path)
    _check_keys(content, _FILE_KEYS, f"{path}")
    cells = content.get("cells")
    if not isinstance(cells, list) or not cells:
        raise DataError(
            f"{path}: cells must be a list of at least one {{models, data, seeds}}, got {cells!r}"
        )
    shared = _options(content.get("options", {}), f"{path}: options")
    found: list[Cell] = []
    for number, cell in enumerate(cells, start=1):
        found += _cells(cell, shared, f"{path}: cell {number}")
    minutes = content.get("timeout_minutes", 0)
    if not isinstance(minutes, int | float) or minutes < 0:
        raise DataError(f"{path}: timeout_minutes must be 0 or more, got {minutes!r}")
    return Plan(tuple(dict.fromkeys(found)), timeout_s=60.0 * minutes)


def _cells(cell: Any, shared: dict[str, str], where: str) -> list[Cell]:
    """The product of one cell."""
    if not isinstance(cell, dict):
        raise DataError(f"{where}: must be {{models: [...], data: [...], seeds: [...]}}, got {cell!r}")
    _check_keys(cell, _CELL_KEYS, where)
    models, data, seeds = (_list(cell, name, where) for name in ("models", "data", "seeds"))
    if not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise DataError(f"{where}: seeds must be whole numbers from 0, got {seeds}")
    for kind, names in (("model", models), ("data", data)):
        for name in names:
            config.expand([f"--{kind}", str(name)])  # tells of an unknown name before anything runs
    options = shared | _options(cell.get("options", {}), f"{where}: options")
    words = tuple(f"--{name}={value}" for name, value in options.items())
    return [Cell(str(m), str(d), s, words) for d, m, s in product(data, models, seeds)]


def _list(cell: dict[str, Any], name: str, where: str) -> list[Any]:
    found = cell.get(name, [0] if name == "seeds" else None)
    if not isinstance(found, list) or not found:
        raise DataError(f"{where}: {name} must be a list such as [a, b], got {found!r}")
    return found


def _options(found: Any, where: str) -> dict[str, str]:
    """Dotted names -> values, in the order given."""
    if not isinstance(found, dict) or any(isinstance(value, dict | list) for value in found.values()):
        raise DataError(f"{where}: must be {{dotted.name: value}}, got {found!r}")
    reserved = {"model", "data", "seed", "runs", "results", "resume", "wandb"} & set(found)
    if reserved:
        raise UsageError(f"{where}: {min(reserved)} is decided by the bench, not by its options")
    return {str(name): str(value) for name, value in found.items()}


def _check_keys(content: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in content:
        if name not in known:
            raise DataError(f"{where}: unknown key {name!r}{config.nearest(str(name), known)}")
