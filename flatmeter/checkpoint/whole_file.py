"""A checkpoint file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from flatmeter.errors import FlatmeterError
from flatmeter.renamed import renamed_onto


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` at the end of the block.

    Raises:
        FlatmeterError: it cannot be written, or would take the place of a device or a pipe.
    """
    try:
        if path.exists() and not path.is_file():
            # Renaming over it would put a file in the place of a device or a pipe.
            raise FlatmeterError(
                "cannot write the checkpoint: it is no ordinary file", where=str(path)
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with renamed_onto(path) as temporary:
            yield temporary
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch's writer wraps a full disk in an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__ or error
        said = cause.strerror if isinstance(cause, OSError) else str(cause).partition("\n")[0]
        raise FlatmeterError(
            f"cannot write the checkpoint: {said}",
            where=str(path),
            hint="choose a folder that you may write to and that has room",
        ) from error
