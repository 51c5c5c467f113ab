"""stdout carries the result and nothing else; everything for people goes to stderr."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TextIO

from flatmeter.errors import printable

_stderr: int | None = None
"""Where stderr went before :func:`mute`."""


class ClosedPipe(Exception):
    """The reader of stdout has gone; nobody is to be told."""


def write_out(text: str) -> None:
    """Print a result, in ASCII where the stream knows no more.

    Raises:
        ClosedPipe: nobody reads it any more, or nobody ever did.
    """
    if sys.stdout is None:
        raise ClosedPipe
    try:
        _write(sys.stdout, text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        raise ClosedPipe from None


def drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """Tell a failure on stderr."""
    say(f"flatmeter: error: {text}")


def say(text: str) -> None:
    """Tell something on stderr; nobody may be listening."""
    if sys.stderr is None:
        return
    try:
        # Names of files and of what stands in them may be a stranger's.
        _write(sys.stderr, printable(text.rstrip("\n")) + "\n")
        sys.stderr.flush()
    except OSError:
        return


def mute() -> None:
    """Send both streams nowhere, whoever writes to them."""
    global _stderr
    if sys.stdout is None or sys.stderr is None:
        return
    _stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def speak() -> None:
    """Open stderr again, for a failure that nobody else can tell."""
    if _stderr is not None:
        sys.stderr.flush()
        os.dup2(_stderr, 2)


def page_width() -> int:
    """Characters per line: the terminal's or ``COLUMNS``, 80 where there is neither."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def ascii_only(stream: TextIO) -> bool:
    """Whether the stream cannot be relied on for more than ASCII."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    return encoding not in ("utf8", "utf16", "utf32")


def _write(stream: TextIO, text: str) -> None:
    if ascii_only(stream):
        from flatmeter.results.plain_text import to_ascii

        text = to_ascii(text)
    stream.write(text)
