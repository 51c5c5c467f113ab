"""A density of eigenvalues as a picture."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flatmeter.errors import UsageError
from flatmeter.results.atomic import write_whole

if TYPE_CHECKING:
    from flatmeter.results.spectrum_text import State

ENDINGS = ("png", "svg", "pdf")
DEPTH = 30.0
"""How far below the height of a single eigenvalue the picture goes."""


def check(path: Path) -> None:
    """Refuse a picture that could not be drawn, before time is spent on it.

    Raises:
        UsageError: an unknown ending, or matplotlib is not installed.
    """
    if path.suffix.lstrip(".").lower() not in ENDINGS:
        raise UsageError(
            f"cannot tell the format from {path.name!r}",
            where="--plot",
            hint=f"use one of the endings {', '.join(ENDINGS)}",
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a picture needs matplotlib, which is not installed",
            where="--plot",
            hint="pip install matplotlib, or 'flatmeter[plots]'",
        )


def draw(path: Path, states: Mapping[str, State]) -> None:
    """Draw the density of every checkpoint with its band, and a mark at every outlier.

    Args:
        path: of the picture; its ending says the format.
        states: of the measure ``hessian_density``, by checkpoint.

    Raises:
        OutputError: the file cannot be written.
    """
    # Not pyplot: it looks for a screen and keeps every figure.
    from matplotlib.figure import Figure

    rows = len(states)
    figure = Figure(figsize=(7.0, 0.6 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, squeeze=False)[:, 0]
    for axis, (name, state) in zip(axes, states.items(), strict=True):
        top = float(state["density"].max())
        single = 1 / (float(state["parameters"] * state["width"]) * math.sqrt(2 * math.pi))
        floor = single / DEPTH
        low, high = state["density_low"].clip(floor), state["density_high"].clip(floor)
        axis.fill_between(state["grid"], low, high, alpha=0.3, linewidth=0)
        axis.plot(state["grid"], state["density"].clip(floor), linewidth=1.2)
        outliers = state["outliers"]
        axis.plot(outliers, [floor] * len(outliers), "|", color="black", clip_on=False)
        axis.set(yscale="log", ylim=(floor, 3 * top), title=name, ylabel="density")
    axes[-1].set_xlabel("eigenvalue of the Hessian")
    content = io.BytesIO()
    # Without the date two runs make the same file.
    ending = path.suffix.lstrip(".").lower()
    dateless = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    figure.savefig(content, format=ending, dpi=150, metadata=dateless)
    write_whole(path, content.getvalue())
