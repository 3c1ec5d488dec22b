"""MovieLens in each layout gives one and the same data; malformed rows are refused with their line."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import polars as pl
import pytest

from recbench.data.sources import movielens
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recbench.data.source import Log

# three ratings, in each of the layouts as they are handed out
LAYOUTS: dict[str, tuple[str, str, Callable[[Path], Log]]] = {
    "u.data": (
        "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t377\t1\t878887116\n",
        "\t",
        movielens.read_u_data,
    ),
    "ratings.dat": (
        "196::242::3::881250949\n186::302::3::891717742\n196::377::1::878887116\n",
        "::",
        movielens.read_dat,
    ),
    "ratings.csv": (
        "userId,movieId,rating,timestamp\n196,242,3.0,881250949\n186,302,3.0,891717742\n196,377,1.0,878887116\n",
        ",",
        movielens.read_csv,
    ),
    "ml-100k.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t377\t1\t878887116\n",
        "\t",
        movielens.read_inter,
    ),
}
EXPECTED = [
    (196, 242, 0, 3.0, 881250949),
    (186, 302, 1, 3.0, 891717742),
    (196, 377, 2, 1.0, 878887116),
]
Every = pytest.mark.parametrize("name", LAYOUTS)


def written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows(log: Log) -> list[tuple[object, ...]]:
    return log.frame.select("user", "item", "row", "rating", "time").collect().rows()


@Every
@pytest.mark.parametrize("change", ["as-is", "gzip", "crlf", "no-last-line-end", "bom"])
def test_ratings_are_the_same_in_every_layout(name: str, change: str, tmp_path: Path) -> None:
    text, _, read = LAYOUTS[name]
    path = written(tmp_path, name, text)
    changed = {
        "gzip": lambda content: gzip.compress(content),
        "crlf": lambda content: content.replace(b"\n", b"\r\n"),
        "no-last-line-end": lambda content: content.removesuffix(b"\n"),
        "bom": lambda content: b"\xef\xbb\xbf" + content,
    }
    if change in changed:
        path.write_bytes(changed[change](path.read_bytes()))
    log = read(path)
    assert log.clock == "unix"
    assert rows(log) == EXPECTED


MALFORMED = {
    "short": (["1", "2", "3"], "has 3 fields and should have 4"),
    "long": (["1", "2", "3", "4", "5"], "has 5 fields and should have 4"),
    "blank": ([""], "the line is blank; remove it"),
    "empty-item": (["1", "", "3", "881250949"], "item is empty; fill it in"),
    "word-as-rating": (["1", "2", "good", "881250949"], "rating 'good' is not a number"),
    "nan-as-rating": (["1", "2", "nan", "881250949"], "rating 'nan' is not a number"),
    "milliseconds": (["1", "2", "3", "881250949000"], "time '881250949000' is not between .* milliseconds"),
    "negative-time": (
        ["1", "2", "3", "-1"],
        "time '-1' is not between 1970 and 2100 in unix seconds; correct",
    ),
    "date-as-time": (["1", "2", "3", "1997-12-04"], "time '1997-12-04' is not a"),
}


@Every
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_ratings_are_refused_with_their_line(name: str, kind: str, tmp_path: Path) -> None:
    text, separator, read = LAYOUTS[name]
    fields, says = MALFORMED[kind]
    lines = text.splitlines()
    path = written(tmp_path, name, "\n".join([*lines[:-1], separator.join(fields), lines[-1], ""]))
    with pytest.raises(DataError, match=rf"{name}:{len(lines)}: {says}") as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["u.data", "ratings.dat", "ratings.csv"])
def test_a_word_is_no_user(name: str, tmp_path: Path) -> None:
    text, _, read = LAYOUTS[name]
    path = written(tmp_path, name, text.replace("186", "bob"))
    with pytest.raises(DataError, match=rf"{name}:\d: user 'bob' is not a whole number"):
        read(path)


@Every
def test_text_that_is_not_utf8_is_refused(name: str, tmp_path: Path) -> None:
    text, _, read = LAYOUTS[name]
    path = written(tmp_path, name, text.replace("186", "é"), "latin-1")
    with pytest.raises(DataError, match=rf"{name}:\d: byte 0xe9 is not UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("name", "says"), [("u.data", "the file is empty"), ("ratings.csv", "first line is empty")]
)
def test_empty_files_are_refused(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}:.*{says}"):
        LAYOUTS[name][2](written(tmp_path, name, ""))


@pytest.mark.parametrize("name", ["ratings.csv", "ml-100k.inter"])
def test_a_header_alone_is_refused(name: str, tmp_path: Path) -> None:
    text, _, read = LAYOUTS[name]
    with pytest.raises(DataError, match=f"{name}: the file has a header and no rows"):
        read(written(tmp_path, name, text.splitlines()[0] + "\n"))


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.data.gz"
    path.write_bytes(gzip.compress(LAYOUTS["u.data"][0].encode())[:-12])
    with pytest.raises(DataError, match=r"u\.data\.gz: the gzip file is truncated"):
        movielens.read_u_data(path)


def test_a_csv_of_something_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "ratings.csv", "user;item\n1;2\n")
    with pytest.raises(
        DataError, match=r"ratings\.csv:1: has the columns user;item and should have userId,movieId"
    ):
        movielens.read_csv(path)


def test_atomic_files_may_have_text_ids_other_columns_and_no_times(tmp_path: Path) -> None:
    text = "rating:float\titem_id:token\tnote:token_seq\tuser_id:token\n4.5\tB001\t\t7\n3\t0012\tx y\t8\n"
    log = movielens.read_inter(written(tmp_path, "a.inter", text))
    assert log.clock == "none"
    assert log.frame.select("user", "item", "rating").collect().rows() == [(7, "B001", 4.5), (8, "0012", 3.0)]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("user_id\titem_id", "column 'user_id' has no type; write name:token"),
        ("user_id:token,item_id:token", "column 'user_id:token,item_id:token' has no type"),
        ("user_id:token\tmovie:token", "has no column item_id:token"),
    ],
)
def test_atomic_headers_that_say_too_little_are_refused(head: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a\.inter:1: {says}"):
        movielens.read_inter(written(tmp_path, "a.inter", f"{head}\n1\t2\n"))


WANTED = pl.Series("item", [242, 4, 1], dtype=pl.Int64)
FLAGS = "|0|0|0|0|0|1|0|0|1|0|0|0|0|0|0|0|0|0|0\n"  # Comedy, Drama
U_ITEM = (
    "1|Café  (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?x" + FLAGS
    + "4|unknown||||1" + "|0" * 18 + "\n"
)  # fmt: skip
ATOMIC = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tCafé\t1995\tComedy Drama\n4\tunknown\t\t\n"
)
MOVIES: dict[str, tuple[str, str, Callable[[Path, pl.Series], pl.DataFrame]]] = {
    "u.item": (U_ITEM, "latin-1", movielens.u_items),
    "movies.dat": (
        "1::Café (1995)::Comedy|Drama\n4::unknown::(no genres listed)\n",
        "latin-1",
        movielens.dat_items,
    ),
    "movies.csv": (
        "movieId,title,genres\n1,Café (1995),Comedy|Drama\n4,unknown,(no genres listed)\n",
        "utf-8",
        movielens.csv_items,
    ),
    "ml-100k.item": (ATOMIC, "utf-8", movielens.atomic_items),
}


@pytest.mark.parametrize("name", MOVIES)
def test_movies_are_the_same_in_every_layout(name: str, tmp_path: Path) -> None:
    text, encoding, items = MOVIES[name]
    found = items(written(tmp_path, name, text, encoding), WANTED)
    assert found.select("item", "raw_id", "title", "text").rows() == [
        (1, "1", "Café (1995)", "Café (1995). Comedy, Drama"),
        (4, "4", "unknown", "unknown"),
        (242, "242", None, None),  # rated, and not described
    ]
    assert [tags or [] for tags in found["tags"].to_list()] == [["Comedy", "Drama"], [], []]


def test_titles_in_quotes_hold_commas_quotes_and_semicolons(tmp_path: Path) -> None:
    text = (
        'movieId,title,genres\n1,"American President, The (1995)",Comedy\n4,"""Great"" Gatsby; The",Drama\n'
    )
    found = movielens.csv_items(written(tmp_path, "movies.csv", text), WANTED)
    assert found["title"].to_list() == ["American President, The (1995)", '"Great" Gatsby; The', None]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("movies.dat", "1::Heat::Crime\nHeat::Crime\n", "2: has 2 fields and should have 3"),
        ("movies.csv", 'movieId,title,genres\n1,Heat,Crime\n4,"It, (1990)",Horror,x\n', "3: has 4 fields"),
        (
            "u.item",
            U_ITEM.replace("|0\n", "|Jazz\n"),
            "1: War 'Jazz' is not a whole number|1: Western 'Jazz'",
        ),
        ("ml-100k.item", "item_id:token\ttitle:token_seq\n1\tHeat\n", "1: has no column movie_title"),
    ],
)
def test_malformed_movies_are_refused_with_their_line(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    _, encoding, items = MOVIES[name]
    with pytest.raises(DataError, match=f"{name}:({says})"):
        items(written(tmp_path, name, text, encoding), WANTED)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["ml-100k.inter", "u.data"])
def test_real_ratings_are_those_of_the_readme(name: str, raw_root: Path) -> None:
    """Runs where the user has put the files; they may not be handed on."""
    path = next((path for path in raw_root.glob(f"*/{name}*") if path.is_file()), None)
    if path is None:
        pytest.skip(f"needs {name} of ml-100k in a folder of {raw_root}")
    frame = LAYOUTS[name][2](path).frame.collect()
    assert (len(frame), frame["user"].n_unique(), frame["item"].n_unique()) == (100_000, 943, 1_682)
    assert frame.group_by("user").len()["len"].min() == 20
