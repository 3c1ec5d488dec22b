"""ReDial (Li et al., NeurIPS 2018): dialogues in which a seeker asks for movies and is recommended some.

One JSON object a line. `movieMentions` maps movie ids to `Title (Year)`; `initiatorQuestions` maps them to
the seeker's labels `suggested`, `seen` and `liked` (0 no, 1 yes, 2 did not say); each of these is an empty
LIST when empty. Messages name movies as `@<id>`. There are no times but offsets inside a dialogue, so a
seeker's history is ordered by conversation id, then by first mention inside the dialogue.

A mention counts as an interaction unless the seeker said not to like the movie: `liked` is 1, 2 or unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from recbench.data import raw
from recbench.data.source import Log
from recbench.data.sources.delimited import Columns, Layout, scan
from recbench.data.sources.described import composed, described, one_line
from recbench.data.sources.dialogues import MENTION, read_dialogues
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recbench.data.sources.dialogues import Dialogue

_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
_MIN_LETTERS = 4  # a shorter title, as It or Saw, cannot be told from an ordinary word


def read_redial(paths: Sequence[Path], *, keep_disliked: bool = False) -> Log:
    """Who talked about which movie.

    Besides the columns of a `Log`, without `time`, the frame has `conversation`; `rating` is `liked`, null
    where the seeker was not asked. Rows are in order of conversation and first mention.

    Args:
        paths: files of dialogues; one that is in several is taken from the first.
        keep_disliked: keep movies that the seeker did not like.

    Raises:
        DataError: a file is unreadable, a line is no dialogue, or two files disagree about one.
    """
    dialogues, notes = read_dialogues(paths)
    rows = [(each.seeker, *mention, each.conversation) for each in dialogues for mention in each.mentions]
    schema = {"user": pl.Int64, "item": pl.Int64, "title": pl.String, "rating": pl.Float64}
    frame = pl.DataFrame(rows, {**schema, "conversation": pl.Int64}, orient="row").with_row_index("row")
    disliked = int((frame["rating"] == 0).sum())
    if disliked and not keep_disliked:
        frame = frame.filter(pl.col("rating").is_null() | (pl.col("rating") != 0))
        notes.append(f"{disliked:,} mentions of movies that the seeker did not like; dropped")
    return Log(frame.select("user", "item", "row", "rating", "conversation").lazy(), "none", tuple(notes))


def redial_queries(
    paths: Sequence[Path], interactions: pl.DataFrame, *, keep_disliked: bool = False
) -> pl.DataFrame:
    """What each seeker asked for, before the movie that is to be predicted came up.

    It is the seeker's own messages in the conversation in which the seeker's last item was mentioned, up
    to the message that first mentions it. Other movies are shown by their titles. The target is not shown:
    not its id, not another id of the same title, and not its title typed out, unless that is too short to be
    told from an ordinary word.

    Args:
        paths: the files given to `read_redial`.
        interactions: `user`, `item`, `pos`: what is left after selection. Where an item is there k times, its
            k-th mention is the last one: that is the latest, or the first if repeats were merged.
        keep_disliked: as given to `read_redial`.

    Returns:
        `user` and `query`, one row per user of `interactions` in order; null where nothing was said before.

    Raises:
        DataError: as `read_redial`.
    """
    times = pl.len().over("user", "item").alias("left")
    targets = interactions.with_columns(times).sort("user", "pos")
    targets = targets.unique("user", keep="last", maintain_order=True)
    wanted = {user: (item, left) for user, item, left in targets.select("user", "item", "left").iter_rows()}
    queries: dict[int, str] = {}
    for dialogue in read_dialogues(paths)[0]:
        target, left = wanted.get(dialogue.seeker, (None, 0))
        counted = [each.movie for each in dialogue.mentions if keep_disliked or each.liked != 0]
        if target in counted and left:
            queries[dialogue.seeker] = _query(dialogue, target)
            wanted[dialogue.seeker] = (target, left - 1)
    return targets.select(
        "user", query=pl.Series([queries.get(user) or None for user in wanted], dtype=pl.String)
    )


def redial_items(path: Path, wanted: pl.Series, *, details: Path | None = None) -> pl.DataFrame:
    """Titles of movies and, with `details`, their genres as tags and a text.

    Args:
        path: `movies_with_mentions.csv` (movieId, movieName, nbMentions).
        wanted: raw movie ids.
        details: `movies.parquet` (movie_id, genres, plot, director, star); without it, `text` is the title.

    Raises:
        DataError: a file is unreadable or lacks a column, or a line is malformed.
    """
    columns: Columns = {"item": pl.Int64, "title": pl.String, "nbMentions": pl.Int64}
    movies = scan(path, Layout(columns, separator=",", has_header=True, is_quoted=True)).select(
        "item", title=one_line(pl.col("title"))
    )
    table = movies.collect()
    if details is None:
        return described(wanted, table.with_columns(text="title"))
    return described(
        wanted,
        table.join(_details(details), on="item", how="left")
        .with_columns(
            text=composed(
                pl.col("title"),
                pl.col("tags").list.join(", "),
                pl.format("Directed by {}", pl.col("director").list.join(", ")),
                pl.format("With {}", pl.col("star").list.join(", ")),
                one_line(pl.col("plot")),
            )
        )
        .select("item", "title", "tags", "text"),
    )


def _details(path: Path) -> pl.DataFrame:
    """`item`, `tags`, `plot`, `director`, `star`; empty lists are null."""
    names = pl.List(pl.String)
    try:
        return pl.read_parquet(raw.read(path)).select(
            pl.col("movie_id").cast(pl.Int64).alias("item"),
            pl.col("plot").cast(pl.String),
            *[
                pl.when(pl.col(name).list.len() > 0).then(pl.col(name).cast(names)).alias(ours)
                for name, ours in (("genres", "tags"), ("director", "director"), ("star", "star"))
            ],
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"{path}: cannot be used ({first}); it needs the columns movie_id, genres, plot, director and "
            "star; fetch it again or go without"
        ) from None


def _query(dialogue: Dialogue, target: int) -> str:
    """What the seeker said before anyone mentioned `target`, without giving it away."""
    titles = {mention.movie: _clean(mention.title) for mention in dialogue.mentions}
    name = _YEAR.sub("", titles[target])
    typed = (
        re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) if len(name) >= _MIN_LETTERS else None
    )

    def shown(match: re.Match[str]) -> str:
        title = titles.get(int(match[1]), "")
        return "" if _YEAR.sub("", title).casefold() == name.casefold() else title

    said = []
    for sender, text in dialogue.messages:
        if str(target) in MENTION.findall(text):
            break
        if sender == dialogue.seeker:
            # first what was typed: another movie's title may hold the target's, as Iron Man 2 does
            said.append(MENTION.sub(shown, typed.sub("", text) if typed else text))
    return _clean(" ".join(said))


def _clean(text: str | None) -> str:
    """Without line breaks and double spaces."""
    return " ".join((text or "").split())
