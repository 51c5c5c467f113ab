"""flatmeter measures how sharp a trained network's minimum is."""

from flatmeter._version import __version__

__all__ = ["__version__"]
