"""The registry: a data set is made from its owner's files in their true layout, or says what is missing."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from recbench import config
from recbench.data import audit, prepare, public, raw
from recbench.data.public import DATA_SETS, Golden
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recbench.data.prepared import Prepared

DAY = 86_400
OWNED = [name for name, data_set in DATA_SETS.items() if data_set.sequences is None]


@pytest.fixture
def raw_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    """An empty folder where raw files are looked for."""
    folder = tmp_path / "raw"
    folder.mkdir()
    monkeypatch.setenv("RECBENCH_RAW", str(folder))
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Prepared]:
    """Loads a data set whose files are made up here, so without its published sizes."""

    def load(name: str) -> Prepared:
        monkeypatch.setitem(public.DATA_SETS, name, replace(DATA_SETS[name], golden=None))
        return prepare.load(name)

    return load


def _histories(prepared: Prepared) -> list[list[str]]:
    """The raw ids of every user's items."""
    raw_ids = dict(prepared.items.select("item", "raw_id").iter_rows())
    grouped = prepared.interactions.group_by("user", maintain_order=True).agg("item")["item"].to_list()
    return [[raw_ids[item] for item in items] for items in grouped]


def test_every_data_set_has_a_protocol_and_every_protocol_a_data_set() -> None:
    presets = {path.stem: path for path in (config.folder() / "data").glob("*.yaml")}
    assert presets.keys() == set(prepare.names())
    for name, path in presets.items():
        assert yaml.safe_load(path.read_text())["name"] == name


@pytest.mark.parametrize("name", OWNED)
def test_what_has_no_known_hash_is_asked_for(name: str, cache: Path) -> None:
    first = DATA_SETS[name].files[0]
    with pytest.raises(DataError) as caught:
        prepare.load(name)
    message = str(caught.value)
    archive = f" or {first.archive}" if first.archive else ""
    assert message.startswith(f"{first.name} or {first.name}.gz{archive} is not in {cache}")
    assert f"get it from {first.owner}" in message
    assert message.endswith(f"put it into {cache / 'raw' / first.folder}")
    assert "\n" not in message


def test_only_files_with_a_known_hash_are_downloaded() -> None:
    for data_set in DATA_SETS.values():
        for file in (*data_set.files, *data_set.instead):
            assert bool(file.url) == bool(file.sha256)
            assert file.url or file.owner


def test_partial_data_say_so_in_their_name() -> None:
    partial = {name for name, data_set in DATA_SETS.items() if data_set.partial}
    assert partial == {"redial-partial", "foursquare-nyc-10core"}


def test_the_registry_imports_no_reader() -> None:
    code = (
        "import sys, recbench.data.prepare\n"
        "found = [name for name in sys.modules if name.startswith('recbench.data.sources.')]\n"
        "sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _amazon_rows() -> list[dict[str, object]]:
    """Users u0..u4 with items i0..i4, one a day in an order of their own; u5 has one item and falls out."""
    rows = [
        {"reviewerID": f"u{user}", "asin": f"i{(user + step) % 5}", "overall": 5.0,
         "unixReviewTime": (16_000 + step) * DAY}
        for step in (3, 0, 4, 1, 2) for user in range(5)
    ]  # fmt: skip
    return [*rows, {"reviewerID": "u5", "asin": "i0", "overall": 1.0, "unixReviewTime": 16_000 * DAY}]


def test_amazon_from_its_owners_files(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in _amazon_rows())
    (raw_folder / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress(lines.encode()))
    meta = {"asin": "i1", "title": "Soap", "brand": "Acme", "categories": [["Beauty", "Bath"]]}
    (raw_folder / "meta_Beauty.json.gz").write_bytes(gzip.compress(f"{meta!r}\n".encode()))
    prepared = loaded("beauty-2014")
    assert _histories(prepared) == [[f"i{(user + step) % 5}" for step in range(5)] for user in range(5)]
    assert prepared.card.clock == "unix"
    assert prepared.items.filter(raw_id="i1")["title"].to_list() == ["Soap"]
    assert prepared.card.notes == (
        "1 of 26 (3.85 %) dropped: users with fewer than 5 or items with fewer than 5",
        "4 of 5 items are not described",
    )
    assert list(prepared.card.sources) == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]


def test_yelp_keeps_the_reviews_of_2019(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    rows = [
        {
            "user_id": f"u{user}",
            "business_id": f"b{(user + step) % 5}",
            "stars": 4.0,
            "date": f"{day} 10:00:00",
        }
        for user in range(5)
        for step, day in enumerate(("2019-01-01", "2019-02-01", "2019-05-01", "2019-12-01", "2019-12-31"))
    ]
    rows += [{"user_id": "u0", "business_id": "b0", "stars": 4.0, "date": "2020-01-01 00:00:00"}]
    places = [
        {"business_id": f"b{n}", "name": "Inn", "categories": "Bars, Food", "latitude": 1.5, "longitude": 2.5}
        for n in range(5)
    ]
    for name, content in (("review", rows), ("business", places)):
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (raw_folder / f"yelp_academic_dataset_{name}.json").write_text(lines)
    prepared = loaded("yelp-2019")
    assert _histories(prepared) == [[f"b{(user + step) % 5}" for step in range(5)] for user in range(5)]
    assert prepared.card.notes == ("1 of 26 (3.85 %) dropped: before 2019-01-01 or after 2019-12-31",)
    assert prepared.items["tags"].to_list() == [["Bars", "Food"]] * 5


def _dialogue(number: int, said: list[str], movies: dict[str, str]) -> str:
    """A line of dialogue number `number`, in which seeker 5 says everything."""
    labels = {movie: {"suggested": 1, "seen": 1, "liked": 1} for movie in movies}
    messages = [
        {"timeOffset": place, "text": text, "senderWorkerId": 5, "messageId": 10 * number + place}
        for place, text in enumerate(said)
    ]
    content = {
        "movieMentions": movies,
        "respondentQuestions": [],
        "initiatorQuestions": labels,
        "messages": messages,
        "conversationId": number,
        "respondentWorkerId": 9,
        "initiatorWorkerId": 5,
    }
    return json.dumps(content) + "\n"


def test_redial_has_what_the_seeker_asked_for(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    movies = {"11": "Alien (1979)", "12": "Heat (1995)", "13": "Jaws (1975)"}
    late = _dialogue(2, ["tense, like @12?", "then @13"], {"12": movies["12"], "13": movies["13"]})
    early = _dialogue(1, ["@11 or @12?"], {"11": movies["11"], "12": movies["12"]})
    (raw_folder / "train_data.jsonl").write_text(late)
    (raw_folder / "test_data.jsonl").write_text(early)
    listed = "".join(f'{movie},"{title}",1\n' for movie, title in movies.items())
    (raw_folder / "movies_with_mentions.csv").write_text("movieId,movieName,nbMentions\n" + listed)
    prepared = loaded("redial")
    assert _histories(prepared) == [["11", "12", "12", "13"]]
    assert prepared.queries is not None
    assert prepared.queries.rows() == [(0, "tense, like Heat (1995)?")]
    assert prepare.load("redial").queries.equals(prepared.queries)  # type: ignore[union-attr]


def test_foursquare_keeps_every_check_in(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    rows = [
        f"7\tv{venue}\tc1\tCaf\xe9\t40.7\t-74.0\t-240\t{day} 18:00:09 +0000 2012\n"
        for day, venue in (("Tue Apr 03", 1), ("Wed Apr 04", 2), ("Thu Apr 05", 1))
    ]
    (raw_folder / "dataset_TSMC2014_NYC.txt").write_bytes("".join(rows).encode("latin-1"))
    prepared = loaded("foursquare-nyc")
    assert _histories(prepared) == [["v1", "v2", "v1"]]
    assert prepared.interactions["time"][0] == 1333476009  # 2012-04-03T18:00:09Z
    assert prepared.items["tags"].to_list() == [["Caf\xe9"]] * 2


def test_music4all_keeps_every_listening(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    events = "".join(f"u1\t{song}\t2019-01-01 10:0{m}\n" for song, m in (("s2", 1), ("s1", 0), ("s2", 2)))
    (raw_folder / "listening_history.csv").write_text("user\tsong\ttimestamp\n" + events)
    songs = "id\tartist\tsong\talbum_name\ns1\tA\tOne\tX\ns2\tB\tTwo\tY\n"
    (raw_folder / "id_information.csv").write_text(songs)
    prepared = loaded("music4all")
    assert _histories(prepared) == [["s1", "s2", "s2"]]
    assert sorted(prepared.items["title"].to_list()) == ["A - One", "B - Two"]


def test_movielens_in_both_of_its_layouts(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    (raw_folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t20\t3\t50\n1\t10\t4\t40\n"
    )
    (raw_folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tHeat\t1995\tCrime\n20\tJaws\t1975\tThriller\n"
    )
    atomic = loaded("ml-100k")
    (raw_folder / "u.data").write_text("1\t20\t3\t50\n1\t10\t4\t40\n")
    flags = {10: "|".join("1" if n == 6 else "0" for n in range(19)), 20: "|".join("0" for _ in range(19))}
    (raw_folder / "u.item").write_text(
        "".join(f"{movie}|Title|01-Jan-1995||url|{flag}\n" for movie, flag in flags.items())
    )
    original = loaded("ml-100k")
    assert _histories(original) == _histories(atomic) == [["10", "20"]]
    assert original.card.fingerprint == atomic.card.fingerprint
    assert list(original.card.sources) == [
        "u.data",
        "u.item",
    ]  # the originals are preferred once they are here


def test_ml_1m_is_read(raw_folder: Path, loaded: Callable[[str], Prepared]) -> None:
    (raw_folder / "ratings.dat").write_text("1::20::3::50\n1::10::4::40\n")
    (raw_folder / "movies.dat").write_text("10::Heat (1995)::Crime\n20::Jaws (1975)::Thriller\n")
    prepared = loaded("ml-1m")
    assert _histories(prepared) == [["10", "20"]]
    assert sorted(prepared.items["title"].to_list()) == ["Heat (1995)", "Jaws (1975)"]


def test_a_changed_raw_file_is_prepared_again(
    raw_folder: Path, loaded: Callable[[str], Prepared], caplog: pytest.LogCaptureFixture
) -> None:
    (raw_folder / "movies.dat").write_text("10::Heat (1995)::Crime\n20::Jaws (1975)::Thriller\n")
    (raw_folder / "ratings.dat").write_text("1::20::3::50\n1::10::4::40\n")
    first = loaded("ml-1m")
    (raw_folder / "ratings.dat").write_text("1::20::3::30\n1::10::4::40\n")
    second = loaded("ml-1m")
    assert _histories(first) == [["10", "20"]]
    assert _histories(second) == [["20", "10"]]
    assert "ratings.dat is new or has changed" in caplog.text


def test_published_sizes_are_checked(raw_folder: Path) -> None:
    (raw_folder / "movies.dat").write_text("10::Heat (1995)::Crime\n20::Jaws (1975)::Thriller\n")
    (raw_folder / "ratings.dat").write_text("1::20::3::50\n1::10::4::40\n")
    with pytest.raises(DataError, match="ml-1m: num_users is 1, but the published data has 6,040"):
        prepare.load("ml-1m")


def test_list_says_what_is_here_and_what_is_partial(raw_folder: Path) -> None:
    (raw_folder / "ratings.dat").touch()
    (raw_folder / "movies.dat").touch()
    lines = {line.split()[0]: line for line in audit.list_text().splitlines()}
    assert lines.keys() == set(prepare.names())
    assert "raw file here" in lines["ml-1m"]
    assert "to be provided" in lines["music4all"]
    assert "to be downloaded" in lines["beauty"]
    assert "partial: 33,198 venues" in lines["foursquare-nyc-10core"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("beauty", "1e34ef92"),
        ("sports", "3f32e13a"),
        ("lastfm", ""),
        ("foursquare-nyc-10core", ""),
        ("redial-partial", ""),
    ],
)
def test_real_files_have_their_published_sizes_and_fingerprints(
    name: str, prefix: str, raw_root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECBENCH_RAW", str(raw_root))
    assert not cache.exists()
    card = prepare.load(name).card
    assert card.fingerprint.startswith(prefix)  # records of the leaderboard rest on these two
    assert Golden(card.num_users, card.num_items, card.num_interactions) == DATA_SETS[name].golden
    assert card.partial == DATA_SETS[name].partial


@pytest.mark.realdata
def test_redial_partial_counts_of_everything_mentioned(
    raw_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbench.data.sources import redial

    monkeypatch.setenv("RECBENCH_RAW", str(raw_root))
    paths = [raw.provided(file) for file in DATA_SETS["redial-partial"].files if "jsonl" in file.name]
    frame = redial.read_redial(paths, keep_disliked=True).frame.collect()
    assert (frame["user"].n_unique(), frame["item"].n_unique(), len(frame)) == (433, 3_606, 16_735)
    assert (frame.group_by("user").len()["len"] >= 5).sum() == 391
