"""Freed memory stays with the process: a curvature product asks for the same again at once."""

from __future__ import annotations

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Names of glibc's parameters in ``mallopt``."""

MAPPED, KEPT = 2**28, 2**31 - 1
"""Bytes from which an allocation is mapped on its own, and that are kept when freed.

Vectors as long as the parameters of a large network go back at once: kept, they left more than half
of the memory of a network of GPT-2's size to nobody.
"""


def keep_freed_memory() -> None:
    """Have glibc reuse large blocks instead of mapping and unmapping them at every operator.

    For the program, not for the library: it holds for the whole process. A gradient of ResNet-18 on
    a CPU took 2.5 times as long without, for a sixth less memory. Nothing happens where the C
    library is another, or where the environment sets its own.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, MAPPED)
    mallopt(TRIM_THRESHOLD, KEPT)
