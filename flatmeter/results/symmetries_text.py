"""Symmetries as text for people, and as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatmeter.results.number import format_number
from flatmeter.symmetry.group import in_words

if TYPE_CHECKING:
    from flatmeter.equivalent import Moved
    from flatmeter.scalings import Symmetries

COLUMNS = ("checkpoint", "number", "kind", "exact", "words", "tensor", "steps")


def to_text(found: Symmetries, width: int = 80) -> str:
    """A numbered list of the symmetries with their kinds, and what is known of them below.

    Args:
        found: the symmetries.
        width: of a line; a longer name is not broken.
    """
    batch_norm = {
        "eval": ", batch-norm by stored statistics",
        "batch": ", batch-norm by the statistics of the batch",
        None: "",
    }[found.bn]
    head = (
        f"{found.name}: {_many(found.dim, 'independent symmetry', 'independent symmetries')} of "
        f"{_many(len(found.group.names), 'tensor', 'tensors')}{batch_norm}"
    )
    lines = [_folded(head, width), *_list(found, width), *_summary(found, width)]
    return "\n".join(lines) + "\n"


def _list(found: Symmetries, width: int) -> list[str]:
    if not found.generators:
        return []
    number = len(str(found.dim))
    kind = max(len(generator.kind) for generator in found.generators)
    lead = f"{'#':>{number}}  {'kind':{kind}}  "
    lines = ["", lead + "what moves", "─" * width]
    for i, generator in enumerate(found.generators, 1):
        said = in_words(shortened(generator.moves, found.group.names))
        said += "" if generator.exact else " (up to eps)"
        start = f"{i:>{number}}  {generator.kind:{kind}}  "
        lines.append(_folded(said, width, start, " " * len(start)))
    return lines


def _summary(found: Symmetries, width: int) -> list[str]:
    """Counts, what verification gave, and what a reader should know."""
    group = found.group
    inexact = sum(not generator.exact for generator in found.generators)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    facts = {
        "kinds": kinds,
        "exact": f"{found.dim - inexact}; {inexact} only up to the eps of normalisations"
        if inexact
        else "all" * bool(found.dim),
        "verified": f"outputs change by {_changes(found)}, relatively, under random elements"
        if found.dim
        else "",
        "channels": f"{_many(found.channel_dim, 'independent scale', 'independent scales')}; "
        f"{_many(len(found.blocks), 'scale-invariant block', 'scale-invariant blocks')}",
        "no rule for": ", ".join(f"{n} × {name}" for name, n in group.unknown_operators.items()),
        "inputs": f"{_inputs(found)} of shape {list(found.inputs.shape[1:])}",
    }
    lines = [_folded(text, width, f"{name:11}  ", " " * 13) for name, text in facts.items() if text]
    return ["", *lines, *(_folded(f"note: {note}", width) for note in group.notes)]


def _inputs(found: Symmetries) -> str:
    own = {"random": " random ones", "given": " given ones"}
    return f"{len(found.inputs)}{own.get(found.source, f' of {found.source}')}"


def _changes(found: Symmetries) -> str:
    """The change under exact symmetries, and under those up to eps."""
    group = found.group
    inexact = any(not generator.exact for generator in found.generators)
    exact = any(generator.exact for generator in found.generators)
    if not inexact:
        return format_number(group.error, 1)
    approximate = f"{format_number(group.error, 1)} (due to eps)"
    return f"{format_number(group.exact_error, 1)} and {approximate}" if exact else approximate


def shortened(moves: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The moves by module where all tensors of a module, two or more, move alike.

    Args:
        moves: by tensor.
        names: of all tensors that may be scaled.
    """
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(name.rpartition(".")[0], []).append(name)
    short: dict[str, int] = {}
    for name, steps in moves.items():
        module = name.rpartition(".")[0]
        own = members[module]
        together = module and len(own) > 1 and all(moves.get(n) == steps for n in own)
        short[module if together else name] = steps
    return short


def to_dict(found: Symmetries) -> dict[str, Any]:
    """What JSON holds of a network's symmetries."""
    group = found.group
    return {
        "checkpoint": found.name,
        "bn_mode": found.bn,
        "tensors": len(group.names),
        "dim": found.dim,
        "kinds": dict(found.kinds),
        "exact": sum(generator.exact for generator in found.generators),
        "error": group.error,
        "exact_error": group.exact_error,
        "channel_dim": found.channel_dim,
        "scale_invariant_blocks": len(found.blocks),
        "unknown_operators": dict(group.unknown_operators),
        "inputs": {"source": found.source, "shape": list(found.inputs.shape)},
        "notes": list(group.notes),
        "symmetries": [
            {"words": g.words, "kind": g.kind, "exact": g.exact, "moves": dict(g.moves)}
            for g in found.generators
        ],
    }


def to_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line for each tensor that a symmetry moves.

    Args:
        entries: as :func:`to_dict` gives them.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in entries:
        for number, one in enumerate(entry["symmetries"], 1):
            own = (entry["checkpoint"], number, one["kind"], str(one["exact"]).lower())
            for tensor, steps in one["moves"].items():
                writer.writerow((*own, one["words"], tensor, steps))
    return out.getvalue()


def moved_text(moved: Moved, width: int = 80) -> str:
    """Where a checkpoint was moved to, and that it is the same network there."""
    move, balanced = moved.move, moved.balanced
    each = "every channel" if move.channels else "whole tensors"
    facts: list[tuple[str, str]] = []
    if balanced is None:
        facts.append(("moved", f"{each}, by powers of two up to 2^{move.size} of seed {move.seed}"))
    else:
        least = "smallest" if balanced.attained else "infimum of the"
        sums = f"{format_number(balanced.before)} before, {format_number(balanced.after)} now"
        facts.append(("moved", f"{each}, to the {least} sum of squared weights: {sums}"))
        slope = format_number(balanced.slope, 1)
        facts.append(("certified", f"the sum's slope along any rescaling is {slope} of it"))
    if balanced is not None and not balanced.attained:
        some = ", ".join(balanced.falling[:3]) + (", …" if len(balanced.falling) > 3 else "")
        count = _many(len(balanced.falling), "tensor", "tensors")
        endless = f"no: rescalings without end bring {count} or parts of them to zero ({some})"
        facts.append(("attained", f"{endless}; these count nothing and stay finite"))
    said = f"change by {format_number(moved.change, 1)} in float64, by "
    said += f"{format_number(moved.stored_change, 1)} as stored ({moved.dtype})"
    if moved.eval_change is not None:
        said += f", by {format_number(moved.eval_change, 1)} with running statistics, which moved"
    facts += [("outputs", said), ("wrote", str(moved.path))]
    lines = [_folded(text, width, f"{name:11}  ", " " * 13) for name, text in facts]
    return "\n".join(lines + [_folded(f"note: {note}", width) for note in moved.notes]) + "\n"


def moved_dict(moved: Moved) -> dict[str, Any]:
    """What JSON holds of a checkpoint that was moved."""
    move, balanced = moved.move, moved.balanced
    found: dict[str, Any] = {
        "path": str(moved.path),
        "scale": "balanced" if balanced is not None else "random",
        "granularity": "channel" if move.channels else "tensor",
        "change": moved.change,
        "stored_change": moved.stored_change,
        "eval_change": moved.eval_change,
        "dtype": moved.dtype,
        "notes": list(moved.notes),
    }
    if balanced is None:
        return found | {"seed": move.seed, "size": move.size}
    return found | {
        "sum_of_squares": [balanced.before, balanced.after],
        "slope": balanced.slope,
        "attained": balanced.attained,
        "falling": list(balanced.falling),
    }


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _folded(text: str, width: int, first: str = "", rest: str = "    ") -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
