"""Runs that take a second: the demo world in miniature, methods of width 8, and ways to stop them."""

from __future__ import annotations

import functools
import inspect
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import tiny_lm
import torch

from recbench import models
from recbench.data.module import InteractionData
from recbench.data.synthetic import demo
from recbench.fit import TrainerOptions, fit
from recbench.models.base import Recipe, Recommender
from recbench.nn.lm_options import LanguageModelOptions
from recbench.training import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from recbench.data.prepared import Prepared
    from recbench.data.samples import Samples

Method = TypeVar("Method", bound=Recommender)
WIDTHS = {"dim": 8, "hidden": 16, "num_layers": 1, "num_heads": 2, "max_len": 50}
RECIPE = Recipe(
    lr=0.01, weight_decay=0.1, batch_size=32, max_epochs=4, schedule="linear", warmup_steps=3, clip=1.0
)
WHEN = ("finished", "latency", "evaluation_users_per_s")  # what differs between two equal runs, and train_s


@functools.cache
def world(index_seed: int = 0) -> Prepared:
    return demo(num_users=150, num_items=60, index_seed=index_seed)


def small_data(*, index_seed: int = 0, **options: Any) -> InteractionData:
    return InteractionData.of(world(index_seed), mask_seen=False, eval_batch_size=64, **options)


def steps_per_epoch(samples: Samples = RECIPE.samples, *, newest: int = 0) -> int:
    data = small_data().newest(newest) if newest else small_data()
    return len(data.batched(RECIPE.batch_size, 0, samples=samples).train_dataloader())


def gradient_methods() -> list[type[Recommender]]:
    """Every shipped method that is trained by gradient: those that say what their loss is."""
    found = [getattr(models, name) for name in models.__all__]
    return [cls for cls in found if cls.loss is not Recommender.loss]


def small_model(cls: type[Recommender], recipe: Recipe = RECIPE, **options: Any) -> Recommender:
    """`cls` at width 8, whatever of the usual sizes it has, trained on the samples it is meant for."""
    known = inspect.signature(cls).parameters
    recipe = replace(recipe, samples=known["recipe"].default.samples)
    for part in {"base", "encoder"} & set(known):  # the method stands upon another, trained before it
        options = {part: small_model(models.SASRec, replace(RECIPE, max_epochs=1))} | options
    if "lm" in known:
        options = {"lm": LanguageModelOptions(name=tiny_lm.shared(), max_tokens=128)} | options
    if "train_encoder" in known:  # else it learns from a sample per user, and the tests count steps
        options = {"train_encoder": "both"} | options
    return cls(recipe=recipe, **{key: value for key, value in WIDTHS.items() if key in known} | options)


def taught(model: Method, folder: Path, data: InteractionData | None = None, *, seed: int = 0) -> Method:
    """Built and trained as `fit` does, without a record; its stages are kept below `folder`."""
    data = data or small_data()
    torch.manual_seed(seed)
    model.build(data.catalog)
    options = TrainerOptions(progress=False)
    with data.training(), torch.enable_grad():
        for stage in model.stages(data):
            train(stage, folder, options, seed=seed, resume=False, logger=None)
    return model.eval()


def run(folder: Path, model: Recommender, data: InteractionData | None = None, **options: Any) -> Path:
    """The record of a `fit` below `folder`."""
    seed = options.pop("seed", 0)
    settings = {"wandb": "disabled", "runs": folder / "runs", "results": folder / "results"} | options
    settings.setdefault("trainer", TrainerOptions(threads=1))
    config = {"model": type(model).__name__, "seed": seed}
    name = type(model).__name__.lower()
    return fit(model, data or small_data(), config=config, name=name, seed=seed, **settings)


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


def timeless(record: Path) -> dict[str, Any]:
    """A record without what a clock decides."""
    content = json.loads(record.read_text())
    for stage in content["stages"].values():
        del stage["train_s"]
    return {key: value for key, value in content.items() if key not in WHEN}


def at_step(model: Recommender, step: int, effect: Callable[[Tensor], Tensor]) -> Recommender:
    """`model`, whose loss at the given step is what `effect` makes of it, or raises."""
    plain = model.loss
    model.loss = lambda batch: effect(plain(batch)) if model.global_step == step else plain(batch)
    return model


def interrupt(_: Tensor) -> Tensor:
    """Ctrl-C while a loss is computed."""
    raise KeyboardInterrupt


def same(a: Any, b: Any) -> bool:
    """Whether two nested containers are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
