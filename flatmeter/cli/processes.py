"""One call of ``flatmeter measure`` as one of several processes that a launcher has started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flatmeter.cli.interrupts import Interrupts
from flatmeter.cli.streams import speak
from flatmeter.config.schema import Settings
from flatmeter.errors import UsageError
from flatmeter.ranks.group import ALONE, Ranks, using
from flatmeter.ranks.join import joined
from flatmeter.ranks.launch import Place


@contextmanager
def sharing(place: Place | None, settings: Settings, interrupts: Interrupts) -> Iterator[Ranks]:
    """The processes that measure together, which leave the block alike.

    Args:
        place: of this process; ``None`` where it is the only one.
        settings: of the run.
        interrupts: held while processes meet.

    Raises:
        UsageError: they were told different things.
    """
    if place is None:
        yield ALONE
        return
    gpus = settings.device != "cpu"
    with joined(place, gpus=gpus, timeout=settings.rank_timeout) as ranks, using(ranks):
        ranks.hold, interrupts.deaf = interrupts.held, lambda: ranks.ending
        ranks.speak = speak
        with ranks.together("command"):
            if not ranks.alike(f"{sys.argv[1:]} {settings}"):
                raise UsageError(
                    f"the {ranks.size} processes that were started together have different "
                    "arguments or settings",
                    hint="they share one measurement; to measure apart, start each by a launcher "
                    "of its own, such as: srun --ntasks=1 --exact flatmeter measure …",
                )
            yield ranks
