"""Files that a table names, which must stand in the folder of the table."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from flatmeter.errors import CheckpointRefused


def folder_file(folder: Path, name: Any) -> Path:
    """The ordinary file of this name in a folder.

    Raises:
        CheckpointRefused: the name leads elsewhere, or no such file is there.
    """
    plain = isinstance(name, str) and name not in ("", ".", "..") and "\0" not in name
    if not plain or Path(name).name != name or "\\" in name:
        raise CheckpointRefused(
            f"it names a file outside of its folder: {str(name)[:80]!r}", where=str(folder)
        )
    path: Path = folder / name
    try:
        ordinary = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise CheckpointRefused(
            f"it names a file that is not there: {name[:80]!r}",
            where=str(folder),
            hint="fetch the whole folder again",
        ) from error
    if not ordinary:
        raise CheckpointRefused(f"{name[:80]!r} is not an ordinary file", where=str(folder))
    return path
