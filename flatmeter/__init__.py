"""flatmeter measures how sharp a trained network's minimum is.

The public names are imported when they are first used, so that ``import flatmeter`` is quick:

- :func:`load` reads a checkpoint, :func:`measure` measures it, :func:`save` writes one that says
  which network, data and loss it belongs to, :func:`symmetries` finds a network's rescalings;
- :class:`Subject`, :class:`Dataset`, :class:`Results`, :class:`Row` and :class:`Symmetries` are
  what these give;
- :class:`Measure`, :class:`MeasureSettings`, :class:`Measurement`, :class:`Part`,
  :class:`Estimate` and :class:`Why` are what a measure of your own is made of.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flatmeter._version import __version__

if TYPE_CHECKING:
    from flatmeter.data.dataset import Dataset
    from flatmeter.errors import FlatmeterError, NotApplicable
    from flatmeter.estimate import Estimate, Why
    from flatmeter.measures.base import Measure, Measurement, MeasureSettings, Part
    from flatmeter.results.collection import Results
    from flatmeter.results.record import Row
    from flatmeter.runner import measure
    from flatmeter.saving import save
    from flatmeter.scalings import Symmetries, symmetries
    from flatmeter.subject import Subject, load

__all__ = [
    "Dataset",
    "Estimate",
    "FlatmeterError",
    "Measure",
    "MeasureSettings",
    "Measurement",
    "NotApplicable",
    "Part",
    "Results",
    "Row",
    "Subject",
    "Symmetries",
    "Why",
    "__version__",
    "load",
    "measure",
    "save",
    "symmetries",
]

_HOMES = {
    "Dataset": "flatmeter.data.dataset",
    "Estimate": "flatmeter.estimate",
    "FlatmeterError": "flatmeter.errors",
    "Measure": "flatmeter.measures.base",
    "MeasureSettings": "flatmeter.measures.base",
    "Measurement": "flatmeter.measures.base",
    "NotApplicable": "flatmeter.errors",
    "Part": "flatmeter.measures.base",
    "Results": "flatmeter.results.collection",
    "Row": "flatmeter.results.record",
    "Subject": "flatmeter.subject",
    "Symmetries": "flatmeter.scalings",
    "Why": "flatmeter.estimate",
    "load": "flatmeter.subject",
    "measure": "flatmeter.runner",
    "save": "flatmeter.saving",
    "symmetries": "flatmeter.scalings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flatmeter' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
