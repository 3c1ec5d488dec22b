"""InteractionData: one data set under one protocol, as batches.

U users, B users of a batch, N items, L history, S seen items. What is trained on and what is to be found is
cut in `splits`; which items are candidates is decided by what was seen, for places by distance (`reach`), in
the top-N protocol by lot (`candidates`). Batches are cut from users sorted by length, so almost nothing is
padded, and come as whole `SequenceBatch` objects gathered from two flat arrays: there is no per-user Python
in the loop.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from lightning import LightningDataModule

from recbench.data import prepare, reach, splits
from recbench.data.batch import SequenceBatch
from recbench.data.candidates import Candidates, is_candidate
from recbench.data.catalog import Catalog
from recbench.data.protocol import DEFAULT_SHARE, Protocol
from recbench.data.samples import TrainSamples, cut, is_drawn
from recbench.data.sequences import BatchLoader, Sequences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from recbench.data.prepare import Prepared
    from recbench.data.samples import Samples
    from recbench.data.selection import Selection
    from recbench.data.tables.columns import Columns

__all__ = ["BatchLoader", "InteractionData", "Sequences", "Split", "Users"]

Split = Literal["validation", "test"]
Users = Literal["known", "heldout"]


class InteractionData(LightningDataModule):
    """One data set, split and served as `SequenceBatch`es.

    Args:
        name: a data set (`recbench data list`) or the path of your own file.
        max_len: most recent items a model sees.
        mask_seen: whether items of the history are barred from recommendation; right where nothing repeats.
        heldout_rate: share of users that never train nor validate and are scored apart.
        index_seed: shuffles the item indices; the order of ids in public files gives the targets away.
        eval_batch_size: users per evaluation batch.
        split: the last two items of every user are the targets, or two moments cut all histories alike.
        validation_share: of the interactions, between the two moments of `global_time`.
        test_share: of the interactions, after the later moment of `global_time`.
        reach_km: only places so near are candidates; 0 for all items.
        reach_from: near the last check-in before the target, or near the target itself.
        num_negatives: each target competes with so many random items that its user never took, the same for
            every method; 0 for all items.
        columns: of your own table, which column holds what; found by their usual names where not declared.
        selection: of your own file, what to keep: k-core, dates, ratings, first of repeats; else everything.
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
        split: splits.Rule = "leave_one_out",
        validation_share: float = DEFAULT_SHARE,
        test_share: float = DEFAULT_SHARE,
        reach_km: float = 0.0,
        reach_from: Literal["last", "target"] = "last",
        num_negatives: int = 0,
        columns: Columns | None = None,
        selection: Selection | None = None,
    ) -> None:
        super().__init__()
        _at_least_1("item", max_len=max_len)
        if not 0 <= heldout_rate < 1:
            raise ValueError(
                f"heldout_rate must lie in 0..1 with somebody left to train on, got {heldout_rate}"
            )
        _at_least_1("user", eval_batch_size=eval_batch_size)
        rules = Protocol(split, validation_share, test_share, reach_km, reach_from, num_negatives)
        rules.check()
        self.name, self.max_len, self.mask_seen = name, max_len, mask_seen
        self.rules = rules
        self.columns, self.selection = columns, selection
        self.heldout_rate, self.index_seed = heldout_rate, index_seed
        self.eval_batch_size = eval_batch_size
        self.batch_size = 256
        self.seed = 0
        self._next_epoch = 1
        self._prepared: Prepared | None = None
        self._is_training = False
        self._learnt: NDArray[np.int64] | None = None
        self._newest: int | None = None

    @classmethod
    def of(cls, prepared: Prepared, **options: Any) -> Self:
        """The same for data that is already in memory."""
        data = cls(prepared.name, **options)
        data._prepared = prepared
        data.setup("fit")
        return data

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Load the prepared data, once.

        Raises:
            DataError: the data lacks what the protocol needs: absolute times, coordinates, or enough items.
        """
        if hasattr(self, "sequences"):
            return
        if self._prepared is None:
            self._prepared = prepare.load(
                str(self.name),
                index_seed=self.index_seed,
                columns=self.columns,
                selection=self.selection,
            )
        frame = self._prepared.interactions
        self.sequences = Sequences.of(frame)
        num_users = len(self.sequences.lengths)
        self._times = frame["time"].to_numpy().astype(np.int64) if "time" in frame.columns else None
        self._queries = self._query_list()
        rng = np.random.default_rng([self.index_seed, 0x4E1D])
        is_heldout = np.zeros(num_users, dtype=bool)
        is_heldout[rng.permutation(num_users)[: int(self.heldout_rate * num_users)]] = True
        self._users = {"known": np.flatnonzero(~is_heldout), "heldout": np.flatnonzero(is_heldout)}
        self._splits = splits.cut(
            self.rules.split,
            self.sequences.offsets,
            self._times if self._prepared.card.clock == "unix" else None,
            name=str(self.name),
            shares=(self.rules.validation_share, self.rules.test_share),
        )
        self._places = reach.located(self.catalog, str(self.name)) if self.rules.reach_km else None
        self._candidates = self._lots() if self.rules.num_negatives else None
        self._cut_samples("positions")

    @property
    def prepared(self) -> Prepared:
        """The data set with its card."""
        self.setup("fit")
        assert self._prepared is not None
        return self._prepared

    @cached_property
    def catalog(self) -> Catalog:
        """Sizes, item features and training popularity."""
        prepared = self.prepared
        popularity = np.bincount(self.train_sequences().items, minlength=prepared.card.num_items + 1)
        return Catalog(prepared.card.num_users, prepared.card.num_items, prepared.items, popularity)

    @property
    def times(self) -> NDArray[np.int64] | None:
        """Unix seconds of `sequences.items`, one each; None where the data set has no times."""
        self.setup("fit")
        return self._times

    @property
    def protocol(self) -> str:
        """What the records call the rules of split and candidates: `loo-full`, `top-n-99`, ..."""
        return str(self.rules)

    def notes(self) -> tuple[str, ...]:
        """What the protocol id does not say: where time cuts, what chance is, how many are not evaluated."""
        self.setup("fit")
        found = [*filter(None, [self._splits.note]), *self.rules.notes()]
        for split in ("validation", "test"):
            total, num_targets = len(self._users["known"]), len(self.evaluated(split))
            if num_targets < total:
                missing = f"{total - num_targets:,} of {total:,} users"
                found.append(f"{missing} have no {split} target and are not evaluated")
        return tuple(found)

    def users(self, which: Users) -> NDArray[np.int64]:
        """Indices of the users that train (`known`) or never do (`heldout`)."""
        self.setup("fit")
        return self._users[which]

    def evaluated(self, split: Split, users: Users = "known") -> NDArray[np.int64]:
        """Indices of the users that have a target in `split`."""
        chosen = self.users(users)
        return chosen[self._targets_of(split)[chosen] >= 0]

    def train_sequences(self) -> Sequences:
        """What may be learnt from: the known users' items before validation begins, user by user."""
        users = self.users("known")
        starts = self.sequences.offsets[users]
        lengths = self._splits.train_stop[users] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(self.sequences.items[flat], offsets)

    def restricted(self, users: NDArray[np.int64], *, items: NDArray[np.int64] | None = None) -> Self:
        """The same data with only these users, of whom only steps to `items` are learnt; None for all items.

        What is evaluated is every item's place, as before.
        """
        other = copy.copy(self)
        other._users = {"known": np.sort(users), "heldout": np.empty(0, np.int64)}
        other._learnt = items
        other._cut_samples("positions")
        return other

    def showing(self, num_items: int) -> Self:
        """The same data, of whose histories only the newest `num_items` items are shown.

        What may not be recommended, and what is learnt, is as before.

        Raises:
            ValueError: that would be none.
        """
        _at_least_1("item", num_items=num_items)
        other = copy.copy(self)
        other.max_len = num_items
        return other

    def earlier(self, num_items: int) -> Self:
        """The same data before everybody's newest `num_items` training items came: they are not learnt from.

        What is evaluated, and after which history, is as before.
        """
        other = copy.copy(self)
        stops = np.maximum(self._splits.train_stop - num_items, self.sequences.offsets[:-1])
        other._splits = self._splits._replace(train_stop=stops)
        other._cut_samples("positions")
        return other

    def newest(self, num_items: int) -> Self:
        """The same data, of which only samples are learnt that end at a user's newest training items.

        Args:
            num_items: of a user.

        Raises:
            ValueError: that would be none.
        """
        _at_least_1("training item", num_items=num_items)
        other = copy.copy(self)
        other._newest = num_items
        other._cut_samples("positions")
        return other

    def moments(self, per_user: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(M,) users and flat positions of the newest `per_user` training items that have a history."""
        users = self.users("known")
        starts, ends = self.sequences.offsets[users], self._splits.train_stop[users]
        counts = np.clip(ends - starts - 1, 0, per_user)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(users, counts), np.repeat(ends, counts) - 1 - nth

    def moment(self, users: NDArray[np.int64], positions: NDArray[np.int64]) -> SequenceBatch:
        """The moment before each of the flat `positions`, whose items are the targets; see `moments`.

        Raises:
            RuntimeError: this would show a test target while a method trains.
        """
        if (positions >= self._splits.test_start[users]).any():
            self._refuse_while_training()
        return self._before(positions, users, with_query=False)

    def train_bags(
        self, num_users: int, *, max_len: int = 0
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Known users and (B, L) their training items, oldest first, `num_users` at a time, shortest first.

        Args:
            num_users: B.
            max_len: most recent items that are shown; 0 for all.
        """
        users = self.users("known")
        lengths = self._splits.train_stop[users] - self.sequences.offsets[users]
        if max_len:
            lengths = np.minimum(lengths, max_len)
        order = np.argsort(lengths, kind="stable")  # equal lengths together: little padding
        for start in range(0, len(order), num_users):
            rows = order[start : start + num_users]
            stops = self._splits.train_stop[users[rows]]
            yield users[rows], torch.from_numpy(self.sequences.windows(stops, lengths[rows]))

    def batched(self, batch_size: int, seed: int, *, samples: Samples = "positions") -> Self:
        """Use `batch_size` samples per training step, in an order that `seed` and the epoch decide."""
        _at_least_1("sample", batch_size=batch_size)
        self.batch_size, self.seed, self._next_epoch = batch_size, seed, 1
        self._cut_samples(samples)
        return self

    def train_dataloader(self) -> BatchLoader:
        """One pass over all training positions, shuffled by (seed, epoch)."""
        num_batches = -(-len(self._samples.user) // self.batch_size)
        return BatchLoader(self._epoch, self._train_batch, num_batches, self._finish_epoch)

    def val_dataloader(self) -> BatchLoader:
        """The validation target of every known user that has one, after everything before it."""
        return self.targets("validation")

    def test_dataloader(self) -> BatchLoader:
        """The test target of every known user that has one, after everything before it."""
        return self.targets("test")

    def targets(self, split: Split, users: Users = "known") -> BatchLoader:
        """Histories and targets of `split`, each user with a target once, longest batches last.

        Raises:
            RuntimeError: the test targets are asked for while a method trains.
        """
        if split == "test":
            self._refuse_while_training()
        chosen, positions = self.evaluated(split, users), self._targets_of(split)
        lengths = positions[chosen] - self.sequences.offsets[chosen]
        chosen = chosen[np.argsort(lengths, kind="stable")]
        batches = [chosen[i : i + self.eval_batch_size] for i in range(0, len(chosen), self.eval_batch_size)]

        def collate(rows: NDArray[np.int64]) -> SequenceBatch:
            return self._before(positions[rows], rows, with_query=split == "test")

        return BatchLoader(lambda: batches, collate, len(batches))

    @contextmanager
    def training(self) -> Iterator[None]:
        """While this holds, the test targets cannot be reached."""
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = False

    def request(self, users: NDArray[np.int64], *, back: int = 1) -> SequenceBatch:
        """The moment before each user's `back`-th item from the end, which is the target; `back` 0 is now.

        Raises:
            RuntimeError: this would show a test target while a method trains.
        """
        stops = self.sequences.offsets[users + 1] - back
        if (stops >= self._splits.test_start[users]).any():
            self._refuse_while_training()
        return self._before(stops, users, is_now=back == 0, with_query=back == 1)

    def _before(
        self,
        stops: NDArray[np.int64],
        users: NDArray[np.int64],
        *,
        with_query: bool,
        is_now: bool = False,
    ) -> SequenceBatch:
        """What precedes flat positions `stops`, whose items are the targets unless they lie in the future."""
        lengths = stops - self.sequences.offsets[users]
        shown = np.minimum(lengths, self.max_len)
        seen = self.sequences.windows(stops, lengths) if self.mask_seen else None
        history = self.sequences.windows(stops, shown)
        target = np.zeros_like(stops) if is_now else self.sequences.items[stops]
        centre = history[:, -1] if is_now or self.rules.reach_from == "last" else target
        candidates = None
        allowed = None if self._places is None else reach.within(self._places, centre, km=self.rules.reach_km)
        if self._candidates is not None and not is_now:  # without a target there is nothing to compete with
            candidates = self._candidates.draw(users, lengths, target)
            allowed = is_candidate(candidates, num_items=self.catalog.num_items)
        return SequenceBatch(
            users=torch.from_numpy(users),
            history=torch.from_numpy(history),
            target=torch.from_numpy(target),
            times=self._window_times(stops, shown),
            query=[self._queries[u] for u in users] if self._queries and with_query else None,
            seen=None if seen is None else torch.from_numpy(seen),
            allowed=None if allowed is None else torch.from_numpy(allowed),
            candidates=None if candidates is None else torch.from_numpy(candidates),
        )

    def _lots(self) -> Candidates:
        return Candidates.of(
            self.sequences,
            num_items=self.catalog.num_items,
            num_negatives=self.rules.num_negatives,
            seed=self.index_seed,
            name=str(self.name),
        )

    def _targets_of(self, split: Split) -> NDArray[np.int64]:
        """(U,) flat positions, -1 for users without a target."""
        return self._splits.validation if split == "validation" else self._splits.test

    def _refuse_while_training(self) -> None:
        if self._is_training:
            raise RuntimeError("test targets are read once, after training; choose on the validation split")

    def state_dict(self) -> dict[str, Any]:
        """Where in the sequence of epochs the sampler stands."""
        return {"next_epoch": self._next_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the epoch after the saved one."""
        self._next_epoch = state_dict["next_epoch"]

    def _cut_samples(self, samples: Samples) -> None:
        """Decide what a sample is."""
        self._sampling: Samples = samples
        self._samples = self._cut(np.random.default_rng([self.seed, self._next_epoch]))

    def _cut(self, rng: np.random.Generator) -> TrainSamples:
        """Cut the known users' training items."""
        users = self._users["known"]
        starts, stops = self.sequences.offsets[users], self._splits.train_stop[users]
        found = cut(self._sampling, users, starts, stops, max_len=self.max_len, rng=rng)
        is_learnt = np.ones(len(found.stop), dtype=bool)
        if self._learnt is not None:
            is_learnt &= np.isin(self.sequences.items[found.stop], self._learnt)
        if self._newest is not None:
            is_learnt &= found.stop >= self._splits.train_stop[found.user] - self._newest
        return found if is_learnt.all() else TrainSamples(*(column[is_learnt] for column in found))

    def _epoch(self) -> list[NDArray[np.int64]]:
        """Batches of the next epoch: shuffle, bring equal lengths together, cut, shuffle the batches."""
        rng = np.random.default_rng([self.seed, self._next_epoch])
        if is_drawn(self._sampling):
            self._samples = self._cut(rng)
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


def _at_least_1(unit: str, **counts: int) -> None:
    """Refuse an option that counts `unit`s and would count none.

    Raises:
        ValueError: it is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1 {unit}, got {count}")
