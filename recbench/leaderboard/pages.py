"""Tables -> Markdown and one HTML page, with the standard library only."""

from __future__ import annotations

import html
import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from recbench.leaderboard.tables import summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from recbench.leaderboard.cells import Cell, Section, Table

TITLE = "Leaderboard"
LEGEND = (
    "± is half the width of the 95 % bootstrap interval over users; with several seeds, of their mean.",
    "Bold is the best of its column; bold with † is not separable from it (paired bootstrap over users). "
    "Rows not separable from the best NDCG@10 share place 1. The tests leave out variation between seeds.",
    "ms is the time of one recommendation for one user, compute only. Compare it, and training times, only "
    "between rows of the same machine.",
    "bytes is what a request sends to the cloud and gets from it, a mean over the test requests. What a "
    "cache held before is not counted.",
    "A trained model that does not beat the best counting model (popularity, last_item, itemknn) is marked.",
    "Of several configurations of a method the first row is plain; others say what they have instead.",
    "Runs that diverged or failed are listed last and not ranked.",
    "Tables of one data set that differ in protocol, users or data fingerprint are not comparable.",
)
_PAGE = Path(__file__).with_name("page.html")
_CODE = re.compile(r"`([^`]*)`")


def markdown(found: list[Section]) -> str:
    """The leaderboard as Markdown."""
    lines = [
        f"# {TITLE}",
        "",
        "Written by `recbench leaderboard` from `results/` and `cited.json`; do not edit.",
        "",
    ]
    lines += [f"- {line}" for line in LEGEND]
    for section in found:
        lines += ["", f"## {section.data}"]
        for table in section.tables:
            lines += ["", *_markdown_block(table)]
    return "\n".join(lines) + "\n"


def front(found: list[Section], folder: str) -> str:
    """The main figures as Markdown, for the top README; `folder` is where the full tables lie."""
    lines = []
    for data, table in summary(found):
        lines += [f"**{data}**, {table.caption}", "", *_markdown_table(table), ""]
    lines += [
        "Of each method the configuration that was best on validation; † not separable from the best. "
        f"All tables: [{folder}/README.md]({folder}/README.md)"
    ]
    return "\n".join(lines)


def _markdown_block(table: Table) -> Iterable[str]:
    if table.is_detail:
        yield from (
            f"<details><summary>{table.caption}</summary>",
            "",
            *_markdown_table(table),
            "",
            "</details>",
        )
    else:
        yield from (f"**{table.caption}**" if table.is_cited else table.caption, "", *_markdown_table(table))


def _markdown_table(table: Table) -> list[str]:
    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    return [f"| {' | '.join(row)} |" for row in rows]


def _markdown_cell(cell: Cell) -> str:
    if cell.links:
        return ", ".join(f"[{text}]({address})" for text, address in cell.links)
    text = " ".join(cell.text.split()).replace("|", "\\|").replace("<", "&lt;")
    return f"**{text}**{'†' if cell.is_tied else ''}" if cell.is_best or cell.is_tied else text


def page(found: list[Section]) -> str:
    """The leaderboard as one HTML page that asks nothing of any other host."""
    body = []
    for section in found:
        body.append(f'<section id="{html.escape(section.data)}"><h2>{html.escape(section.data)}</h2>')
        body += [_html_block(table) for table in section.tables]
        body.append("</section>")
    links = " ".join(f'<a href="#{html.escape(s.data)}">{html.escape(s.data)}</a>' for s in found)
    legend = "\n".join(f"<li>{html.escape(line)}</li>" for line in LEGEND)
    template = Template(_PAGE.read_text(encoding="utf-8"))
    return template.substitute(title=TITLE, links=links, legend=legend, body="\n".join(body))


def _html_block(table: Table) -> str:
    caption = _CODE.sub(r"<code>\1</code>", html.escape(table.caption))
    if table.is_detail:
        return f"<details><summary>{caption}</summary>{_html_table(table)}</details>"
    return (
        f'<div class="{"cited" if table.is_cited else "measured"}"><p>{caption}</p>{_html_table(table)}</div>'
    )


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button>{html.escape(column)}</button></th>' for column in table.columns)
    rows = "\n".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _html_cell(cell: Cell) -> str:
    if cell.links:
        inner = ", ".join(f'<a href="{html.escape(url)}">{html.escape(text)}</a>' for text, url in cell.links)
        return f"<td>{inner}</td>"
    hint = f' title="{html.escape(cell.hint)}"' if cell.hint else ""
    value = f' class="number" data-value="{cell.value!r}"' if cell.value is not None else ""
    text = html.escape(cell.text)
    if cell.value is not None and ", " in text:  # several numbers: a line each
        text = "".join(f'<span class="parts">{part}</span>' for part in text.split(", "))
    if cell.is_best or cell.is_tied:
        text = f"<strong>{text}</strong>{'†' if cell.is_tied else ''}"
    return f"<td{value}{hint}>{text}</td>"
