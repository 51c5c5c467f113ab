"""A user's own object by ``pkg.mod:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from flatmeter.errors import UsageError

_HERE = Path(__file__).parent
_T = TypeVar("_T")


def is_import_spec(spec: str) -> bool:
    """``spec`` has the form ``pkg.mod:name`` or ``file.py:name`` (name an identifier)."""
    target, colon, attribute = spec.rpartition(":")
    if not colon or not attribute.isidentifier():
        return False
    return target.endswith(".py") or all(part.isidentifier() for part in target.split("."))


def load_object(spec: str, *, where: str) -> Any:
    """Import the object behind ``pkg.mod:name`` or ``file.py:name``.

    Args:
        spec: the import path; a file's own folder, or the current one, is importable meanwhile.
        where: the option that it came from, for messages.

    Raises:
        UsageError: no such file, module or name, or the file failed when it was run.
    """
    target, _, attribute = spec.rpartition(":")
    module = _load_file(Path(target), where) if target.endswith(".py") else _load(target, where)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UsageError(
            f"{target} has no {attribute!r}", where=where, hint=_offered(module, attribute)
        ) from None


def module_of(spec: str) -> ModuleType | None:
    """The module that :func:`load_object` imported for an import path, if it did."""
    target = spec.rpartition(":")[0]
    return sys.modules.get(_file_module(Path(target)) if target.endswith(".py") else target)


def _file_module(path: Path) -> str:
    return f"flatmeter_user_{path.stem}"


def _offered(module: ModuleType, attribute: str) -> str:
    """The nearest name in a module, and the functions and classes that it defines itself."""
    things = {
        name: thing
        for name, thing in vars(module).items()
        if not name.startswith("_") and not isinstance(thing, ModuleType)
    }
    own = [
        name
        for name, thing in things.items()
        if isinstance(thing, (FunctionType, type)) and thing.__module__ == module.__name__
    ]
    close = difflib.get_close_matches(attribute, things, n=1)
    nearest = f"did you mean {close[0]}? " if close else ""
    return f"{nearest}it defines: {', '.join(own) or 'no function and no class'}"


def _load(name: str, where: str) -> ModuleType:
    with importable(Path.cwd()), _told(name, where):
        return beside_torchvision(lambda: importlib.import_module(name))


def _load_file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"no such file: {path}", where=where)
    spec = importlib.util.spec_from_file_location(_file_module(path), path)
    if spec is None or spec.loader is None:
        raise UsageError(f"not a Python file: {path}", where=where)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[spec.name] = module
    run = partial(spec.loader.exec_module, module)
    with importable(path.resolve().parent), _told(str(path), where):
        beside_torchvision(run)
    return module


def beside_torchvision(run: Callable[[], _T]) -> _T:
    """Run imports; once more where they failed on a torchvision that we know how to import."""
    try:
        return run()
    except Exception as error:
        if not _is_torchvisions(error):
            raise
    from flatmeter.import_torchvision import import_torchvision

    import_torchvision()
    return run()


def _is_torchvisions(error: BaseException | None) -> bool:
    """It comes of torchvision's compiled operators, perhaps through another library's import."""
    while error is not None:
        if isinstance(error, RuntimeError) and "torchvision::" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules in a folder can be imported meanwhile."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _told(target: str, where: str) -> Iterator[None]:
    """Turn whatever an import raises into one sentence with the line that raised it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"cannot import {target}: {type(error).__name__}: {error}{raised_at(error)}",
            where=where,
        ) from error


def raised_at(error: BaseException) -> str:
    """`` (file:line)`` of the line of a person's own code that raised, empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        ours = Path(frame.filename).is_relative_to(_HERE)
        if not (ours or "importlib" in frame.filename or "site-packages" in frame.filename):
            return f" ({frame.filename}:{frame.lineno})"
    return ""
