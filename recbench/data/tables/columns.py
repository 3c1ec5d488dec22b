"""Which column of a table holds what: declared by the user, else found by the usual names."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recbench.data.problems import shown
from recbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNUSED = "-"  # declares that a table has no such column, whatever its header says
# in lower case without anything but letters and digits; the first name that the header has is taken
USUAL = {
    "user": (
        "user",
        "userid",
        "uid",
        "reviewerid",
        "customerid",
        "visitorid",
        "memberid",
        "accountid",
        "username",
    ),
    "item": (
        *(
            "item",
            "itemid",
            "iid",
            "parentasin",
            "asin",
            "businessid",
            "productid",
            "movieid",
            "venueid",
            "poiid",
        ),
        *("poi", "trackid", "songid", "song", "artistid", "bookid", "articleid", "sku"),
    ),
    "time": (
        *(
            "time",
            "timestamp",
            "ts",
            "unixreviewtime",
            "unixtime",
            "datetime",
            "date",
            "createdat",
            "eventtime",
        ),
        "utctime",
    ),
    "rating": ("rating", "stars", "overall", "score", "ratings"),
    "title": ("title", "name", "itemtitle", "movietitle", "itemname", "productname"),
    "brand": ("brand", "manufacturer"),
    "tags": ("tags", "categories", "category", "genres", "genre"),
    "text": ("description", "itemtext"),  # not `text`: in a table of reviews that is the review
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
}
ROLES = ("user", "item", "time", "rating")  # of an interaction
FEATURES = ("title", "brand", "tags", "text", "latitude", "longitude")


@dataclass(frozen=True)
class Columns:
    """The columns of your own table. Empty: found by its usual names; `-`: there is none.

    Args:
        user: who.
        item: what.
        time: when, as unix seconds or milliseconds, a date, or a date with time.
        rating: how much it was liked, a number.
        title: what the item is called.
        brand: who makes it.
        tags: its categories, a list or one text with `|`, `;` or `,` between them.
        text: its description.
        latitude: where it is, in degrees.
        longitude: where it is, in degrees.
        items: a second table with one row per item, beside the first, that holds the item's columns.
    """

    user: str = ""
    item: str = ""
    time: str = ""
    rating: str = ""
    title: str = ""
    brand: str = ""
    tags: str = ""
    text: str = ""
    latitude: str = ""
    longitude: str = ""
    items: str = ""


def find_columns(
    declared: Columns, header: Sequence[str], roles: Sequence[str], where: str, *, needed: Sequence[str]
) -> dict[str, str]:
    """Which column of `header` plays which of `roles`; roles that none plays are left out.

    Args:
        declared: what the user says.
        header: the columns that there are.
        roles: fields of `Columns`.
        where: the file and its first line, for messages.
        needed: roles that must be played.

    Raises:
        DataError: a declared column is not there, a needed one is not found, or one plays two roles.
    """
    found: dict[str, str] = {}
    for role in roles:
        named = getattr(declared, role)
        if named not in ("", UNUSED) and named not in header:
            if _is_data(header):
                raise DataError(f"{where}: {_missing(role, header)}")
            close = difflib.get_close_matches(named, header, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DataError(
                f"{where}: no column {shown(named)} for {role}; {hint}there are {_listed(header)}"
            )
        column = named if named not in ("", UNUSED) else "" if named == UNUSED else _usual(role, header)
        if column and column in found.values() and named:
            raise DataError(
                f"{where}: column {shown(column)} cannot be two things; declare one of them as '-'"
            )
        if column and column not in found.values():
            found[role] = column
    for role in needed:
        if role not in found:
            raise DataError(f"{where}: {_missing(role, header)}")
    return found


def _usual(role: str, header: Sequence[str]) -> str:
    """The column with the first usual name of `role`; empty when there is none."""
    # RecBole's headers are `name:type`
    plain = {re.sub(r"[^a-z0-9]", "", name.lower().partition(":")[0]): name for name in reversed(header)}
    return next((plain[name] for name in USUAL[role] if name in plain), "")


def _missing(role: str, header: Sequence[str]) -> str:
    if _is_data(header):
        return (
            f"{_listed(header)} is data, not a header; put the names of the columns into the first line, "
            "such as user,item,time"
        )
    return (
        f"no column for {role} under its usual names; there are {_listed(header)}; set columns.{role} to the "
        "right one"
    )


def _is_data(header: Sequence[str]) -> bool:
    """Whether half of the names are numbers."""
    return sum(bool(re.fullmatch(r"[-+]?[0-9.]+", name)) for name in header) * 2 >= len(header)


def _listed(header: Sequence[str]) -> str:
    more = f" and {len(header) - 12} more" if len(header) > 12 else ""
    return ", ".join(shown(name) for name in header[:12]) + more
