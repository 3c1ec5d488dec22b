from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from recbench.errors import DivergedError
from recbench.nn.beam import Trie, beam_search, score_items, top
from recbench.nn.free_search import FreelyFound, free_search
from recbench.nn.item_codes import END, PAD, Atomic, Numeric, Random

if TYPE_CHECKING:
    from recbench.nn.item_codes import ItemCodes


class Model:
    """A linear recurrent net with random weights: what comes next depends on all that a beam has written.

    Args:
        step: logits are rounded to multiples of it, so that ties are everywhere.
    """

    def __init__(self, num_users: int, num_tokens: int, *, seed: int, step: float = 0.0) -> None:
        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        generator = torch.Generator().manual_seed(seed)
        self.begin, self.read, self.write = draw(num_users, 1, 8), draw(num_tokens, 8), draw(8, num_tokens)
        self.rounding = step

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        logits = states @ self.write
        return (logits / self.rounding).round() * self.rounding if self.rounding else logits

    def start(self) -> torch.Tensor:
        self.states = self.begin
        return self.logits(self.states)[:, 0]

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        before = self.states.gather(1, parents[..., None].expand(-1, -1, 8))
        self.states = 0.7 * before + self.read[tokens]
        return self.logits(self.states)

    def log_probs(self, user: int, text: tuple[int, ...]) -> torch.Tensor:
        """(V,) of what follows `text`, without anything that searches share."""
        state = self.begin[user, 0]
        for token in text:
            state = 0.7 * state + self.read[token]
        return self.logits(state).log_softmax(0)

    def log_prob(self, user: int, code: tuple[int, ...]) -> float:
        return sum(
            self.log_probs(user, code[:place])[token].item()
            for place, token in enumerate(code)
            if token != PAD
        )


class Catalogue:
    def __init__(self, num_items: int) -> None:
        self.num_items = num_items


def written(codes: ItemCodes, num_items: int) -> torch.Tensor:
    return torch.from_numpy(codes.write(Catalogue(num_items), None))


def literal_search(
    model: Model, user: int, codes: torch.Tensor, num_beams: int, num_items: int, shown: set[int]
) -> tuple[list[int], list[float]]:
    """Beam search as one explains it: keep the best prefixes of what may be shown, code by code."""
    texts = {tuple(codes[item].tolist()): item for item in sorted(shown)}
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    num_codes = codes.shape[1]
    for length in range(1, num_codes + 1):
        grown = []
        for score, beam in beams:
            for token in sorted({text[length - 1] for text in texts if text[: length - 1] == beam}):
                gain = 0.0 if token == PAD else model.log_probs(user, beam)[token].item()
                grown.append((score + gain, (*beam, token)))
        grown.sort(key=lambda pair: -pair[0])  # stable: of equals the better parent's, then the lower code
        beams = grown[: num_items if length == num_codes else num_beams]
    missing = num_items - len(beams)
    return [texts[b] for _, b in beams] + [0] * missing, [s for s, _ in beams] + [-math.inf] * missing


WAYS: dict[str, ItemCodes] = {
    "atomic": Atomic(),
    "two": Random(num_codes=2),
    "three": Random(num_codes=3),
    "four": Random(num_codes=4, sizes=(2, 5, 3, 2)),
    "decimal": Numeric(piece_digits=1),
    "pairs": Numeric(),
}


@pytest.mark.parametrize("num_beams", [1, 3, 8, 50])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hidden", ["nothing", "seen", "seen and allowed"])
def test_equals_the_literal_search(way: str, num_beams: int, hidden: str) -> None:
    num_users, num_items = 3, 40
    codes = written(WAYS[way], num_items)
    num_tokens = WAYS[way].shape(num_items)[1]
    model = Model(num_users, num_tokens, seed=num_beams)
    rng = np.random.default_rng(7)
    seen = torch.from_numpy(rng.integers(0, num_items + 1, (num_users, 12))) if hidden != "nothing" else None
    allowed = None
    if hidden == "seen and allowed":
        allowed = torch.from_numpy(rng.random((num_users, num_items + 1)) < [[0.1], [0.5], [0.0]])
    found = beam_search(model, Trie.of(codes), num_beams=num_beams, num_items=9, seen=seen, allowed=allowed)
    for user in range(num_users):
        shown = set(range(1, num_items + 1)) - set([] if seen is None else seen[user].tolist())
        if allowed is not None:
            shown &= set(allowed[user].nonzero()[:, 0].tolist())
        items, log_probs = literal_search(model, user, codes, num_beams, 9, shown)
        assert found.items[user].tolist() == items
        torch.testing.assert_close(
            found.log_probs[user], torch.tensor(log_probs, dtype=torch.float64), rtol=0, atol=1e-12
        )


def ranked(model: Model, user: int, codes: torch.Tensor) -> list[tuple[int, float]]:
    """All items by brute force."""
    scored = [(item, model.log_prob(user, tuple(codes[item].tolist()))) for item in range(1, len(codes))]
    return sorted(scored, key=lambda pair: -pair[1])


def test_with_a_beam_for_every_first_code_two_codes_are_ranked_exactly() -> None:
    codes = written(Random(), 90)
    model = Model(4, Random().shape(90)[1], seed=3)
    found = beam_search(model, Trie.of(codes), num_beams=10, num_items=90)
    for user in range(4):
        items, log_probs = zip(*ranked(model, user, codes), strict=True)
        assert found.items[user].tolist() == list(items)
        torch.testing.assert_close(found.log_probs[user].tolist(), list(log_probs), rtol=0, atol=1e-12)


def test_probabilities_of_all_items_sum_to_what_the_trie_leaves_of_one() -> None:
    codes = written(Atomic(), 6)
    model = Model(2, 8, seed=0)
    found = beam_search(model, Trie.of(codes), num_beams=1, num_items=6)
    rest = model.start().softmax(1)[:, :2].sum(1)
    torch.testing.assert_close(found.log_probs.exp().sum(1), 1 - rest)


def test_one_beam_is_greedy() -> None:
    codes = written(Random(num_codes=3, sizes=(4, 4, 4)), 64)
    model = Model(5, 14, seed=1)
    found = beam_search(model, Trie.of(codes), num_beams=1)
    for user in range(5):
        text: tuple[int, ...] = ()
        for depth in range(3):
            options = slice(2 + 4 * depth, 6 + 4 * depth)
            text += (options.start + int(model.log_probs(user, text)[options].argmax()),)
        assert codes[found.items[user, 0]].tolist() == list(text)


def test_fewer_items_than_beams_are_listed_once_and_followed_by_nothing() -> None:
    codes = written(Random(), 5)
    model = Model(2, 8, seed=0)
    found = beam_search(model, Trie.of(codes), num_beams=20, seen=torch.tensor([[1, 0], [4, 5]]))
    assert found.items.shape == (2, 20)
    assert sorted(found.items[0, :4].tolist()) == [2, 3, 4, 5]
    assert sorted(found.items[1, :3].tolist()) == [1, 2, 3]
    assert not found.items[0, 4:].any()
    assert found.log_probs[1, 3:].isneginf().all()


@pytest.mark.parametrize("way", ["two", "three", "four", "pairs"])
def test_lists_are_full_whatever_was_seen(way: str) -> None:
    """A beam that leads to seen items alone would leave its place empty."""
    codes = written(WAYS[way], 40)
    model = Model(2, WAYS[way].shape(40)[1], seed=5)
    everything = beam_search(model, Trie.of(codes), num_beams=40).items
    found = beam_search(model, Trie.of(codes), num_beams=4, seen=everything[:, :30])
    assert (found.items > 0).all()
    assert not (found.items[:, :, None] == everything[:, None, :30]).any()


@pytest.mark.parametrize("step", [50.0, 2.0])
def test_equals_are_ordered_by_parent_and_code(step: float) -> None:
    codes = written(WAYS["three"], 60)
    model = Model(3, WAYS["three"].shape(60)[1], seed=2, step=step)
    found = beam_search(model, Trie.of(codes), num_beams=6)
    for user in range(3):
        items, _ = literal_search(model, user, codes, 6, 6, set(range(1, 61)))
        assert found.items[user].tolist() == items


@pytest.mark.parametrize("k", [1, 4, 7])
def test_top_takes_the_first_of_equals(k: int) -> None:
    scores = torch.tensor(
        [[1.0, 3, 2, 3, 2, 2, 3], [0.0, 0, 0, 0, 0, 0, 0], [-torch.inf, 1, -torch.inf, 2, 0, 0, 5]]
    )
    values, places = top(scores, k)
    for row, value, place in zip(scores.tolist(), values.tolist(), places.tolist(), strict=True):
        expected = sorted(range(7), key=lambda i: -row[i])[:k]
        assert value == [row[i] for i in expected]
        assert [i for i in place if row[i] > -torch.inf] == [i for i in expected if row[i] > -torch.inf]


def test_padding_after_the_end_costs_nothing() -> None:
    codes = torch.tensor([[0, 0, 0], [2, END, PAD], [2, 3, END]])
    model = Model(1, 4, seed=0)
    found = beam_search(model, Trie.of(codes), num_beams=2)
    short = model.log_probs(0, ())[2] + model.log_probs(0, (2,))[END]
    long = model.log_probs(0, ())[2] + model.log_probs(0, (2,))[3] + model.log_probs(0, (2, 3))[END]
    by_item = dict(zip(found.items[0].tolist(), found.log_probs[0].tolist(), strict=True))
    assert by_item == pytest.approx({1: short.item(), 2: long.item()})


@pytest.mark.parametrize("way", WAYS)
def test_scores_of_given_items_are_those_of_the_search(way: str) -> None:
    codes = written(WAYS[way], 40)
    trie = Trie.of(codes)
    model = Model(2, WAYS[way].shape(40)[1], seed=4)
    items = torch.tensor([[3, 40, 0, 3], [1, 2, 7, 9]])
    scores = score_items(model, trie, items)
    for user, row in enumerate(items.tolist()):
        exact = [model.log_prob(user, tuple(codes[item].tolist())) if item else -math.inf for item in row]
        assert scores[user].tolist() == pytest.approx(exact)


def test_half_precision_logits_are_summed_in_single() -> None:
    codes = written(Random(), 30)
    model = Model(2, Random().shape(30)[1], seed=0)
    model.begin, model.read, model.write = (w.bfloat16() for w in (model.begin, model.read, model.write))
    assert beam_search(model, Trie.of(codes), num_beams=3).log_probs.dtype == torch.float32


def test_no_number_is_refused() -> None:
    codes = written(Random(), 30)
    model = Model(2, Random().shape(30)[1], seed=0)
    model.read[5] = torch.nan  # some beams of the second step
    with pytest.raises(DivergedError, match="no number"):
        beam_search(model, Trie.of(codes), num_beams=6)


def test_no_beams_are_refused() -> None:
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        beam_search(Model(1, 4, seed=0), Trie.of(written(Atomic(), 2)), num_beams=0)


def test_a_trie_comes_back_from_a_checkpoint_of_its_codes() -> None:
    codes = written(Random(num_codes=3), 50)
    model = Model(2, Random(num_codes=3).shape(50)[1], seed=0)
    saved = Trie.of(codes).state_dict()
    assert set(saved) == {"codes"}
    holder = torch.nn.ModuleDict({"trie": Trie(50, num_codes=3)})
    holder.load_state_dict({"trie.codes": saved["codes"]})
    expected = beam_search(model, Trie.of(codes), num_beams=5)
    assert torch.equal(beam_search(model, holder["trie"], num_beams=5).items, expected.items)


def test_an_empty_trie_says_so() -> None:
    empty = Trie(5, num_codes=2)
    empty.load_state_dict(
        Trie(5, num_codes=2).state_dict()
    )  # a checkpoint from before the items were written
    with pytest.raises(RuntimeError, match="empty"):
        beam_search(Model(1, 8, seed=0), empty, num_beams=2)


def test_items_written_alike_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"items 1 and 3 have the same codes \[2, 5\]"):
        Trie.of(torch.tensor([[0, 0], [2, 5], [2, 6], [2, 5]]))


def literal_free_search(
    model: Model, user: int, num_codes: int, num_beams: int
) -> list[tuple[float, tuple[int, ...]]]:
    """Sorted (log-probability over length, text): every finished text among the K best at its length."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done = []
    for length in range(1, num_codes + 1):
        grown = [
            (score + gain, (*beam, token))
            for score, beam in beams
            for token, gain in enumerate(model.log_probs(user, beam).tolist())
        ]
        grown.sort(key=lambda pair: -pair[0])
        over = [pair for pair in grown[:num_beams] if pair[1][-1] == END or length == num_codes]
        done += [(score / length, text) for score, text in over]
        beams = [pair for pair in grown[: 2 * num_beams] if pair[1][-1] != END][:num_beams]
    return sorted(done, key=lambda pair: -pair[0])[:num_beams]


@pytest.mark.parametrize("num_beams", [1, 4, 12])
@pytest.mark.parametrize("way", ["atomic", "two", "decimal", "pairs"])
def test_free_search_equals_the_literal_one(way: str, num_beams: int) -> None:
    codes = written(WAYS[way], 40)
    model = Model(3, WAYS[way].shape(40)[1], seed=6)
    found = free_search(model, WAYS[way], codes, num_beams=num_beams)
    text_of = {tuple(row): item for item, row in enumerate(codes.tolist()) if item}
    if isinstance(WAYS[way], Numeric):
        number_of = {spelt(WAYS[way], text): item for text, item in text_of.items()}
    for user in range(3):
        expected = literal_free_search(model, user, codes.shape[1], num_beams)
        assert found.scores[user].tolist() == pytest.approx([score for score, _ in expected])
        if isinstance(WAYS[way], Numeric):
            items = [number_of.get(spelt(WAYS[way], text), 0) for _, text in expected]
        else:
            items = [text_of.get(text, 0) for _, text in expected]
        assert found.items[user].tolist() == items
        assert found.invalid_rate[user] == pytest.approx(items.count(0) / num_beams)
        repeats = sum(item != 0 and item in items[:place] for place, item in enumerate(items))
        assert found.duplicate_rate[user] == pytest.approx(repeats / num_beams)


def spelt(codes: Numeric, text: tuple[int, ...]) -> int | None:
    """The number that pieces make: token 2 is the piece 0, 11 is 9, 12 is 00."""
    pieces = [f"{n}" for n in range(10)] + [f"{n:02}" for n in range(100)]
    assert codes.piece_digits <= 2
    digits = "".join(pieces[token - 2] for token in text if token >= 2)
    return int(digits) if digits else None


def test_free_search_counts_what_is_no_item_and_what_is_twice() -> None:
    """Number 12 as one piece and as two, and 99, which is no item."""
    way = Numeric()
    codes = written(way, 12)
    by_number = {spelt(way, tuple(row)): item for item, row in enumerate(codes.tolist()) if item}
    piece = {"1": 3, "2": 4, "12": 24, "99": 111}

    class Fixed:
        """Writes 12 and END, 99 and END, or 1 and 2."""

        def start(self) -> torch.Tensor:
            logits = torch.full((1, 112), -50.0)
            logits[0, [piece["12"], piece["99"], piece["1"]]] = torch.tensor([3.0, 2, 1])
            return logits

        def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
            del parents
            logits = torch.full((1, 3, 112), -50.0)
            return logits.scatter(2, torch.where(tokens == piece["1"], piece["2"], END)[..., None], 50.0)

    found = free_search(Fixed(), way, codes, num_beams=3)
    assert found.items.tolist() == [[by_number[12], 0, by_number[12]]]
    assert found.invalid_rate.tolist() == pytest.approx([1 / 3])
    assert found.duplicate_rate.tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize(("num_beams", "num_items"), [(3, 4), (0, None), (3, 0)])
def test_free_search_lists_no_more_than_its_beams(num_beams: int, num_items: int | None) -> None:
    with pytest.raises(ValueError, match="num_items must lie in 1"):
        free_search(
            Model(1, 4, seed=0), Atomic(), written(Atomic(), 2), num_beams=num_beams, num_items=num_items
        )


class TestWhatWasWrittenFreely:
    FOUND = FreelyFound(
        torch.tensor([[5, 0, 5, 7, 0], [9, 9, 4, 0, 0]]),
        torch.tensor([[-1.0, -2, -3, -4, -torch.inf], [-1.0, -1, -2, -2, -2]]),
        torch.zeros(2),
        torch.zeros(2),
    )

    @pytest.mark.parametrize(
        ("targets", "ranks", "ties"),
        [((5, 9), (1, 1.5), (1, 2)), ((7, 4), (4, 4), (1, 3)), ((6, 6), (math.inf, math.inf), (1, 1))],
        ids=["best of several places", "behind what is no item", "not written"],
    )
    def test_strings_take_places_whatever_they_spell(
        self, targets: tuple[int, int], ranks: tuple[float, float], ties: tuple[int, int]
    ) -> None:
        found = self.FOUND.ranked(torch.tensor(targets))
        assert tuple(found.rank.tolist()) == ranks
        assert tuple(found.ties.tolist()) == ties

    def test_shown_are_real_items_once_that_may_be(self) -> None:
        assert self.FOUND.shown(3).items.tolist() == [[5, 7, 0], [9, 4, 0]]
        assert self.FOUND.shown(1, seen=torch.tensor([[5, 0], [4, 3]])).items.tolist() == [[7], [9]]
        allowed = torch.zeros(2, 10, dtype=torch.bool)
        allowed[:, [4, 7]] = True
        found = self.FOUND.shown(6, allowed=allowed)
        assert found.items.tolist() == [[7, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]]
        assert found.log_probs[0].tolist() == [-4] + [-math.inf] * 5
