"""Words of a command line to the typed arguments of a plain function, and complaints in one line."""

from __future__ import annotations

import inspect
import json
import re
import typing
from typing import TYPE_CHECKING, Any

from recbench.config import PARTS, expand, names, nearest
from recbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jsonargparse import ArgumentParser

RESOLVED = "config"  # a parameter of this name receives the resolved configuration instead of an option


def parse(function: Callable[..., object], argv: Sequence[str], *, prog: str) -> dict[str, Any]:
    """The arguments of `function`: positional parameters are words of `argv`, keyword-only ones are options.

    Raises:
        UsageError: a word is unknown, missing, or of the wrong type or value.
    """
    from argparse import ArgumentError

    wanted = inspect.signature(function).parameters
    flags = {f"--{name}" for name, parameter in wanted.items() if parameter.default is False}
    words = [_underscored(word) for word in argv]
    words = [f"{word}=true" if word in flags else word for word in words]
    words = expand(words) if RESOLVED in wanted else words
    parser = _parser(function, prog)
    try:
        parsed = parser.parse_args(words)
    except ArgumentError as error:
        raise UsageError(explain(str(error), parser)) from None
    plain = json.loads(parser.dump(parsed, format="json", skip_unset=False))
    try:
        built = vars(parser.instantiate(parsed))
    except ValueError as error:  # the classes' own checks of their arguments
        raise UsageError(str(error)) from error
    built[RESOLVED] = {name: plain[name] for name in wanted if name in plain}
    return {name: built[name] for name in wanted}


def _underscored(word: str) -> str:
    """`--token-file=a-b` as `--token_file=a-b`."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _parser(function: Callable[..., object], prog: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    # `key: null` is a value to check, not an absent one; and no dictionary turns into an object of any class
    set_parsing_settings(
        unset_sentinel=True, instantiate_subclass_spec_in_any=False, subclasses_disabled=[_is_data_module]
    )
    parameters = inspect.signature(function).parameters
    options: set[str | int] = {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    words: set[str | int] = {name for name in parameters if name not in options}
    summary = inspect.getdoc(function) or ""
    parser = ArgumentParser(prog=prog, description=summary.partition("\n\nArgs:")[0], exit_on_error=False)
    if RESOLVED in parameters:
        parser.add_argument(
            "--config", action="config", help="a file that --print_config or a run has written"
        )
    parser.add_function_arguments(function, as_positional=True, skip=options | {RESOLVED}, as_group=False)
    parser.add_function_arguments(function, skip=words | {RESOLVED}, as_group=False)
    return parser


def _is_data_module(cls: type) -> bool:
    """Methods are many classes; data sets are values of one, so `--data.max_len` needs no class path."""
    return any(base.__name__ == "LightningDataModule" for base in cls.__mro__)


def explain(message: str, parser: ArgumentParser) -> str:
    """Say in one line what jsonargparse says in a tree: the key, the rule, and the nearest known name."""
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    classes = re.findall(r"given class_path '([^']+)'", message)
    where = ".".join(keys)
    if unknown := re.search(r"(?:Group '([\w.]+)' does not accept o|O)ption '([^']+)'", message):
        group = [unknown[1]] if unknown[1] else []
        return _unknown_option(".".join([*keys, *group, unknown[2]]), keys, classes, parser)
    if unknown := re.search(r"unrecognized arguments: (--)?([^\s=]+)", message):
        if not unknown[1]:
            return f"unexpected argument {unknown[2]!r}; see {parser.prog} --help"
        return _unknown_option(".".join([*keys, unknown[2]]), keys, classes, parser)
    if wrong := re.search(r"Expected an? (.+?)\. Got value: (.*)", message):
        given = re.search(r"Given value: (.*)", message)  # as typed, where the rule is a union
        return f"{where}: {_expected(wrong[1], given[1] if given else wrong[2])}"
    if name := re.search(r"import path string: (.*)|No module named|has no attribute", message):
        wanted, owners = (name[1], classes) if name[1] else (classes[-1], classes[:-1])
        known = _choices(owners, keys[-1]) + (names("model") if keys[-1] in PARTS else [])
        return f"{where}: unknown name {wanted!r}{nearest(wanted, known)}"
    if missing := re.search(r"arguments are required: (.*)", message):
        return f"{missing[1].replace('.name', '')} must be given; see {parser.prog} --help"
    if other := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message):
        return f"{where}: {other[1]} is not a {other[2]}"
    if lump := re.search(r'Unable to load config "(.*)"', message):
        return f"{where}: has options of its own, such as --{where}.NAME; {lump[1]!r} is not one of them"
    if bare := re.search(r"argument (\S+): expected one argument", message):
        return f"{bare[1]} needs a value"
    return " ".join([f"{where}:" if keys else "", *message.splitlines()[-1].split()]).strip(" -")


def _unknown_option(option: str, keys: list[str], classes: list[str], parser: ArgumentParser) -> str:
    owner = _resolve(classes[-1]) if classes else None
    inside = [".".join([*keys, name]) for name in _options(owner)] if owner else []
    known = inside or list(parser.get_defaults().keys())
    first = option.partition(".")[0]
    if first not in (firsts := [name.partition(".")[0] for name in known]):
        option, known = first, firsts  # the group is misspelt, not what is inside
    of = f" of {owner.__name__}" if owner else ""
    return f"{option}: no such option{of}{nearest(option, known)}"


def _options(owner: type) -> list[str]:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner)
    return list(parser.get_defaults().keys())


def _expected(kind: str, value: str) -> str:
    """`must be int, got 'x'`, or the choices of a Literal."""
    if kind.startswith("typing.Literal"):
        choices = re.findall(r"'([^']*)'", kind)
        return f"must be one of {', '.join(choices)}, got {value!r}{nearest(value, choices)}"
    plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    return f"must be {plain}, got {value!r}"


def _resolve(path: str) -> type | None:
    """The class a dotted path names, if it does."""
    import importlib

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def _choices(owners: list[str], key: str) -> list[str]:
    """Names of the classes that may be given for the parameter `key` of the last of `owners`."""
    owner = _resolve(owners[-1]) if owners else None
    if owner is None:
        return []
    try:
        hint = inspect.signature(owner, eval_str=True).parameters[key].annotation
    except (NameError, KeyError):  # a type imported for checkers only, or a nested key
        return []
    bases = [base for base in (hint, *typing.get_args(hint)) if isinstance(base, type)]
    return [found.__name__ for base in bases for found in _subclasses(base)]


def _subclasses(base: type[object]) -> Iterator[type[object]]:
    for found in base.__subclasses__():
        yield found
        yield from _subclasses(found)
