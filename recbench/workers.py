"""Stages that need nothing of one another, each trained in a process of its own.

A worker trains one stage and leaves its checkpoint; the run then loads it, as one that is resumed loads what
an earlier one finished. So the numbers are those of training one after the other, on as many threads, and
what a run that broke has left is gone on with. A worker that fails ends the others and the run; none outlives
the run.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch
from lightning import seed_everything

from recbench import runtime
from recbench.errors import RecbenchError, ResourceError
from recbench.training import TrainerOptions, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from recbench.models.base import Stage


@dataclass
class _Worker:
    """One stage in a process.

    Args:
        stage: its name.
        process: what trains it.
        said: where it says why it failed, and says nothing where it did not.
    """

    stage: str
    process: BaseProcess
    said: Connection

    def finish(self) -> None:
        """Wait for the end of the process, whose connection has closed or said something."""
        try:
            error = self.said.recv()
        except EOFError:
            error = None
        self.process.join()
        if isinstance(error, RecbenchError):
            raise error
        if error is not None:
            raise RuntimeError(f"stage {self.stage} failed in its process:\n{error}")
        if code := self.process.exitcode:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ResourceError(
                f"stage {self.stage}: its process ended early ({how}); where memory was short, lower "
                "--trainer.workers; --resume goes on from the last whole epoch"
            )

    def kill(self) -> None:
        """End it at once: a checkpoint is whole or absent."""
        self.process.kill()
        self.process.join()


def train_beside(
    stages: Sequence[Stage], folder: Path, options: TrainerOptions, *, seed: int, resume: bool
) -> None:
    """Leave the checkpoint of every stage, `options.workers` trained at once; their curves are not logged.

    Args:
        stages: that need nothing of one another.
        folder: of the checkpoints.
        options: of training; the processor's threads are divided among the workers unless it names a number.
        seed: of the run.
        resume: whether what is finished stays and what was begun is gone on with.

    Raises:
        RecbenchError: what a worker failed with.
        ResourceError: a worker was killed.
        RuntimeError: a worker failed by a mistake in the code; the message has its traceback.
    """
    threads = options.threads or max(1, torch.get_num_threads() // options.workers)
    own = replace(options, threads=threads, workers=1, progress=False)
    waiting = [stage for stage in stages if not (resume and (folder / f"{stage.name}.ckpt").exists())]
    running: dict[Any, _Worker] = {}
    try:
        while waiting or running:
            while waiting and len(running) < options.workers:
                worker = _started(waiting.pop(0), folder, own, seed, resume)
                running[worker.said] = worker
            for said in wait(list(running)):
                running.pop(said).finish()
    finally:
        for worker in running.values():
            worker.kill()


def _started(stage: Stage, folder: Path, options: TrainerOptions, seed: int, resume: bool) -> _Worker:
    """A process of its own interpreter: a fork would share threads and devices that it cannot use."""
    data = copy.copy(stage.data)
    data.trainer = None  # of a stage before this one
    payload = pickle.dumps(replace(stage, data=data))  # not as an argument: that would share the weights
    context = multiprocessing.get_context("spawn")
    hears, says = context.Pipe(duplex=False)
    arguments = (payload, folder, options, seed, resume, says)
    process = context.Process(target=_work, args=arguments, name=stage.name, daemon=True)
    process.start()
    says.close()
    return _Worker(stage.name, process, hears)


def _work(
    payload: bytes, folder: Path, options: TrainerOptions, seed: int, resume: bool, says: Connection
) -> None:
    """What happens in the process."""
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    try:
        torch.set_num_threads(options.threads)
        runtime.keep_freed_memory()
        stage: Stage = pickle.loads(payload)
        seed_everything(seed, verbose=False)
        train(stage, folder, options, seed=seed, resume=resume, logger=None)
    except RecbenchError as error:
        says.send(error)
    except Exception:
        says.send(traceback.format_exc())


def _end_with_the_run() -> None:
    """A run that was killed can no longer end its workers."""
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)
