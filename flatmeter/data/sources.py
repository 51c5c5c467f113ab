"""Data by name: the embedded digits, torchvision, image folders, files, a person's own code."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flatmeter.data.dataset import Dataset
from flatmeter.data.digits import load_digits
from flatmeter.data.image_folder import SIZE, load_image_folder
from flatmeter.data.pairs import as_dataset
from flatmeter.data.tensor_file import ENDINGS, load_tensor_file, near_file
from flatmeter.data.text import Tokenizer, load_text
from flatmeter.data.torchvision_source import load_torchvision
from flatmeter.errors import DataError, FlatmeterError
from flatmeter.importing import is_import_spec, load_object, raised_at

__all__ = ["FORMS", "as_dataset", "load_data"]

#: Every form that a source can be written in, and what it stands for.
FORMS: Mapping[str, str] = MappingProxyType(
    {
        "digits[:train|:test]": "1,797 real 8×8 images of digits, shipped with flatmeter",
        "torchvision:NAME[:SPLIT]@DIR": "a data set of torchvision that lies in DIR",
        "imagefolder[:SIZE]@DIR": "images in one folder for each class",
        "text:FILE, text:LENGTH@FILE": "a text in windows of tokens, for language models",
        "FILE.pt": "a mapping with inputs and targets, (inputs, targets) or tokens, by PyTorch",
        "FILE.npz": "a NumPy archive with inputs and targets",
        "pkg.mod:factory": "a function that returns (inputs, targets) or a PyTorch data set",
        "file.py:factory": "the same in a file",
    }
)

_BUILT_IN = ("digits", "torchvision", "imagefolder", "text")


def is_text(spec: str) -> bool:
    """A source whose windows depend on the network's tokenizer."""
    return spec.startswith(("text:", "text@"))


def load_data(
    spec: str,
    *,
    samples: int | None = 4096,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Dataset:
    """Data in a fixed order, without augmentation; all samples or a seeded subset.

    Args:
        spec: one of :data:`FORMS`.
        samples: size of the subset, drawn without replacement and kept in the source's order;
            ``None``, or as many as there are, takes all.
        seed: of the subset.
        tokenizer: of the network, for texts.

    Raises:
        DataError: the source is unknown or cannot be read; says what to do.
        UsageError: code that was named cannot be imported.
    """
    head, at, rest = spec.partition("@")
    kind, _, detail = head.partition(":")
    if kind == "digits" and not at:
        return load_digits(detail or "all", samples=samples, seed=seed)
    if kind == "torchvision":
        name, _, split = detail.partition(":")
        folder = _folder(spec, rest)
        return load_torchvision(name, split, folder, samples=samples, seed=seed)
    if kind == "imagefolder":
        folder = _folder(spec, rest)
        return load_image_folder(folder, size=_size(detail), samples=samples, seed=seed)
    if is_text(spec):
        path, length = _text(spec)
        options: dict[str, Any] = {"name": spec, "samples": samples, "seed": seed}
        return load_text(path, tokenizer, length=length, **options)
    if spec.lower().endswith(ENDINGS):
        return load_tensor_file(Path(spec).expanduser(), samples=samples, seed=seed)
    if is_import_spec(spec) and not _misspelt(kind):
        return _from_factory(spec, samples, seed)
    raise _unknown(spec, kind)


def _folder(spec: str, folder: str) -> Path:
    if not folder:
        raise DataError(
            f"{spec!r} does not say where the data lie",
            where="--data",
            hint=f"add the folder: {spec.rstrip('@')}@DIR",
        )
    return Path(folder).expanduser()


def _size(text: str) -> int:
    if not text:
        return SIZE
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise DataError(
            f"{text!r} is not a size in pixels", where="--data", hint="write imagefolder:224@DIR"
        )
    return int(text)


def _text(spec: str) -> tuple[Path, int | None]:
    """The file, and the length of windows where it is said."""
    rest = spec[len("text:") :]
    if not rest:
        raise DataError(f"{spec!r} does not say which file", where="--data", hint="write text:FILE")
    length, at, file = rest.partition("@")
    if not (at and length.isdecimal()):
        return Path(rest).expanduser(), None
    if int(length) < 2:
        raise DataError(
            f"windows of {length} tokens leave nothing to predict",
            where="--data",
            hint=f"write text:128@{file}",
        )
    return Path(file).expanduser(), int(length)


def _misspelt(kind: str) -> bool:
    """A word like a built-in source that is no module either."""
    if "." in kind or not difflib.get_close_matches(kind, _BUILT_IN, n=1):
        return False
    return importlib.util.find_spec(kind) is None and not Path(kind).with_suffix(".py").is_file()


def _unknown(spec: str, kind: str) -> DataError:
    close = difflib.get_close_matches(kind.lower(), _BUILT_IN, n=1, cutoff=0.5)
    nearest = f"did you mean {close[0]}? " if close else ""
    near = near_file(Path(spec).expanduser())
    if Path(spec).expanduser().is_dir():
        nearest = f"for a folder of images write imagefolder@{spec}; "
    elif Path(spec).expanduser().is_file():
        nearest = f"for a text write text:{spec}; "
    elif near is not None:
        nearest = f"did you mean {near}? "
    return DataError(
        f"unknown data {spec!r}", where="--data", hint=f"{nearest}known: {', '.join(FORMS)}"
    )


def _from_factory(spec: str, samples: int | None, seed: int) -> Dataset:
    found = load_object(spec, where="--data")
    if isinstance(found, type) or (callable(found) and not hasattr(found, "__getitem__")):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise DataError(
                f"it must be callable without arguments: {error}", where=spec
            ) from error
        except ValueError:
            pass  # A builtin without a signature: calling it will tell.
        try:
            found = found()
        except FlatmeterError:
            raise
        except Exception as error:
            raise DataError(
                f"it failed: {type(error).__name__}: {error}{raised_at(error)}", where=spec
            ) from error
    return as_dataset(found, name=spec, samples=samples, seed=seed)
