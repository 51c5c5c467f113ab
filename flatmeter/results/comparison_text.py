"""A comparison as text and Markdown for people, and as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flatmeter.results.comparable import Field
from flatmeter.results.comparison import Comparison, Related
from flatmeter.results.correlation import RESAMPLES, Coefficient
from flatmeter.results.markup import piped_table
from flatmeter.results.number import format_error, some
from flatmeter.results.pivot import common_folder, legend
from flatmeter.results.ranking import Ranked, Ranking
from flatmeter.results.record import SCHEMA_VERSION
from flatmeter.results.table import draw_table, folded

COLUMNS = (
    *("table", "measure", "quantity", "protocol", "manner"),
    *("checkpoint", "sha256", "rank", "rank_low", "rank_high", "groups", "value"),
    *("ci_low", "ci_high", "confidence", "status"),
    *("column", "by", "group", "n", "spearman", "spearman_low", "spearman_high"),
    *("kendall", "kendall_low", "kendall_high", "message"),
)
_LETTERS = 26
"""Most groups that are shown by a letter each."""

_APART = "checkpoints with a letter in common have overlapping intervals: their order is uncertain"


@dataclass(frozen=True)
class _Page:
    """A table with its title and what is said below it."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def to_text(comparison: Comparison, *, width: int = 80, digits: int = 4) -> str:
    """Tables for the terminal.

    Args:
        comparison: what was found.
        width: of the page in characters.
        digits: significant digits of values.
    """
    return "\n".join(
        folded(page.title, width)
        + "\n"
        + (draw_table(page.heads, page.lines, width) if page.lines else "")
        + "".join(folded(note, width) + "\n" for note in page.notes)
        for page in _pages(comparison, digits)
    )


def to_markdown(comparison: Comparison, *, digits: int = 4) -> str:
    """The same tables in Markdown."""
    parts = []
    for page in _pages(comparison, digits):
        table = piped_table([page.heads, *page.lines]) if page.lines else []
        parts.append("\n".join([f"**{page.title}**", "", *table]))
        parts += page.notes
    return "\n\n".join(parts) + "\n"


def to_json(comparison: Comparison) -> str:
    """``{"schema_version": 1, "rankings": […], "correlations": […]}``."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "rankings": [_ranking_dict(field, ranking) for field, ranking in comparison.rankings],
        "correlations": [_related_dict(one, comparison) for one in comparison.related],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def to_csv(comparison: Comparison) -> str:
    """A line for each checkpoint of each ranking, then one for each correlation."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for field, ranking in comparison.rankings:
        own = _ranking_dict(field, ranking)
        for line in own["checkpoints"]:
            writer.writerow({**own, **line, "table": "ranking", "groups": " ".join(line["groups"])})
        for line in own["left_out"]:
            writer.writerow({**own, **line, "table": "ranking", "groups": ""})
    for one in comparison.related:
        writer.writerow({"table": "correlation", **_related_dict(one, comparison)})
    return out.getvalue()


def letters(number: int) -> str:
    """``a`` to ``z``, then ``aa``, ``ab`` and so on."""
    rest, last = divmod(number, 26)
    return (letters(rest - 1) if rest else "") + string.ascii_lowercase[last]


def _pages(comparison: Comparison, digits: int) -> list[_Page]:
    pages = [_ranking_page(field, ranking, digits) for field, ranking in comparison.rankings]
    return pages + ([_related_page(comparison)] if comparison.related else [])


def _ranking_page(field: Field, ranking: Ranking, digits: int) -> _Page:
    folder = common_folder([row.checkpoint for row in field.rows])
    lettered = 0 < len(ranking.groups) <= _LETTERS
    lines = tuple(
        (
            _span(one),
            one.row.checkpoint[len(folder) :],
            format_error(one.row.value or 0.0, one.row.half_width, digits)
            + (" (not converged)" if one.row.status == "unconverged" else ""),
            *([" ".join(map(letters, one.groups))] if lettered else []),
        )
        for one in ranking.ranked
    )
    reasons: dict[str, list[str]] = {}
    for name, reason in field.left_out.items():
        reasons.setdefault(reason, []).append(name)
    left_out = [f"left out: {some(names)}: {reason}" for reason, names in reasons.items()]
    notes = [*field.notes, *left_out]
    if any("±" in line[2] for line in lines):
        notes += legend(field.rows)
    if lettered:
        notes.append(_APART)
    elif ranking.groups:
        notes.append("ranks are ranges where intervals overlap; -f json tells which")
    where = f" in {folder}" if folder else ""
    return _Page(
        f"{field.name}{where}, smallest first",
        ("rank", "checkpoint", "value", *["overlap"] * lettered),
        lines,
        tuple(notes),
    )


def _span(one: Ranked) -> str:
    """The rank, or those that are possible."""
    if one.rank_low == one.rank_high:
        return str(one.rank_low)
    return f"{one.rank_low}–{one.rank_high}"


def _related_page(comparison: Comparison) -> _Page:
    grouped = comparison.related[0].by is not None
    reasons: dict[str, None] = {}
    lines = []
    for one in comparison.related:
        found = one.correlation
        mark = ""
        if found.reason:
            reasons.setdefault(found.reason)
            mark = f" [{list(reasons).index(found.reason) + 1}]"
        group = [one.group or "(all)"] if grouped else []
        coefficients = [_coefficient(c, mark) for c in (found.spearman, found.kendall)]
        lines.append((one.field.name, one.column, *group, str(found.n), *coefficients))
    percent = f"{100 * comparison.confidence:g}"
    notes = [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    notes.append(f"[low, high]: {percent} % interval by resampling checkpoints {RESAMPLES:,} times")
    by = [str(comparison.related[0].by)] if grouped else []
    heads = ("measure", "column", *by, "n", "Spearman", "Kendall")
    return _Page("rank correlation", heads, tuple(lines), tuple(notes))


def _coefficient(found: Coefficient | None, mark: str) -> str:
    if found is None:
        return f"–{mark}"
    if found.low is None:
        return f"{found.value:.2f}{mark}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _identity(field: Field) -> dict[str, Any]:
    return {n: getattr(field, n) for n in ("measure", "quantity", "protocol", "manner")}


def _ranking_dict(field: Field, ranking: Ranking) -> dict[str, Any]:
    taken = ("checkpoint", "sha256", "value", "ci_low", "ci_high", "confidence", "status")
    return {
        **_identity(field),
        "checkpoints": [
            {
                **{name: getattr(one.row, name) for name in taken},
                **{name: getattr(one, name) for name in ("rank", "rank_low", "rank_high")},
                "groups": [letters(number) for number in one.groups],
            }
            for one in ranking.ranked
        ],
        "groups": {letters(n): list(names) for n, names in enumerate(ranking.groups)},
        "left_out": [{"checkpoint": c, "message": why} for c, why in field.left_out.items()],
        "notes": list(field.notes),
    }


def _related_dict(one: Related, comparison: Comparison) -> dict[str, Any]:
    found = one.correlation
    values: dict[str, Any] = {}
    for name in ("spearman", "kendall"):
        own: Coefficient | None = getattr(found, name)
        parts = asdict(own) if own else dict.fromkeys(("value", "low", "high"))
        values |= {name: parts["value"], f"{name}_low": parts["low"], f"{name}_high": parts["high"]}
    return {
        **_identity(one.field),
        "column": one.column,
        "by": one.by,
        "group": one.group,
        "n": found.n,
        **values,
        "confidence": comparison.confidence,
        "resamples": RESAMPLES,
        "seed": comparison.seed,
        "message": found.reason,
    }


def render(form: str, comparison: Comparison, *, width: int, digits: int) -> str:
    """The comparison as ``table``, ``json``, ``csv`` or ``md``."""
    if form == "table":
        return to_text(comparison, width=width, digits=digits)
    if form == "md":
        return to_markdown(comparison, digits=digits)
    return to_json(comparison) if form == "json" else to_csv(comparison)


FORMS: Sequence[str] = ("table", "json", "csv", "md")
