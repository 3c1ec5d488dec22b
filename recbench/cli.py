"""The `recbench` command: find the command word, call its function, turn mishaps into one line and a code.

torch is imported by the functions that need it, after the command word is known.
"""

from __future__ import annotations

import errno
import inspect
import os
import shlex
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recbench import __doc__ as about
from recbench import __version__, commands, doctor, runs
from recbench.config import nearest
from recbench.errors import FaultyFileError, RecbenchError, ResourceError, UsageError
from recbench.parse import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

COMMANDS: dict[str, Callable[..., object]] = {
    "fit": runs.fit,
    "evaluate": commands.evaluate,
    "recommend": commands.recommend,
    "tune": runs.tune,
    "bench": commands.bench,
    "leaderboard": commands.leaderboard,
    "replay": commands.replay,
    "export": commands.export,
    "serve cloud": commands.serve_cloud,
    "device": commands.device,
    "data list": commands.data_list,
    "data prepare": commands.data_prepare,
    "data check": commands.data_check,
    "data stats": commands.data_stats,
    "weights list": commands.weights_list,
    "weights get": commands.weights_get,
    "doctor": doctor.doctor,
}


class Terminated(BaseException):
    """SIGTERM, as an exception, so that what is open is closed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_raises():
            return _run(argv)
    except RecbenchError as error:
        if isinstance(error, FaultyFileError):
            print(error.report)
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain(f"interrupted{_how_to_go_on(argv)}", 128 + signal.SIGINT)
    except Terminated:
        return _complain(f"terminated{_how_to_go_on(argv)}", 128 + signal.SIGTERM)
    except BrokenPipeError:  # `recbench data list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit itself complains
        return 128 + signal.SIGPIPE
    except (OSError, MemoryError, RuntimeError) as error:
        if (message := _exhausted(error)) is None:
            raise
        return _complain(message, ResourceError.exit_code)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help(COMMANDS))
    elif argv[0] == "--version":
        print(f"recbench {__version__}")
    elif _family(argv[0]) and set(argv[1:]) <= {"-h", "--help"}:
        print(_help(_family(argv[0])))
    else:
        name, rest = _command(argv)
        _show(COMMANDS[name](**parse(COMMANDS[name], rest, prog=f"recbench {name}")))
    return 0


def _family(word: str) -> dict[str, Callable[..., object]]:
    """The commands of two words that start with `word`."""
    return {name: function for name, function in COMMANDS.items() if name.startswith(f"{word} ")}


def _command(argv: list[str]) -> tuple[str, list[str]]:
    """The command that `argv` starts with, and the words after it."""
    for length in (1, 2):
        if (name := " ".join(argv[:length])) in COMMANDS:
            return name, argv[length:]
    given = " ".join(argv[: 2 if _family(argv[0]) else 1])
    known = {*COMMANDS, *(name.partition(" ")[0] for name in COMMANDS)}
    raise UsageError(f"unknown command {given!r}{nearest(given, _family(argv[0]) or known)}")


def _help(shown: dict[str, Callable[..., object]]) -> str:
    summaries = {
        name: (inspect.getdoc(function) or "").partition("\n")[0] for name, function in shown.items()
    }
    lines = [f"  {name:<14}{summary}" for name, summary in summaries.items()]
    heading = (about or "").splitlines()[0]
    usage = "usage: recbench COMMAND ...; recbench COMMAND --help says more"
    return "\n".join([heading, "", usage, "", *lines])


def _show(result: object) -> None:
    if isinstance(result, Generator):  # of a command that goes on: each part as soon as it is there
        for part in result:
            _show(part)
        return
    if isinstance(result, str):
        print(result, flush=True)
        return
    from rich.console import Console

    Console().print(result)


def _complain(message: str, code: int) -> int:
    print(f"recbench: {' '.join(message.split())}", file=sys.stderr)
    return code


def _how_to_go_on(argv: list[str]) -> str:
    if argv[:1] != ["fit"]:
        return ""
    again = shlex.join(["recbench", *(word for word in argv if word != "--resume"), "--resume"])
    return f"; finished epochs are kept, go on with: {again}"


def _exhausted(error: Exception) -> str | None:
    """What to say when disk or memory ran out; None for a bug, which keeps its traceback."""
    if isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{error.filename or 'disk'}: no space left; free some and run again" if is_full else None
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if is_memory or "can't allocate memory" in str(error):
        return "out of memory; use a smaller --model.recipe.batch_size, --data.eval_batch_size or --model.dim"
    return None


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal.signal's signature
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
