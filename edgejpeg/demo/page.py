"""The frame of the demo's page: its style, and small pieces of HTML. Everything inline, nothing fetched."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgejpeg.errors import DataError

_MIME = {".png": "image/png", ".jpg": "image/jpeg"}

STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #5c646d; --rule: #e2e5e9; --ours: #0072b2; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 48px 24px 80px; }
.eyebrow { color: var(--soft); font-size: 14px; margin: 0 0 8px; }
h1 { font-size: 30px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; margin: 0 0 16px; max-width: 24em; }
h2 { font-size: 20px; font-weight: 650; margin: 56px 0 12px; }
p { max-width: 46em; margin: 0 0 12px; }
.lead { font-size: 19px; }
.soft, figcaption { color: var(--soft); font-size: 14px; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 40px; margin: 28px 0 8px; padding: 16px 0; list-style: none;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
.facts b { display: block; font-size: 18px; font-weight: 600; }
.facts span { color: var(--soft); font-size: 14px; }
figure { margin: 24px 0 0; }
figure img.chart { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); padding: 6px 8px; border-bottom: 1px solid #b9c0c7;
  vertical-align: bottom; white-space: nowrap; }
td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
tr.ours td:first-child { color: var(--ours); font-weight: 600; }
tr.first td { border-top: 1px solid #b9c0c7; }
.strip { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 28px 24px; margin-top: 20px; }
.strip figure { margin: 0; }
.strip img { width: 100%; height: auto; display: block; background: #f1f3f5; }
.strip .head { color: var(--soft); font-size: 14px; font-weight: 600; margin: 0; }
.strip figcaption { margin-top: 6px; line-height: 1.45; color: var(--ink); }
.strip figcaption span { color: var(--soft); }
.changed { color: #b3261e; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: 14px; margin: 12px 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: #f3f5f7; padding: 1px 5px;
  border-radius: 4px; }
ul.plain { margin: 0 0 12px; padding-left: 20px; max-width: 46em; }
li { margin-bottom: 4px; }
@media (max-width: 760px) { main { padding: 28px 16px 60px; } h1 { font-size: 25px; }
  .strip { gap: 20px 10px; } }
"""


def document(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    parts = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{parts}\n</main>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    """Text for HTML, in elements and in attributes."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, css: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_css(css)}>{escape(text)}</p>"


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def image(path: Path, alt: str, css: str = "") -> str:
    """A PNG or JPEG file, embedded byte by byte as it is.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise DataError(
            f"the report's image {path} cannot be read: {error.strerror or error}; run: edgejpeg demo"
        ) from error
    return f'<img{_css(css)} alt="{escape(alt)}" src="data:{_MIME[path.suffix]};base64,{data}">'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A row of figures with what they are."""
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in pairs)
    return f'<ul class="facts">{items}</ul>'


def table(heads: Sequence[str], body: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table; each row comes with its CSS class."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    rows = "".join(
        f"<tr{_css(css)}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n" for css, cells in body
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names and values."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in pairs)
    return f"<dl>{items}</dl>"


def bullets(items: Iterable[str]) -> str:
    """A list of plain sentences."""
    return '<ul class="plain">' + "".join(f"<li>{escape(item)}</li>\n" for item in items) + "</ul>"


def _css(name: str) -> str:
    return f' class="{name}"' if name else ""
