"""Text for streams that know only ASCII."""

from __future__ import annotations

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
    "λ": "lambda",
    "θ": "theta",
    "δ": "delta",
    "η": "eta",
    "κ": "kappa",
    "σ": "sigma",
    "Σ": "sum",
    "‖": "||",
    "∇": "grad ",
    "→": "->",
    "─": "-",
    "━": "-",
}


def to_ascii(text: str) -> str:
    """The text in ASCII: known symbols spelt out, anything else a question mark."""
    spelt = text.translate({ord(k): v for k, v in _ASCII.items()})
    return spelt.encode("ascii", errors="replace").decode()
