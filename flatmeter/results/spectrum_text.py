"""A density of eigenvalues as text: a histogram by decades, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flatmeter.results.number import format_number
from flatmeter.results.record import SCHEMA_VERSION

if TYPE_CHECKING:
    import numpy as np

State = Mapping[str, "np.ndarray"]
"""What ``hessian_density`` keeps of one checkpoint, by name."""

CURVE = (
    "grid",
    "density",
    "density_low",
    "density_high",
    "cumulative",
    "cumulative_half_width",
)


def histogram(name: str, state: State, width: int) -> str:
    """Number of eigenvalues between powers of ten, with bars of its logarithm.

    Args:
        name: of the checkpoint.
        state: of the measure.
        width: characters per line.
    """
    import numpy as np

    edges, counts = state["edges"], np.maximum(state["counts"], 0.0)
    shown = np.nonzero(counts + state["counts_half_width"] >= 0.5)[0]
    lines = [
        (
            f"{format_number(edges[i], 2)} … {format_number(edges[i + 1], 2)}",
            _count(float(counts[i]), float(state["counts_half_width"][i])),
            float(np.log10(1 + counts[i])),
        )
        for i in range(shown[0], shown[-1] + 1)
    ]
    left = max(len("from … to"), *(len(line[0]) for line in lines))
    middle = max(len("eigenvalues"), *(len(line[1]) for line in lines))
    room = max(width - left - middle - 4, 8)
    most = max(line[2] for line in lines) or 1.0
    total = f"{name}: {int(state['parameters'])} eigenvalues"
    table = [
        f"{interval:>{left}}  {count:>{middle}}  {'█' * round(room * size / most)}".rstrip()
        for interval, count, size in lines
    ]
    heading = f"{'from … to':>{left}}  {'eigenvalues':>{middle}}  log10(1 + eigenvalues)"
    return "\n".join([total, "", heading, *table, ""])


def _count(count: float, half_width: float) -> str:
    """A number of eigenvalues; its error is rounded up."""
    error = math.ceil(half_width - 0.05)
    return f"{round(count)} ± {error}" if error else f"{round(count)}"


def to_csv(states: Mapping[str, State]) -> str:
    """One line for each checkpoint and place of its curve."""
    import numpy as np

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["checkpoint", *CURVE])
    for name, state in states.items():
        writer.writerows(
            [name, *row] for row in np.stack([state[c] for c in CURVE], axis=1).tolist()
        )
    return out.getvalue()


def to_json(states: Mapping[str, State]) -> str:
    """One document with everything that the measure keeps."""
    spectra = [
        {"checkpoint": name, **{key: array.tolist() for key, array in state.items()}}
        for name, state in states.items()
    ]
    document = {"schema_version": SCHEMA_VERSION, "spectra": spectra}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
