"""ReDial's files of dialogues: one JSON object a line, checked, each dialogue once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from recbench.data import raw
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MENTION = re.compile(r"@(\d+)")
_LIKED = (0, 1, 2, None)


class Mention(NamedTuple):
    """A movie of a dialogue: its id, its title if the dialogue has one, and what the seeker said of it."""

    movie: int
    title: str | None
    liked: int | None


class Dialogue(NamedTuple):
    """A dialogue: movies in order of first mention, and the messages as (sender, text) in order."""

    conversation: int
    seeker: int
    mentions: tuple[Mention, ...]
    messages: tuple[tuple[int, str], ...]
    is_merged: bool  # consecutive messages of one person are one message, as in iEvaLM's copy


def read_dialogues(paths: Sequence[Path]) -> tuple[list[Dialogue], list[str]]:
    """All dialogues in order of conversation, each once; and notes of what was merged.

    Args:
        paths: files of dialogues; one that is in several is taken from the first.

    Raises:
        DataError: a file is unreadable, a line is no dialogue, or two files disagree about one.
    """
    found: dict[int, Dialogue] = {}
    again = 0
    for path in paths:
        for where, dialogue in _parsed(path):
            known = found.setdefault(dialogue.conversation, dialogue)
            again += known is not dialogue
            if known.seeker != dialogue.seeker or set(known.mentions) != set(dialogue.mentions):
                raise DataError(
                    f"{where}: conversation {dialogue.conversation} has other movies or another seeker than "
                    "where it came before; remove one of the two"
                )
    merged = sum(dialogue.is_merged for dialogue in found.values())
    notes = [f"{again:,} dialogues came more than once; the first was taken"] * (again > 0)
    notes += [f"{merged:,} dialogues have the messages of each turn merged into one"] * (merged > 0)
    return [found[conversation] for conversation in sorted(found)], notes


def _parsed(path: Path) -> Iterator[tuple[str, Dialogue]]:
    """Each line's dialogue, with `file:line`."""
    # not splitlines(): messages may hold line separators of Unicode, which end no line of JSON
    lines = raw.read(path).removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise DataError(f"{path}: the file is empty; fetch it again")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            yield where, _dialogue(json.loads(line))
        except UnicodeDecodeError as error:
            fault = f"byte {line[error.start]:#04x} is not UTF-8; save the file as UTF-8"
            raise DataError(f"{where}: {fault}") from None
        except json.JSONDecodeError as error:
            fault = (
                f"no JSON ({error.msg} at character {error.pos + 1})" if line.strip() else "the line is blank"
            )
            raise DataError(
                f"{where}: {fault}; each line should hold one dialogue; correct or remove it"
            ) from None
        except KeyError as error:
            raise DataError(f"{where}: the dialogue has no {error.args[0]}; fetch the file again") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{where}: not as ReDial's dialogues are ({error}); fetch the file again"
            ) from None


def _dialogue(line: dict[str, Any]) -> Dialogue:
    """A dialogue from its JSON object.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not as published.
    """
    messages = tuple((int(each["senderWorkerId"]), str(each["text"])) for each in line["messages"])
    titles = line["movieMentions"] or {}
    labels = line["initiatorQuestions"] or {}
    named = dict.fromkeys(MENTION.findall(" ".join(text for _, text in messages)))
    mentions = []
    # a movie that is listed and never named comes last
    for movie in [
        *(movie for movie in named if movie in titles),
        *(movie for movie in titles if movie not in named),
    ]:
        liked = labels.get(movie, {}).get("liked")
        if liked not in _LIKED:
            raise ValueError(f"liked is {liked!r} and should be 0, 1 or 2")
        mentions.append(Mention(int(movie), titles[movie], liked))
    return Dialogue(
        int(line["conversationId"]),
        int(line["initiatorWorkerId"]),
        tuple(mentions),
        messages,
        is_merged="timeOffset" not in line["messages"][0] if messages else False,
    )
