"""The parts that HTML reports are made of: one page that loads nothing, tables, lists; text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

# nothing comes from the network, whatever a script in the page would like; plotly makes functions of text
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:"
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 0.9rem } img { max-width: 100% }
th, td { text-align: left; padding: 0.15rem 0.9rem 0.15rem 0; border-bottom: 1px solid #eee }
th { font-weight: 600 } td.number { text-align: right; font-variant-numeric: tabular-nums }
.good { color: #18794e } .bad { color: #c62a2f; font-weight: 600 } .unknown { color: #946800 }
.long { max-height: 30rem; overflow: auto }
"""


def html_page(title: str, *parts: str) -> str:
    """A whole document of parts that are HTML already; ``title`` is text.

    >>> page = html_page("a < b", paragraph("it's so"))
    >>> "<title>a &lt; b</title>" in page, "<p>it&#x27;s so</p>" in page
    (True, True)
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            "</body></html>\n",
        ]
    )


def section(title: str, *parts: str) -> str:
    """A heading, and what belongs to it; nothing where there is nothing."""
    present = [part for part in parts if part]
    return "\n".join([f"<section><h2>{escape(title)}</h2>", *present, "</section>"]) if present else ""


def paragraph(text: str, kind: str = "") -> str:
    """``kind``: "good", "bad" or "unknown"."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """A line of text each; nothing where there are none."""
    entries = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>\n{entries}\n</ul>" if entries else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers are shortened and to the right, True, False and None are ok, failed and can't tell.

    >>> print(table(["name", "norm", "verdict"], [["<w>", 0.12345678, True]]))
    <div class="long"><table>
    <tr><th>name</th><th>norm</th><th>verdict</th></tr>
    <tr><td>&lt;w&gt;</td><td class="number">0.1235</td><td class="good">ok</td></tr>
    </table></div>
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f'<div class="long"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def picture(png: bytes, description: str) -> str:
    """A PNG within the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'


def short(value: float) -> str:
    """A number in four digits.

    >>> short(0.00012345678), short(float("nan")), short(float("-inf"))
    ('0.0001235', 'NaN', '-Inf')
    """
    text = f"{value:.4g}"
    return {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}.get(text, text)


def _cell(value: object) -> str:
    if value is None or isinstance(value, bool):
        kind, word = {True: ("good", "ok"), False: ("bad", "failed"), None: ("unknown", "can't tell")}[value]
        return f"<td{_class(kind)}>{word}</td>"
    if isinstance(value, (int, float)):
        return f'<td class="number">{short(value) if isinstance(value, float) else value}</td>'
    return f"<td>{escape(str(value))}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
