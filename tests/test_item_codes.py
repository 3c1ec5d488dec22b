from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from recbench.data.catalog import Catalog
from recbench.data.sequences import Sequences
from recbench.nn.item_codes import (
    END,
    PAD,
    Atomic,
    Collaborative,
    ItemCodes,
    Numeric,
    Random,
    Semantic,
    Sequential,
)
from recbench.nn.item_codes.clusters import assign, capped_kmeans, row_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recbench.data.module import InteractionData

WAYS: dict[str, ItemCodes] = {
    "atomic": Atomic(),
    "random": Random(),
    "random three": Random(num_codes=3),
    "collaborative": Collaborative(),
    "collaborative three": Collaborative(num_codes=3),
    "semantic": Semantic(),
    "semantic coarse": Semantic(num_levels=1, num_centres=3),
    "numeric": Numeric(),
    "numeric digits": Numeric(piece_digits=1),
    "sequential": Sequential(),
    "leaky": Sequential(leaky=True),
}
TEXT = ("numeric", "numeric digits", "sequential", "leaky")


def catalog_of(num_items: int, **features: list[Any]) -> Catalog:
    items = pl.DataFrame(
        {"item": range(1, num_items + 1), "raw_id": [f"i{i}" for i in range(num_items)]} | features
    )
    return Catalog(0, num_items, items, np.zeros(num_items + 1, dtype=np.int64))


def sequences_of(histories: list[list[int]]) -> Sequences:
    lengths = [len(history) for history in histories]
    return Sequences(
        np.array([i for h in histories for i in h], dtype=np.int64), np.cumsum([0, *lengths]).astype(np.int64)
    )


def write(codes: ItemCodes, data: InteractionData) -> NDArray[np.int64]:
    """As a generator does it."""
    sequences = data.sequences if codes.reads_targets else data.train_sequences()
    return codes.write(data.catalog, sequences)


@pytest.mark.parametrize("way", WAYS)
def test_codes_have_the_shape_that_the_number_of_items_decides(way: str, demo: InteractionData) -> None:
    codes = WAYS[way]
    tokens = write(codes, demo)
    num_codes, num_tokens = codes.shape(demo.catalog.num_items)
    assert tokens.shape == (demo.catalog.num_items + 1, num_codes)
    assert (tokens[0] == PAD).all()
    assert tokens.max() < num_tokens
    assert len({tuple(row) for row in tokens.tolist()}) == len(tokens)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in TEXT])
def test_a_token_tells_its_place(way: str, demo: InteractionData) -> None:
    columns = [set(column.tolist()) for column in write(WAYS[way], demo)[1:].T]
    assert sum(map(len, columns)) == len(set().union(*columns))
    assert min(min(column) for column in columns) >= 2


@pytest.mark.parametrize("way", WAYS)
def test_what_is_to_be_found_leaves_no_trace(way: str, demo: InteractionData) -> None:
    """Validation and test items change places between users: only the leaky variant may notice."""
    last = demo.sequences.offsets[1:] - 1
    targets = np.concatenate([last, last - 1])
    items = demo.sequences.items.copy()
    items[targets] = items[np.random.default_rng(0).permutation(targets)]
    assert not np.array_equal(items, demo.sequences.items)
    frame = demo.prepared.interactions.with_columns(pl.Series("item", items.astype(np.int32)))
    other = type(demo).of(replace(demo.prepared, interactions=frame), mask_seen=False)
    is_same = np.array_equal(write(WAYS[way], demo), write(WAYS[way], other))
    assert is_same is (way != "leaky")


@pytest.mark.parametrize("way", ["random", "collaborative", "semantic", "numeric", "sequential"])
def test_the_seed_decides(way: str, demo: InteractionData) -> None:
    codes = type(WAYS[way])
    first = write(codes(seed=0), demo)
    assert np.array_equal(first, write(codes(seed=0), demo))
    if way != "sequential":  # all items of the demo world are trained on, so nothing is left to chance
        assert not np.array_equal(first, write(codes(seed=1), demo))


def test_random_codes_use_every_value_equally_often() -> None:
    tokens = Random().write(catalog_of(95), sequences_of([]))
    counts = np.bincount(tokens[1:, 0])[2:]
    assert Random().shape(95) == (2, 22)
    assert set(counts.tolist()) == {9, 10}


@pytest.mark.parametrize(("num_codes", "sizes"), [(2, 111), (3, 23), (1, 12_101)])
def test_sizes_are_the_least_that_tell_beauty_apart(num_codes: int, sizes: int) -> None:
    assert Random(num_codes=num_codes).shape(12_101) == (num_codes, 2 + num_codes * sizes)
    assert (sizes - 1) ** num_codes < 12_101 <= sizes**num_codes


@pytest.mark.parametrize("number", [1, 2, 8, 9, 10**6, 10**6 + 1])
def test_sizes_are_right_where_roots_are_whole(number: int) -> None:
    size = (Random(num_codes=3).shape(number)[1] - 2) // 3
    assert size**3 >= number
    assert size == 1 or (size - 1) ** 3 < number


def test_collaborative_codes_keep_tastes_apart() -> None:
    """Two groups of users without an item in common: one first code for the items of each."""
    rng = np.random.default_rng(0)
    histories = [list(rng.choice(np.arange(1, 9) + 8 * (user % 2), 5, replace=False)) for user in range(80)]
    tokens = Collaborative(sizes=(2, 10)).write(catalog_of(16), sequences_of(histories))
    assert sorted([tokens[1:9, 0].tolist(), tokens[9:, 0].tolist()]) == [[2] * 8, [3] * 8]


def test_popular_items_come_first_in_their_cluster() -> None:
    histories = [[1, 2, 3], [1, 2], [1, 2, 3], [1], [4, 5], [5], [5, 4], [5]]
    tokens = Collaborative(sizes=(2, 4)).write(catalog_of(5), sequences_of(histories))
    assert tokens[1:, 1].tolist() == [4, 5, 6, 5, 4]


def test_untrained_items_fill_what_is_left() -> None:
    histories = [[1, 2], [1, 2], [3, 4], [3, 4]]
    tokens = Collaborative(sizes=(2, 4)).write(catalog_of(8), sequences_of(histories))
    assert np.bincount(tokens[1:, 0]).tolist() == [0, 0, 4, 4]
    assert set(tokens[1:5, 1].tolist()) == {4, 5}


def test_nobody_trains_and_still_every_item_is_written() -> None:
    tokens = Collaborative().write(catalog_of(10), sequences_of([[]]))
    assert len(np.unique(tokens, axis=0)) == 11


@pytest.mark.parametrize("num_codes", [2, 3])
def test_no_cluster_holds_more_than_its_codes_tell_apart(num_codes: int, demo: InteractionData) -> None:
    codes = Collaborative(num_codes=num_codes)
    tokens = write(codes, demo)
    sizes = [8, 9] if num_codes == 2 else [4, 4, 5]  # 1.15 * 60 / 8 and 1.15 * 60 / 16, rounded up
    assert codes.shape(60) == (num_codes, 2 + sum(sizes))
    for length in range(1, num_codes):
        counts = np.unique(tokens[1:, :length], axis=0, return_counts=True)[1]
        assert counts.max() <= np.prod(sizes[length:])


TITLES = [
    "red rose shampoo",
    "rose shampoo large",
    "wooden chess board",
    "chess board travel",
    "rose shampoo red",
    "chess wooden board",
]


def test_alike_texts_share_prefixes() -> None:
    brands = ["Flora", "Flora", "Rook", "Rook", "Flora", "Rook"]
    catalog = catalog_of(6, title=TITLES, brand=brands)
    tokens = Semantic(num_centres=2).write(catalog, sequences_of([]))
    shampoo, chess = tokens[[1, 2, 5]], tokens[[3, 4, 6]]
    assert len(set(shampoo[:, 0].tolist())) == len(set(chess[:, 0].tolist())) == 1
    assert shampoo[0, 0] != chess[0, 0]
    assert shampoo[0, :3].tolist() == shampoo[2, :3].tolist()  # the same words: told apart by the last code
    assert shampoo[0, 3] != shampoo[2, 3]


def test_tags_alone_are_text_enough() -> None:
    tags = [["Hair Care"], ["Hair Care", "Sale"], ["Games"], ["Games", "Sale"], None]
    tokens = Semantic(num_levels=1, num_centres=2).write(catalog_of(5, tags=tags), sequences_of([]))
    assert tokens[1, 0] == tokens[2, 0] != tokens[3, 0] == tokens[4, 0]


def test_more_alike_items_than_codes_go_to_the_next_centre() -> None:
    """300 items with one title, 256 last codes."""
    titles = ["coffee"] * 300 + ["tea leaves", "cocoa"] * 20
    codes = Semantic(num_levels=1, num_centres=3)
    tokens = codes.write(catalog_of(340, title=titles), sequences_of([]))
    assert codes.shape(340) == (2, 2 + 3 + 256)
    assert sorted(np.bincount(tokens[1:301, 0], minlength=5)[2:].tolist())[-1] <= 256


def test_without_text_the_way_out_is_named() -> None:
    with pytest.raises(
        LookupError, match=r"semantic codes need one of title.*features are: none.*Collaborative"
    ):
        Semantic().write(catalog_of(3), sequences_of([]))


def test_numbers_are_cut_into_pieces_of_two_digits() -> None:
    """All numbers 1..N are spelt once: token 2 + d is the digit d, 12 + dd the pair dd."""
    tokens = Numeric().write(catalog_of(1234), sequences_of([]))
    pieces = [str(d) for d in range(10)] + [f"{d:02}" for d in range(100)]
    texts = []
    for row in tokens[1:].tolist():
        end = row.index(END)
        assert set(row[end + 1 :]) <= {PAD}
        texts.append([pieces[token - 2] for token in row[:end]])
    assert sorted(int("".join(text)) for text in texts) == list(range(1, 1235))
    assert all(len(piece) == 2 for text in texts for piece in text[:-1])
    assert Numeric().shape(1234) == (3, 112)


def numbers_of(codes: Numeric, tokens: NDArray[np.int64]) -> list[int]:
    return codes.spelling(tokens)[1:, 0].tolist()


def test_leaky_numbers_follow_all_users_and_clean_ones_the_training_items() -> None:
    everything = sequences_of([[4, 2, 6], [2, 5, 1]])
    train = sequences_of([[4], [2]])
    leaky = Sequential(leaky=True)
    assert leaky.reads_targets
    assert numbers_of(leaky, leaky.write(catalog_of(6), everything)) == [5, 2, 6, 1, 4, 3]
    clean = Sequential()
    assert not clean.reads_targets
    numbers = numbers_of(clean, clean.write(catalog_of(6), train))
    assert (numbers[3], numbers[1]) == (1, 2)
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


def test_a_number_is_read_however_it_is_cut() -> None:
    codes = Numeric()
    written = codes.write(catalog_of(200), sequences_of([]))
    item = numbers_of(codes, written).index(123) + 1
    one, two, three, pair, tail = 3, 4, 5, 12 + 12, 12 + 23
    texts = [[pair, three, END], [one, tail, END], [one, two, three], [2, pair, three], [END, PAD, PAD]]
    read = codes.read(np.array([texts]), written)
    assert read.tolist() == [[item, item, item, item, 0]]


def test_other_codes_are_read_as_they_are_written() -> None:
    codes = Random()
    written = codes.write(catalog_of(20), sequences_of([]))
    texts = np.stack([written[7], written[7][::-1], written[0], written[20]])
    assert codes.read(texts, written).tolist() == [7, 0, 0, 20]


def test_codes_do_not_depend_on_the_number_of_threads() -> None:
    code = """if True:
        import numpy as np
        from recbench.data.synthetic import demo
        from recbench.data.sequences import Sequences
        from recbench.data.catalog import Catalog
        from recbench.nn.item_codes import Collaborative, Semantic
        world = demo(num_users=200, num_items=120)
        catalog = Catalog(200, 120, world.items, np.zeros(121, dtype=np.int64))
        for codes in (Collaborative(dim=16), Semantic(dim=16)):
            print(codes.write(catalog, Sequences.of(world.interactions)).tolist())
    """
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "4")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 2


def test_rows_go_to_their_cheapest_column_until_it_is_full() -> None:
    costs = np.array([[0.0, 9.0], [0.0, 1.0], [0.0, 5.0], [3.0, 0.0]])
    assert assign(costs, 2).tolist() == [0, 1, 0, 1]  # row 1 loses least by going elsewhere


def test_assignment_is_the_plain_one_where_there_is_room() -> None:
    costs = np.random.default_rng(0).random((50, 7))
    assert np.array_equal(assign(costs, 50), costs.argmin(axis=1))


def test_clusters_of_equal_rows_are_full() -> None:
    labels = capped_kmeans(np.ones((12, 3)), 4, capacity=3, rng=np.random.default_rng(0))
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]


def test_row_vectors_keep_the_products_of_rows() -> None:
    """With all directions kept, inner products of projections are those of the rows."""
    from scipy.sparse import random as random_matrix

    matrix = random_matrix(30, 12, density=0.4, random_state=np.random.default_rng(0), format="csr")
    vectors = row_vectors(matrix, dim=12, seed=0)
    np.testing.assert_allclose(vectors @ vectors.T, (matrix @ matrix.T).toarray(), atol=1e-12)
    strongest = row_vectors(matrix, dim=3, seed=0)
    left, values, _ = np.linalg.svd(matrix.toarray())
    np.testing.assert_allclose(np.abs(strongest), np.abs(left[:, :3] * values[:3]), atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(num_codes=0), "num_codes must be at least 1, got 0"),
        (lambda: Random(sizes=(3,)), r"sizes must be 2 numbers of values.*got \[3\]"),
        (lambda: Random(sizes=(3, 0)), r"sizes must be 2 numbers"),
        (
            lambda: Random(sizes=(3, 3)).shape(10),
            r"sizes \[3, 3\] write 9 items, but there are 10; enlarge them",
        ),
        (lambda: Collaborative(num_codes=1), "num_codes must be at least 2"),
        (lambda: Collaborative(dim=0), "dim must be at least 1, got 0"),
        (lambda: Collaborative(sizes=(3, 3)).shape(10), "write 9 items"),
        (lambda: Semantic(num_levels=0), "num_levels must be at least 1, got 0"),
        (lambda: Semantic(num_centres=0), "num_centres must be at least 1, got 0"),
        (lambda: Numeric(piece_digits=5), "piece_digits must lie in 1"),
    ],
    ids=["codes", "sizes", "size", "room", "one cluster", "dim", "clusters", "levels", "centres", "digits"],
)
def test_wrong_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_way_that_writes_two_items_alike_is_refused() -> None:
    class Same(Random):
        def codes(self, catalog: Catalog, sequences: Sequences) -> NDArray[np.int64]:
            del sequences
            return np.full((catalog.num_items, 2), 3)

    with pytest.raises(ValueError, match="Same wrote two items alike"):
        Same().write(catalog_of(3), sequences_of([]))


@pytest.mark.realdata
@pytest.mark.parametrize("way", ["collaborative", "semantic"])
def test_neighbours_in_beauty_share_codes(way: str) -> None:
    """Items taken one after the other share the first code five times as often as items drawn at random."""
    from recbench.data import raw
    from recbench.data.module import InteractionData
    from recbench.data.public import DATA_SETS

    if raw.find(DATA_SETS["beauty"].sequences) is None:
        pytest.skip("needs the raw Beauty files in $RECBENCH_RAW or ../shared/data")
    data = InteractionData("beauty")
    first = write(WAYS[way], data)[:, 0]
    pairs = [(batch.history[:, -1].numpy(), batch.target.numpy()) for batch in data.val_dataloader()]
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    shuffled = np.random.default_rng(0).permutation(after)
    assert (first[before] == first[after]).mean() > 5 * (first[before] == first[shuffled]).mean()
