"""Which measures there are: the built-in ones, those of installed plugins, and a user's file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from flatmeter.errors import UsageError
from flatmeter.importing import is_import_spec, load_object
from flatmeter.measures.base import Measure

GROUP = "flatmeter.measures"

#: Known without installed metadata, so that a source checkout works too.
BUILT_IN: Mapping[str, str] = {
    "minimum_sharpness": "flatmeter.measures.minimum_sharpness:MinimumSharpness",
    "quotient_hessian": "flatmeter.measures.quotient_hessian:QuotientHessian",
    "bn_sharpness": "flatmeter.measures.bn_sharpness:BNSharpness",
    "relative_flatness": "flatmeter.measures.relative_flatness:RelativeFlatness",
    "spherical_sharpness": "flatmeter.measures.spherical_sharpness:SphericalSharpness",
    "hessian_eigenvalues": "flatmeter.measures.hessian_eigenvalues:HessianEigenvalues",
    "hessian_trace": "flatmeter.measures.hessian_trace:HessianTrace",
    "hessian_density": "flatmeter.measures.hessian_density:HessianDensity",
    "gradient_norm": "flatmeter.measures.gradient_norm:GradientNorm",
    "adaptive_sharpness": "flatmeter.measures.adaptive_sharpness:AdaptiveSharpness",
}


class _Available(Mapping[str, type[Measure]]):
    """Measure classes by name; a class is imported when it is looked up, not when it is listed."""

    def __init__(self, entries: dict[str, EntryPoint]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> type[Measure]:
        return _checked(self._load(self._entries[name]), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    @staticmethod
    def _load(entry: EntryPoint) -> object:
        try:
            return entry.load()
        except Exception as error:
            if BUILT_IN.get(entry.name) == entry.value:
                raise
            raise UsageError(
                f"the plugin {entry.value} cannot be imported: {type(error).__name__}: {error}",
                where=entry.name,
                hint=f"Repair or uninstall {_package(entry)}, which provides it.",
            ) from error


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "the package"


def usable(names: Iterable[str], tell: Callable[[str], None]) -> list[str]:
    """The measures among ``names`` that are what they should be; others are told and left out.

    For whoever asked for all there are: one broken plugin should not stop the rest.

    Args:
        names: as :func:`available` lists them.
        tell: is given one sentence for each that is left out.
    """
    good = []
    for name in names:
        try:
            available()[name]
        except UsageError as error:
            tell(f"the measure {name} is left out: {error!s}")
        else:
            good.append(name)
    return good


def included(tell: Callable[[str], None]) -> list[str]:
    """The measures that ``all`` stands for; those that cost much more are for who names them.

    Args:
        tell: is given one sentence for each that cannot be used.
    """
    known = available()
    return [name for name in usable(known, tell) if not known[name].on_request]


def available() -> Mapping[str, type[Measure]]:
    """Every measure that can be named, built-in ones first.

    Listing the names imports no measure and no torch; looking one up imports it. A plugin cannot
    replace a built-in measure.
    """
    entries = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        entries.setdefault(entry.name, entry)
    return _Available(entries)


def load_measure(name: str) -> type[Measure]:
    """The measure class behind a name.

    Args:
        name: of a built-in measure or a plugin's, ``file.py:Class`` or ``pkg.mod:Class``.

    Returns:
        The class.

    Raises:
        UsageError: there is none of that name, or what is behind it is not a measure.
    """
    if is_import_spec(name):
        return _checked(load_object(name, where="--measure"), name)
    known = available()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"no measure is called {name!r}",
        where="--measure",
        hint=f"{hint}There are: {', '.join(known)}; or give file.py:Class.",
    )


def _checked(found: object, name: str) -> type[Measure]:
    """``found`` if it is a complete measure class."""
    if not (isinstance(found, type) and issubclass(found, Measure)):
        raise UsageError(
            f"{name} is not a measure",
            where="--measure",
            hint="A measure is a class that inherits from flatmeter.Measure.",
        )
    abstract = sorted(getattr(found, "__abstractmethods__", ()))
    missing = abstract if hasattr(found, "name") else [*abstract, "name"]
    if missing:
        raise UsageError(f"the measure {name} does not define {', '.join(missing)}")
    return found
