"""Text for streams that know only ASCII."""

from __future__ import annotations

import unicodedata

from flatmeter.results.pivot import Column, Grid

_ASCII = {
    "±": "+/-",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "×": "x",
    "·": "*",
    "≥": ">=",
    "≤": "<=",
    "²": "^2",
    "‖": "||",
    "∇": "grad ",
    "→": "->",
    "λ": "lambda",
    "∂": "d",
    "∞": "inf",
    "─": "-",
    "━": "-",
}


def to_ascii(text: str) -> str:
    """The text in ASCII: known symbols and Greek letters spelt out, the rest a question mark."""
    return "".join(_spelt(character) for character in text)


def ascii_grid(grid: Grid) -> Grid:
    """The grid in ASCII, to be folded afterwards: spelt out, it is wider."""
    return Grid(
        to_ascii(grid.folder),
        tuple(Column(c.name, tuple(map(to_ascii, c.heading))) for c in grid.columns),
        tuple((to_ascii(name), tuple(map(to_ascii, cells))) for name, cells in grid.lines),
        tuple(map(to_ascii, grid.footnotes)),
    )


def _spelt(character: str) -> str:
    if character.isascii():
        return character
    if character in _ASCII:
        return _ASCII[character]
    name = unicodedata.name(character, "")
    return name.split()[-1].lower() if name.startswith("GREEK") else "?"
