"""ReDial: histories in order of talk, labels, and queries that do not give the target away."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from recbench.data.selection import Selection, select
from recbench.data.sources import redial
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TITLES = {"10": "Iron Man  (2008)", "20": "Alien (1979)", "30": "Up (2009)", "40": None, "50": "Alien "}
SEEKER, HELPER = 7, 8


def dialogue(
    conversation: int, talk: list[tuple[int, str]], liked: dict[str, int] | None = None, seeker: int = SEEKER
) -> dict[str, Any]:
    """A dialogue as published; movies that are talked about are listed in order of their ids."""
    named = sorted({movie for _, text in talk for movie in re.findall(r"@(\d+)", text)})
    labels = {movie: {"suggested": 0, "seen": 2, "liked": value} for movie, value in (liked or {}).items()}
    return {
        "movieMentions": {movie: TITLES[movie] for movie in named} or [],
        "respondentQuestions": [],
        "messages": [
            {"timeOffset": place, "text": text, "senderWorkerId": sender, "messageId": 900 + place}
            for place, (sender, text) in enumerate(talk)
        ],
        "conversationId": str(conversation),
        "respondentWorkerId": HELPER,
        "initiatorWorkerId": seeker,
        "initiatorQuestions": labels or [],
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes dialogues into a file, one a line."""

    def write(*dialogues: dict[str, Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(each) + "\n" for each in dialogues), encoding="utf-8")
        return path

    return write


LATER = dialogue(120, [(HELPER, "Seen @20?"), (SEEKER, "yes, and @10\u2028")], {"20": 1, "10": 0})
EARLIER = dialogue(99, [(SEEKER, "@30 or @10, and @30"), (HELPER, "no")], {"30": 2})


def test_order_is_that_of_conversations_then_of_first_mentions(written: Callable[..., Path]) -> None:
    log = redial.read_redial([written(LATER, EARLIER)], keep_disliked=True)
    assert log.clock == "none"
    assert log.notes == ()
    assert log.frame.collect().rows() == [
        (7, 30, 0, 2.0, 99),
        (7, 10, 1, None, 99),
        (7, 20, 2, 1.0, 120),
        (7, 10, 3, 0.0, 120),
    ]


def test_disliked_movies_are_dropped_and_counted_and_unknown_likes_kept(written: Callable[..., Path]) -> None:
    log = redial.read_redial([written(LATER, EARLIER)])
    assert log.frame.select("item", "row").collect().rows() == [(30, 0), (10, 1), (20, 2)]
    assert log.notes == ("1 mentions of movies that the seeker did not like; dropped",)


def test_a_movie_listed_and_never_named_comes_last(written: Callable[..., Path]) -> None:
    odd = dialogue(1, [(SEEKER, "@30"), (SEEKER, "@10"), (SEEKER, "@20")])
    odd["movieMentions"] = {"40": None, "10": "Iron Man", "30": "Up"}
    log = redial.read_redial([written(odd)])
    assert log.frame.collect()["item"].to_list() == [30, 10, 40]


def test_a_dialogue_in_two_files_counts_once_and_merged_turns_are_noted(
    written: Callable[..., Path],
) -> None:
    merged = [json.loads(json.dumps(each)) for each in (EARLIER, dialogue(5, [(SEEKER, "@20")]))]
    for each in merged:
        for message in each["messages"]:
            del message["timeOffset"], message["messageId"]
            message |= {"turn_id": 0, "masked_text": "<item>", "item": []}
    paths = [written(LATER, EARLIER), written(*merged, name="merged.jsonl")]
    log = redial.read_redial(paths)
    assert log.frame.collect()["item"].to_list() == [20, 30, 10, 20]
    assert log.notes[:2] == (
        "1 dialogues came more than once; the first was taken",
        "1 dialogues have the messages of each turn merged into one",
    )


def test_two_files_that_disagree_are_refused(written: Callable[..., Path]) -> None:
    other = dialogue(99, [(SEEKER, "@20")])
    with pytest.raises(DataError, match=r"b\.jsonl:1: conversation 99 has other movies or another seeker"):
        redial.read_redial([written(EARLIER), written(other, name="b.jsonl")])


def query(path: Path, selection: Selection = Selection()) -> str | None:  # noqa: B008
    interactions = select(redial.read_redial([path]), selection)
    queries = redial.redial_queries([path], interactions)
    assert queries["user"].to_list() == [SEEKER]
    found: str | None = queries["query"].item()
    return found


def test_query_is_what_the_seeker_said_before_the_target_came_up(written: Callable[..., Path]) -> None:
    talk = [
        (SEEKER, "Hi,  I liked\n@30 and @10"),
        (HELPER, "helpers are not quoted"),
        (SEEKER, "like @10?"),
        (HELPER, "then see @20"),
        (SEEKER, "not quoted any more"),
    ]
    path = written(dialogue(4, [(SEEKER, "an older wish for @30")]), dialogue(5, talk))
    assert query(path) == "Hi, I liked Up (2009) and Iron Man (2008) like Iron Man (2008)?"


def test_a_message_that_names_the_target_is_not_shown(written: Callable[..., Path]) -> None:
    assert query(written(dialogue(5, [(SEEKER, "like @20, say @20"), (HELPER, "ok")]))) is None


def test_the_targets_title_is_not_shown_however_it_is_written(written: Callable[..., Path]) -> None:
    talk = [(SEEKER, "such as ALIEN or @50 but aliens or @10"), (HELPER, "@20")]
    assert query(written(dialogue(5, talk))) == "such as or but aliens or Iron Man (2008)"


def test_short_titles_cannot_be_told_from_words(written: Callable[..., Path]) -> None:
    assert query(written(dialogue(5, [(SEEKER, "what is up"), (HELPER, "@30")]))) == "what is up"


def test_a_longer_number_is_another_movie(written: Callable[..., Path]) -> None:
    talk = [(SEEKER, "not @2011"), (SEEKER, "so"), (HELPER, "@20")]
    odd = dialogue(5, [(SEEKER, "")]) | {
        "movieMentions": {"20": "Alien (1979)", "2011": "Drive (2011)"},
        "messages": [{"senderWorkerId": sender, "text": text, "timeOffset": 0} for sender, text in talk],
    }
    assert query(written(odd)) == "not Drive (2011) so"


REPEATED = (
    dialogue(1, [(SEEKER, "first wish"), (HELPER, "@20")]),
    dialogue(2, [(SEEKER, "second wish"), (HELPER, "@20")]),
    dialogue(3, [(SEEKER, "third wish"), (HELPER, "@20")], {"20": 0}),
)


@pytest.mark.parametrize(("merge_repeats", "says"), [(False, "second wish"), (True, "first wish")])
def test_query_is_of_the_conversation_that_counts(
    merge_repeats: bool,
    says: str,
    written: Callable[..., Path],
) -> None:
    assert query(written(*REPEATED), Selection(merge_repeats=merge_repeats)) == says


def without(key: str) -> str:
    return json.dumps({name: value for name, value in LATER.items() if name != key})


MALFORMED = {
    "not-json": ("{'movieMentions': {}}", r"no JSON \(Expecting property name"),
    "blank": ("", "the line is blank"),
    "no-object": ("[1, 2]", "not as ReDial's dialogues are"),
    "no-mentions": (without("movieMentions"), "the dialogue has no movieMentions"),
    "no-messages": (without("messages"), "the dialogue has no messages"),
    "no-conversation": (without("conversationId"), "the dialogue has no conversationId"),
    "no-seeker": (without("initiatorWorkerId"), "the dialogue has no initiatorWorkerId"),
    "no-text": (json.dumps(LATER | {"messages": [{"senderWorkerId": 1}]}), "the dialogue has no text"),
    "word-as-id": (json.dumps(LATER | {"movieMentions": {"Up": "Up"}}), "invalid literal for int"),
    "mentions-list": (json.dumps(LATER | {"movieMentions": ["20"]}), "not as ReDial's dialogues are"),
    "other-label": (
        json.dumps(LATER | {"initiatorQuestions": {"20": {"liked": 5}}}),
        "liked is 5 and should be 0, 1 or 2",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_lines_are_refused_with_their_number(kind: str, written: Callable[..., Path]) -> None:
    line, says = MALFORMED[kind]
    path = written(EARLIER)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n" + json.dumps(LATER), encoding="utf-8")
    with pytest.raises(DataError, match=rf"train\.jsonl:2: .*{says}") as raised:
        redial.read_redial([path])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b'{"a": "\xe9"}\n', "1: byte 0xe9 is not UTF-8")]
)
def test_files_that_are_no_text_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=rf"train\.jsonl:.*{says}"):
        redial.read_redial([tmp_path / "train.jsonl"])


CSV = (
    'movieId,movieName,nbMentions\r\n10,Iron Man  (2008),5\r\n20,"Me, Myself (2000)",1\r\n30,Up (2009),0\r\n'
)
WANTED = pl.Series("item", [20, 10, 20, 40])


def test_titles_without_details(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text(CSV)
    assert redial.redial_items(tmp_path / "movies.csv", WANTED).rows() == [
        (10, "10", "Iron Man (2008)", "Iron Man (2008)"),
        (20, "20", "Me, Myself (2000)", "Me, Myself (2000)"),
        (40, "40", None, None),
    ]


def test_genres_are_tags_and_the_text_says_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text(CSV)
    pl.DataFrame(
        {
            "movie_id": [10, 20],
            "genres": [["action", "sci-fi"], []],
            "plot": [" A man\nbuilds a suit. ", None],
            "director": [["Jon Favreau"], None],
            "star": [["Robert Downey Jr.", "Gwyneth Paltrow"], []],
        },
        schema_overrides={"movie_id": pl.Int32},
    ).write_parquet(tmp_path / "movies.parquet")
    items = redial.redial_items(tmp_path / "movies.csv", WANTED, details=tmp_path / "movies.parquet")
    assert items["tags"].to_list() == [["action", "sci-fi"], None, None]
    assert items["text"].to_list() == [
        "Iron Man (2008). action, sci-fi. Directed by Jon Favreau. With Robert Downey Jr., Gwyneth Paltrow. "
        "A man builds a suit.",
        "Me, Myself (2000)",
        None,
    ]


def test_details_that_lack_a_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text(CSV)
    pl.DataFrame({"movie_id": [10]}).write_parquet(tmp_path / "movies.parquet")
    with pytest.raises(
        DataError, match=r"movies\.parquet: cannot be used .*needs the columns movie_id, genres"
    ):
        redial.redial_items(tmp_path / "movies.csv", WANTED, details=tmp_path / "movies.parquet")


@pytest.fixture
def real(raw_root: Path) -> list[Path]:
    """The real dialogues there are: all of the test part and two parts of the training part."""
    names = ("test_data", "kgsf_valid_data", "ievalm_valid_data")
    return [raw_root / "redial" / f"{name}.jsonl.gz" for name in names]


@pytest.mark.realdata
def test_real_dialogues_are_those_of_the_readme(real: list[Path], raw_root: Path) -> None:
    log = redial.read_redial(real, keep_disliked=True)
    frame = log.frame.collect()
    assert len(frame) == 16_735
    assert frame["user"].n_unique() == 433
    assert frame.group_by("user").len().filter(pl.col("len") >= 5).height == 391
    assert frame["item"].n_unique() == 3_606
    assert frame["conversation"].n_unique() == 3_155
    assert dict(frame["rating"].value_counts().iter_rows()) == {1.0: 13_404, 0.0: 760, 2.0: 2_341, None: 230}
    assert log.notes[0] == "88 dialogues came more than once; the first was taken"
    table = pl.read_parquet(raw_root / "redial" / "mentions.parquet")
    ours = frame.select("conversation", seeker="user", movie="item", liked="rating")
    theirs = table.select(
        pl.col("conversation", "seeker", "movie").cast(pl.Int64), pl.col("liked").cast(pl.Float64)
    )
    assert ours.sort(ours.columns).equals(theirs.select(ours.columns).sort(ours.columns))
    assert len(redial.read_redial(real).frame.collect()) == 16_735 - 760


@pytest.mark.realdata
def test_real_queries_name_no_target(real: list[Path]) -> None:
    interactions = select(redial.read_redial(real), Selection())
    queries = redial.redial_queries(real, interactions)
    assert len(queries) == 433
    assert queries["query"].null_count() == 0
    titles: dict[int, str] = {}
    for path in real:
        for line in pl.read_ndjson(path, schema={"movieMentions": pl.String})["movieMentions"]:
            titles |= {int(movie): title or "" for movie, title in json.loads(line).items()}
    targets = interactions.group_by("user").agg(pl.col("item").sort_by("pos").last())
    known = sorted({" ".join(title.split()) for title in titles.values()}, key=len, reverse=True)
    for user, said, item in queries.join(targets, on="user").select("user", "query", "item").iter_rows():
        assert f"@{item}" not in said, user
        target = " ".join(titles[item].split())
        name = re.sub(r" *\(\d{4}\)$", "", target)
        # other movies may have the target's title in theirs, as National Treasure 2 has
        for title in (other for other in known if name in other and other != target):
            said = said.replace(title, "")
        assert len(name) < 4 or not re.search(rf"\b{re.escape(name)}\b", said, re.IGNORECASE), user


@pytest.mark.realdata
def test_real_movies(real: list[Path], raw_root: Path) -> None:
    wanted = redial.read_redial(real, keep_disliked=True).frame.collect()["item"]
    folder = raw_root / "redial"
    items = redial.redial_items(
        folder / "movies_with_mentions.csv.gz", wanted, details=folder / "movies.parquet"
    )
    assert len(items) == 3_606
    assert items.filter(pl.col("title").is_null())["raw_id"].to_list() == [
        "50"
    ]  # "@50 First Dates", mistyped
    assert items["tags"].explode().drop_nulls().n_unique() <= 27
