"""The grid in the markup of other documents: Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from flatmeter.results.pivot import Grid


def to_markdown(grid: Grid) -> str:
    """A pipe table, footnotes below."""
    heads = ["checkpoint", *(_one_line(c.heading) for c in grid.columns)]
    lines = piped_table([heads, *([name, *cells] for name, cells in grid.lines)], left=1)
    notes = [f"\n{note}" for note in grid.footnotes]
    return "\n".join([*lines, *notes]) + "\n"


def piped_table(cells: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Lines of a table in Markdown.

    Args:
        cells: by lines, the first of which is the heading.
        left: number of columns that are to the left, before those to the right.
    """
    rule = ["---" if number < left else "---:" for number in range(len(cells[0]))]
    return ["| " + " | ".join(map(_piped, line)) + " |" for line in [cells[0], rule, *cells[1:]]]


def to_latex(grid: Grid) -> str:
    """A ``tabular`` with the rules of the booktabs package, footnotes as a comment's lines."""
    heads = ["checkpoint", *(_one_line(c.heading) for c in grid.columns)]
    body = [[name, *cells] for name, cells in grid.lines]
    rows = [" & ".join(_tex(cell) for cell in cells) + r" \\" for cells in [heads, *body]]
    return "\n".join(
        [
            r"\begin{tabular}{l" + "r" * len(grid.columns) + "}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\noindent {_tex(note)}" for note in grid.footnotes),
            "",
        ]
    )


def to_html(grid: Grid) -> str:
    """A page that holds the table."""
    heads = "".join(f"<th>{'<br>'.join(map(html.escape, c.heading))}</th>" for c in grid.columns)
    body = [
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in grid.lines
    ]
    notes = [f"<p>{html.escape(note)}</p>" for note in grid.footnotes]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            "<title>flatmeter</title>",
            "<table>",
            f"<thead><tr><th>checkpoint</th>{heads}</tr></thead>",
            "<tbody>",
            *body,
            "</tbody>",
            "</table>",
            *notes,
            "</html>",
            "",
        ]
    )


def _one_line(heading: Sequence[str]) -> str:
    """A heading's lines in one: parts of a name joined, the rest after a space."""
    text = heading[0]
    for line in heading[1:]:
        glued = text.endswith("_") or line.startswith(".")
        text += line if glued else f" {line}"
    return text


def _piped(cell: str) -> str:
    return cell.replace("|", r"\|")


_TEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": "$-$",
}


def _tex(cell: str) -> str:
    return cell.translate({ord(k): v for k, v in _TEX.items()})
