"""Music4All as its owners describe it, HetRec's Last.fm with its real damage, and S3-Rec's LastFM."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest

from recbench.data import raw, sequence_file
from recbench.data.sources import music
from recbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

HISTORY = "user\tsong\ttimestamp\nuser_a\tSoNgB\t{}\nuser_a\tSoNgA\t{}\nuser_b\tSoNgB\t{}\n"
SECONDS = [1_546_300_800, 1_546_300_860, 1_546_387_199]  # 2019-01-01 00:00, 00:01 and 23:59:59


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def history(folder: Path, *times: object, head: str = "user\tsong\ttimestamp") -> Path:
    text = HISTORY.format(*times).replace("user\tsong\ttimestamp", head)
    return written(folder / "listening_history.csv", text)


@pytest.mark.parametrize(
    "times",
    [
        SECONDS,
        ["2019-01-01 00:00", "2019-01-01 00:01", "2019-01-01 23:59:59"],
        ["2019-01-01T00:00:00Z", "2019-01-01 00:01:00.250", 1_546_387_199],
    ],
    ids=["seconds", "minutes", "mixed"],
)
def test_listening_events(times: list[object], tmp_path: Path) -> None:
    log = music.read_music4all(history(tmp_path, *times))
    assert log.clock == "unix"
    assert log.frame.select("user", "item", "row", "time").collect().rows() == [
        ("user_a", "SoNgB", 0, SECONDS[0]),
        ("user_a", "SoNgA", 1, SECONDS[1]),
        ("user_b", "SoNgB", 2, SECONDS[2]),
    ]


@pytest.mark.parametrize(
    "head", ["user_id\tsong_id\ttime", "User\tTrack_ID\tTimestamp", '"user"\t"song"\t"date"']
)
def test_columns_are_found_by_their_names(head: str, tmp_path: Path) -> None:
    frame = music.read_music4all(history(tmp_path, *SECONDS, head=head)).frame.collect()
    assert frame["item"].to_list() == ["SoNgB", "SoNgA", "SoNgB"]


def test_columns_may_stand_in_another_order_with_others_between(tmp_path: Path) -> None:
    path = written(tmp_path / "history.csv", "timestamp\tid\tsong\tplays\tuser\n60\t7\tA\t\tu\n")
    assert music.read_music4all(path).frame.collect().rows() == [("u", "A", 0, 60)]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            "listener\tsong\ttimestamp",
            "none of the columns listener, song, timestamp is called user or user_id",
        ),
        ("user\tsong\tplays", "is called timestamp or time"),
        ("user,song,timestamp", "with tabs between"),
        ("", "the first line is empty"),
    ],
)
def test_a_header_without_our_columns_is_refused(head: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"listening_history\.csv:1: .*{says}"):
        music.read_music4all(history(tmp_path, *SECONDS, head=head))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("u\tA\tyesterday", "'yesterday' is no time; write YYYY-MM-DD HH:MM, or unix seconds"),
        ("u\tA\t1546300800000", "'1546300800000' is no time"),
        ("u\tA\t-5", "'-5' is no time"),
        ("u\tA\t2019-02-30 10:00", "'2019-02-30 10:00' is no time"),
        ("u\tA\t", "when is empty"),
        ("u\t\t60", "item is empty"),
        ("u\tA", "has 2 fields and should have 3"),
        ("u\tA\t60\t1", "has 4 fields and should have 3"),
        ("", "the line is blank"),
    ],
)
def test_malformed_events_are_refused_with_their_line(line: str, says: str, tmp_path: Path) -> None:
    path = history(tmp_path, *SECONDS)
    path.write_text(path.read_text() + line + "\nuser_c\tSoNgA\t90\n")
    with pytest.raises(DataError, match=rf"listening_history\.csv:5: {says}") as raised:
        music.read_music4all(path).frame.collect()
    assert "\n" not in str(raised.value)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Music4All's tables of songs; song C has no genre, D is described nowhere."""
    for name, text in {
        "information": "artist\tsong\talbum_name\n"
        'A\tBjörk\tJóga\tHomogenic\nB\tAC/DC\t"T.N.T."\tT.N.T.\nC\tX\tY\t\n',
        "genres": "genres\nA\telectronic,art pop, art pop\nB\thard rock\n",
        "tags": "tags\nA\ticeland,electronic\n",
    }.items():
        written(tmp_path / f"id_{name}.csv", f"id\t{text}")
    return tmp_path / "id_information.csv"


def test_songs_have_titles_genres_as_tags_and_a_text(songs: Path) -> None:
    items = music.music4all_items(songs, pl.Series(["C", "A", "B", "D", "A"]))
    assert items.columns == ["item", "raw_id", "title", "tags", "text"]
    assert items.rows() == [
        ("A", "A", "Björk - Jóga", ["electronic", "art pop"],
         "Björk - Jóga. Homogenic. electronic, art pop. iceland, electronic"),
        ("B", "B", "AC/DC - T.N.T.", ["hard rock"], "AC/DC - T.N.T.. T.N.T.. hard rock"),
        ("C", "C", "X - Y", None, "X - Y"),
        ("D", "D", None, None, None),
    ]  # fmt: skip


def test_without_genres_no_tags_are_claimed(songs: Path) -> None:
    songs.with_name("id_genres.csv").unlink()
    items = music.music4all_items(songs, pl.Series(["A"]))
    assert items.columns == ["item", "raw_id", "title", "text"]


def test_a_table_with_commas_is_refused(songs: Path) -> None:
    written(songs, "id,artist,song,album_name\nA,Björk,Jóga,Homogenic\n")
    with pytest.raises(DataError, match=r"id_information\.csv:1: .*lacks id; .*tabs between fields"):
        music.music4all_items(songs, pl.Series(["A"]))


TAGGINGS = "userID\tartistID\ttagID\ttimestamp\r\n"


def test_an_artist_counts_at_its_first_tagging(tmp_path: Path) -> None:
    day = 86_400_000
    rows = [
        (2, 52, 13, 14_000),
        (2, 51, 13, 13_999),
        (2, 52, 15, 13_000),
        (3, 52, 13, -5_000),
        (3, 51, 1, 14_000),
    ]
    text = "".join(f"{user}\t{artist}\t{tag}\t{days * day}\r\n" for user, artist, tag, days in rows)
    log = music.read_hetrec(written(tmp_path / "user_taggedartists-timestamps.dat", TAGGINGS + text))
    assert sorted(log.frame.select("user", "item", "time", "row").collect().rows()) == [
        (2, 51, 13_999 * 86_400, 1),
        (2, 52, 13_000 * 86_400, 2),
        (3, 51, 14_000 * 86_400, 4),
    ]
    assert log.clock == "unix"
    assert log.notes == (
        "1 taggings are dated before 2002, when Last.fm began; dropped",
        "1 taggings of an artist that the user had tagged before; merged",
    )


def test_plays_are_no_sequence(tmp_path: Path) -> None:
    path = written(tmp_path / "user_artists.dat", "userID\tartistID\tweight\r\n2\t51\t13883\r\n")
    with pytest.raises(
        DataError, match=r"user_artists\.dat: .*no sequences in it; read user_taggedartists-timestamps"
    ):
        music.read_hetrec(path)


def test_other_columns_than_taggings_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "user_taggedartists.dat", "userID\tartistID\ttagID\tday\tmonth\tyear\n")
    with pytest.raises(
        DataError, match=r"user_taggedartists\.dat:1: .*should have userID, artistID, tagID, timestamp"
    ):
        music.read_hetrec(path)


def test_a_malformed_tagging_is_refused_with_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path / "user_taggedartists-timestamps.dat", TAGGINGS + "2\t51\trock\t1238536800000\r\n"
    )
    with pytest.raises(DataError, match=r"timestamps\.dat:2: tag 'rock' is not a whole number"):
        music.read_hetrec(path)


@pytest.mark.parametrize("head", ["userID\tartistID\tweight\r\n", ""], ids=["header", "no-header"])
def test_plays_with_blanks_and_without_header_are_mended_and_noted(head: str, tmp_path: Path) -> None:
    path = written(
        tmp_path / "user_artists.dat", head + "2\t51\t13883\r\n61\t65  \t170\r\n61\t163\t    316\r\n"
    )
    log = music.hetrec_plays(path)
    assert log.clock == "none"
    assert log.frame.select("user", "item", "rating").collect().rows() == [
        (2, 51, 13_883.0),
        (61, 65, 170.0),
        (61, 163, 316.0),
    ]
    missing = () if head else ("the header line is missing; read without",)
    assert log.notes == ("2 lines had blanks around a number; stripped", *missing)


@pytest.mark.parametrize("line", ["2\tfifty\t1", "2\t5 1\t1", "2\t 5\tmany"])
def test_malformed_plays_are_refused_with_their_line(line: str, tmp_path: Path) -> None:
    path = written(tmp_path / "user_artists.dat", f"userID\tartistID\tweight\n1\t2\t3\n{line}\n")
    with pytest.raises(DataError, match=r"user_artists\.dat:3: .* should be three numbers"):
        music.hetrec_plays(path)


def test_artists_have_names_quotes_and_all(tmp_path: Path) -> None:
    path = written(
        tmp_path / "artists.dat",
        'id\tname\turl\tpictureURL\n1\t"Weird Al" Yankovic\thttp://x\t\n2\tSigur Rós\thttp://y\thttp://z\n',
    )
    assert music.hetrec_items(path, pl.Series([2, 1, 3])).rows() == [
        (1, "1", '"Weird Al" Yankovic', '"Weird Al" Yankovic'),
        (2, "2", "Sigur Rós", "Sigur Rós"),
        (3, "3", None, None),
    ]


@pytest.mark.realdata
def test_real_plays_are_those_of_the_readme(raw_root: Path) -> None:
    folder = raw_root / "lastfm_hetrec"
    log = music.hetrec_plays(folder / "user_artists.dat.gz")
    frame = log.frame.collect()
    assert (len(frame), frame["user"].n_unique(), frame["item"].n_unique()) == (92_834, 1_892, 17_632)
    assert log.notes == (
        "8 lines had blanks around a number; stripped",
        "the header line is missing; read without",
    )
    assert frame.filter(user=61, item=65)["rating"].to_list() == [170.0]  # the damaged cell `65  `
    items = music.hetrec_items(folder / "artists.dat.gz", frame["item"])
    assert len(items) == 17_632
    assert items["title"].null_count() == 0


@pytest.mark.realdata
def test_real_lastfm_of_s3rec_is_that_of_the_readme(raw_root: Path) -> None:
    file = raw_root / "lastfm_s3rec" / "LastFM.txt.gz"
    frame = sequence_file.parse(raw.read(file), str(file))
    lengths = frame.group_by("user").len()["len"]
    assert (lengths.len(), frame["item"].n_unique(), len(frame)) == (1_090, 3_646, 52_551)
    assert (lengths.min(), lengths.median(), lengths.max()) == (5, 19, 899)
    assert frame.select("user", "item").is_duplicated().sum() == 0
    assert frame.group_by("item").len()["len"].min() == 5


def test_known_seconds() -> None:
    assert datetime.fromtimestamp(SECONDS[0], UTC).isoformat() == "2019-01-01T00:00:00+00:00"
