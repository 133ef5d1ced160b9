"""Pieces of an HTML page: the frame with everything inline, tables, lists, embedded media."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from ming_eval.report.grid import Grid

# Nothing may be loaded, not even by mistake: the page must work from a file on a machine without network.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"
_WORDS_WITH_COLOUR = frozenset({"better", "worse", "pass", "fail"})


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `id` is where the navigation leads, `body` is HTML."""

    id: str
    title: str
    body: str


def document(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    links = "".join(f'<a href="#{section.id}">{escape(section.title)}</a>' for section in sections)
    body = "".join(f'<section id="{each.id}"><h2>{escape(each.title)}</h2>{each.body}</section>' for each in sections)
    name = escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{name}</title>\n'
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n"
        f'<header><strong>ming-eval</strong><nav>{links}</nav><button id="theme" type="button">Dark</button></header>\n'
        f'<main><h1>{name}</h1><p class="sub">{escape(subtitle)}</p>\n{body}</main>\n'
        f'<div id="tip" role="tooltip"></div>\n<script>\n{_asset("page.js")}</script>\n</body>\n</html>\n'
    )


def table(grid: Grid) -> str:
    """A table whose columns sort when their header is clicked."""
    kinds = ["word" if column < grid.num_labels else "" for column in range(len(grid.header))]
    head = "".join(
        f'<th class="{kind}" scope="col"><button type="button">{escape(name)}</button></th>'
        for kind, name in zip(kinds, grid.header, strict=True)
    )
    rows = "".join(f"<tr>{''.join(_cells(row, kinds))}</tr>" for row in grid.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def bullet_list(lines: Iterable[str]) -> str:
    """Plain lines as a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """What a reader must know before the figures."""
    return f'<p class="warn">{escape(text)}</p>'


def data_url(data: bytes, mime: str) -> str:
    """A file inside the page."""
    return f"data:{mime};base64,{b64encode(data).decode()}"


def _cells(row: Sequence[str], kinds: Sequence[str]) -> Iterable[str]:
    for cell, kind in zip(row, kinds, strict=True):
        colour = cell if cell in _WORDS_WITH_COLOUR else ""
        classes = " ".join(name for name in (kind, colour) if name)
        yield f'<td class="{classes}">{escape(cell)}</td>' if classes else f"<td>{escape(cell)}</td>"


def _asset(name: str) -> str:
    return resources.files("ming_eval.report").joinpath("assets", name).read_text(encoding="utf-8")
