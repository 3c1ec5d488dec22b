"""InteractionData: one data set under the leave-one-out protocol, as batches.

U users, B users of a batch, L history, S seen items. A user's items s_1..s_n: the last is the test target,
the one before the validation target, the rest is trained on. Batches are cut from users sorted by length, so
almost nothing is padded, and come as whole `SequenceBatch` objects gathered from two flat arrays: there is no
per-user Python in the loop.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from lightning import LightningDataModule

from recbench.data import prepare
from recbench.data.batch import SequenceBatch
from recbench.data.catalog import Catalog
from recbench.data.samples import prefixes, windows
from recbench.data.sequences import BatchLoader, Sequences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from recbench.data.prepare import Prepared
    from recbench.data.samples import Samples, TrainSamples

__all__ = ["BatchLoader", "InteractionData", "Sequences", "Split", "Users"]

Split = Literal["validation", "test"]
Users = Literal["known", "heldout"]
NUM_TARGETS = 2  # a user's newest items, to validate and to test on


class InteractionData(LightningDataModule):
    """One data set, split leave-one-out by time, served as `SequenceBatch`es.

    Args:
        name: a data set (`recbench data list`) or the path of a sequence file.
        max_len: most recent items a model sees.
        mask_seen: whether items of the history are barred from recommendation; right where nothing repeats.
        heldout_rate: share of users that never train nor validate and are scored apart.
        index_seed: shuffles the item indices; the order of ids in public files gives the targets away.
        eval_batch_size: users per evaluation batch.
    """

    def __init__(
        self,
        name: str,
        *,
        max_len: int = 50,
        mask_seen: bool = True,
        heldout_rate: float = 0.0,
        index_seed: int = 0,
        eval_batch_size: int = 1024,
    ) -> None:
        super().__init__()
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1 item, got {max_len}")
        if not 0 <= heldout_rate < 1:
            raise ValueError(
                f"heldout_rate must lie in 0..1 with somebody left to train on, got {heldout_rate}"
            )
        if eval_batch_size < 1:
            raise ValueError(f"eval_batch_size must be at least 1 user, got {eval_batch_size}")
        self.name, self.max_len, self.mask_seen = name, max_len, mask_seen
        self.heldout_rate, self.index_seed = heldout_rate, index_seed
        self.eval_batch_size = eval_batch_size
        self.batch_size = 256
        self.seed = 0
        self._next_epoch = 1
        self._prepared: Prepared | None = None
        self._is_training = False

    @classmethod
    def of(cls, prepared: Prepared, **options: Any) -> Self:
        """The same for data that is already in memory."""
        data = cls(prepared.name, **options)
        data._prepared = prepared
        data.setup("fit")
        return data

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Load the prepared data, once."""
        if hasattr(self, "sequences"):
            return
        if self._prepared is None:
            self._prepared = prepare.load(str(self.name), index_seed=self.index_seed)
        frame = self._prepared.interactions
        counts = frame.group_by("user", maintain_order=True).len()["len"].to_numpy()
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.sequences = Sequences(frame["item"].to_numpy().astype(np.int64), offsets)
        self._times = frame["time"].to_numpy().astype(np.int64) if "time" in frame.columns else None
        self._queries = self._query_list()
        rng = np.random.default_rng([self.index_seed, 0x4E1D])
        is_heldout = np.zeros(len(counts), dtype=bool)
        is_heldout[rng.permutation(len(counts))[: int(self.heldout_rate * len(counts))]] = True
        self._users = {"known": np.flatnonzero(~is_heldout), "heldout": np.flatnonzero(is_heldout)}
        self._samples = self._cut_samples("positions")

    @property
    def prepared(self) -> Prepared:
        """The data set with its card."""
        self.setup("fit")
        assert self._prepared is not None
        return self._prepared

    @property
    def catalog(self) -> Catalog:
        """Sizes, item features and training popularity."""
        prepared = self.prepared
        popularity = np.bincount(self.train_sequences().items, minlength=prepared.card.num_items + 1)
        return Catalog(prepared.card.num_users, prepared.card.num_items, prepared.items, popularity)

    def users(self, which: Users) -> NDArray[np.int64]:
        """Indices of the users that train (`known`) or never do (`heldout`)."""
        self.setup("fit")
        return self._users[which]

    def train_sequences(self) -> Sequences:
        """What may be learnt from: the known users' items without their last two, user by user."""
        users = self.users("known")
        starts = self.sequences.offsets[users]
        lengths = self.sequences.lengths[users] - 2
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(self.sequences.items[flat], offsets)

    def batched(self, batch_size: int, seed: int, *, samples: Samples = "positions") -> Self:
        """Use `batch_size` samples per training step, in an order that `seed` and the epoch decide."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 sample, got {batch_size}")
        self.batch_size, self.seed, self._next_epoch = batch_size, seed, 1
        self._samples = self._cut_samples(samples)
        return self

    def train_dataloader(self) -> BatchLoader:
        """One pass over all training positions, shuffled by (seed, epoch)."""
        num_batches = -(-len(self._samples.user) // self.batch_size)
        return BatchLoader(self._epoch, self._train_batch, num_batches, self._finish_epoch)

    def val_dataloader(self) -> BatchLoader:
        """The second last item of every known user, after everything before it."""
        return self.targets("validation")

    def test_dataloader(self) -> BatchLoader:
        """The last item of every known user, after everything before it."""
        return self.targets("test")

    def targets(self, split: Split, users: Users = "known") -> BatchLoader:
        """Histories and targets of `split`, each user once, longest batches last.

        Raises:
            RuntimeError: the test targets are asked for while a method trains.
        """
        if split == "test":
            self._refuse_while_training()
        lengths = self.sequences.lengths
        chosen = self.users(users)
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
        batches = [chosen[i : i + self.eval_batch_size] for i in range(0, len(chosen), self.eval_batch_size)]
        back = 2 if split == "validation" else 1
        return BatchLoader(lambda: batches, lambda rows: self.request(rows, back=back), len(batches))

    @contextmanager
    def training(self) -> Iterator[None]:
        """While this holds, the test targets cannot be reached."""
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = False

    def request(self, users: NDArray[np.int64], *, back: int = 1) -> SequenceBatch:
        """The moment before each user's `back`-th item from the end, which is the target; `back` 0 is now."""
        if back < 2:
            self._refuse_while_training()
        stops = self.sequences.offsets[users + 1] - back
        lengths = stops - self.sequences.offsets[users]
        shown = np.minimum(lengths, self.max_len)
        seen = self.sequences.windows(stops, lengths) if self.mask_seen else None
        return SequenceBatch(
            users=torch.from_numpy(users),
            history=torch.from_numpy(self.sequences.windows(stops, shown)),
            target=torch.from_numpy(self.sequences.items[stops] if back else np.zeros_like(stops)),
            times=self._window_times(stops, shown),
            query=[self._queries[u] for u in users] if self._queries and back == 1 else None,
            seen=None if seen is None else torch.from_numpy(seen),
        )

    def _refuse_while_training(self) -> None:
        if self._is_training:
            raise RuntimeError("test targets are read once, after training; choose on the validation split")

    def state_dict(self) -> dict[str, Any]:
        """Where in the sequence of epochs the sampler stands."""
        return {"next_epoch": self._next_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the epoch after the saved one."""
        self._next_epoch = state_dict["next_epoch"]

    def _cut_samples(self, samples: Samples) -> TrainSamples:
        """Cut the known users' training items."""
        users = self._users["known"]
        starts, stops = self.sequences.offsets[users], self.sequences.offsets[users + 1] - NUM_TARGETS
        cut = prefixes if samples == "prefixes" else windows
        return cut(users, starts, stops, max_len=self.max_len)

    def _epoch(self) -> list[NDArray[np.int64]]:
        """Batches of the next epoch: shuffle, bring equal lengths together, cut, shuffle the batches."""
        rng = np.random.default_rng([self.seed, self._next_epoch])
        order = rng.permutation(len(self._samples.length))
        order = order[np.argsort(self._samples.length[order], kind="stable")]
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _finish_epoch(self) -> None:
        self._next_epoch += 1  # not when a pass begins: on resume Lightning begins one and throws it away

    def _train_batch(self, rows: NDArray[np.int64]) -> SequenceBatch:
        stops, lengths = self._samples.stop[rows], self._samples.length[rows]
        return SequenceBatch(
            users=torch.from_numpy(self._samples.user[rows]),
            history=torch.from_numpy(self.sequences.windows(stops, lengths)),
            target=torch.from_numpy(self.sequences.items[stops]),
            times=self._window_times(stops, lengths),
        )

    def _window_times(self, stops: NDArray[np.int64], lengths: NDArray[np.int64]) -> torch.Tensor | None:
        if self._times is None:
            return None
        return torch.from_numpy(self.sequences.windows(stops, lengths, self._times))

    def _query_list(self) -> list[str] | None:
        queries = self.prepared.queries
        return None if queries is None else queries.sort("user")["query"].to_list()
