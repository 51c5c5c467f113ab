"""An error of one process, as the others are told it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from flatmeter.errors import Stopped
from flatmeter.out_of_memory import ran_out

STOP = 3
"""From this urgency on everything ends; below it the measure has failed, or is to be repeated."""


class Elsewhere(Exception):
    """An error of another process, of a type that this one does not know."""


class Trace(Exception):
    """The traceback of another process, as the cause of the error it belongs to."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def urgency(error: BaseException | None) -> int:
    """Which of several errors that happen at once is acted on: the largest number, 0 for none."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return STOP + 1
    if isinstance(error, Stopped):
        return STOP
    # Smaller batches do not help against anything else.
    return 1 if ran_out(error) else 2


@dataclass(frozen=True)
class Trouble:
    """What one process tells the others of its error.

    Args:
        rank: of the process.
        urgency: of the error; 0 where it has none.
        pickled: the error itself, where it can be sent.
        text: the error in words.
        trace: its traceback.
    """

    rank: int
    urgency: int = 0
    pickled: bytes | None = None
    text: str = ""
    trace: str = ""

    @classmethod
    def of(cls, rank: int, error: BaseException | None) -> Trouble:
        """Of an error, or of none."""
        if error is None:
            return cls(rank)
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        return cls(rank, urgency(error), _pickled(error), text, trace)

    def error(self) -> BaseException:
        """The error, to be raised in another process."""
        found: BaseException = Elsewhere(self.text)
        if self.pickled is not None:
            try:
                found = pickle.loads(self.pickled)
            except Exception:  # a class of a person's own file, say
                found = Elsewhere(self.text)
        found.__cause__ = Trace(self.trace)
        return found


def worst(troubles: Sequence[Trouble]) -> Trouble:
    """The one that all processes act on: of the most urgent, that of the lowest rank."""
    return max(troubles, key=lambda trouble: (trouble.urgency, -trouble.rank))


def _pickled(error: BaseException) -> bytes | None:
    """Whatever an exception holds may refuse to be pickled, in any way it likes."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data
