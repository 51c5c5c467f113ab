"""The processes of one measurement, and what they tell each other.

Every process runs the same program on a part of the data, and all of them meet wherever a sum over
the data is taken. Each says at the meeting whether it has failed or is to stop, so that all of them
raise the same error at the same place, and none waits for another that has left. Each also says
where it is: processes that meet at different places stop, since the sum would be a wrong number. No
block can end in all of them after one has left out a meeting.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flatmeter.errors import LostProcess, OutOfStep
from flatmeter.ranks.trouble import STOP, Trouble, urgency, worst

T = TypeVar("T")

ROLL_CALL = 3.0
"""Seconds in which processes are to answer after one was lost, so that it can be named."""


class Ranks:
    """The processes that share a measurement; by default this one alone.

    Attributes:
        hold: signals wait in this context, for nothing must break off a meeting.
        speak: called in the process that is to tell a failure in place of a lost first one.
        broken: why no process answers any more.

    Args:
        rank: number of this process.
        size: of all.
        neighbours: how many run on this machine.
        gpu: number of the GPU that is this process's own.
        control: group of processes by which words are exchanged (gloo).
        data: group of processes by which tensors on a GPU are added up.
        store: through which processes answer after one was lost.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        *,
        neighbours: int = 1,
        gpu: int | None = None,
        control: dist.ProcessGroup | None = None,
        data: dist.ProcessGroup | None = None,
        store: dist.distributed_c10d.Store | None = None,
    ) -> None:
        self.rank, self.size, self.neighbours, self.gpu = rank, size, neighbours, gpu
        self.hold: Callable[[], AbstractContextManager[None]] = nullcontext
        self.speak: Callable[[], None] = lambda: None
        self.broken: LostProcess | OutOfStep | None = None
        self._control, self._data, self._store = control, data or control, store
        self._agreed: BaseException | None = None
        self._stopped = False

    @property
    def ending(self) -> bool:
        """All processes have agreed to stop, or one was lost: no signal is to disturb the end."""
        return self._stopped or self.broken is not None

    def share(self, count: int) -> range:
        """Which of ``count`` things are this process's; the first process has the most."""
        first, last = (-(-count * i // self.size) for i in (self.rank, self.rank + 1))
        return range(first, last)

    def sum(self, *tensors: Tensor) -> None:
        """Add up over all processes, in place; the same bits in all of them."""
        if self.size == 1:
            return
        with self.hold():
            self._agree(f"sum of {[(*t.shape, t.dtype) for t in tensors]}")
            for tensor in tensors:
                group = self._data if tensor.is_cuda else self._control
                self._collective(dist.all_reduce, tensor, group=group)

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers."""
        if self.size == 1:
            return number
        box = torch.tensor(number)
        with self.hold():
            self._agree("least")
            self._collective(dist.all_reduce, box, dist.ReduceOp.MIN, self._control)
        return int(box)

    def union(self, found: Collection[str], names: Sequence[str]) -> frozenset[str]:
        """The ``names`` that any process has found."""
        counts = torch.tensor([float(name in found) for name in names])
        self.sum(counts)
        return frozenset(n for n, count in zip(names, counts.tolist(), strict=True) if count)

    def alike(self, text: str) -> bool:
        """Whether all processes give the same text."""
        number = zlib.crc32(text.encode())
        return self.least(number) == -self.least(-number)

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; the others make nothing."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.rank == 0 else None]
        with self.hold():
            self._agree("from the first")
            self._collective(dist.broadcast_object_list, box, 0, self._control)
        made: T = box[0]
        return made

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """A block that all processes leave alike: by its end, or by the same error.

        Args:
            name: of the block, the same in all processes.

        Raises:
            BaseException: the most urgent of the errors that any process met in the block.
        """
        if self.size == 1:
            yield
            return
        self._meet(f"begin {name}")
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if error is not self._agreed and self.broken is None:
                self._meet("", error)
            raise
        self._meet(f"end {name}")

    def _meet(self, where: str, error: BaseException | None = None) -> None:
        with self.hold():
            self._agree(where, error)

    def _agree(self, where: str, error: BaseException | None = None) -> None:
        """Meet the others, and raise what they are to raise too."""
        if self.broken is not None:
            raise self.broken
        place = zlib.crc32(where.encode())
        word = torch.tensor([urgency(error), place, -place])
        self._collective(dist.all_reduce, word, dist.ReduceOp.MAX, self._control)
        if int(word[0]):
            self._stopped = int(word[0]) >= STOP
            self._agreed = self._worst(error)
            raise self._agreed
        if int(word[1]) != -int(word[2]):
            self.broken = OutOfStep(
                f"the {self.size} processes are out of step: a measure must do the same in each"
            )
            raise self.broken

    def _worst(self, error: BaseException | None) -> BaseException:
        told: list[Any] = [None] * self.size
        own = Trouble.of(self.rank, error)
        self._collective(dist.all_gather_object, told, own, self._control)
        chosen = worst(told)
        return error if error is not None and chosen.rank == self.rank else chosen.error()

    def _collective(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        try:
            work(*arguments, **more)
        except RuntimeError as error:
            self.broken = self._lost(str(error))
            raise self.broken from error

    def _lost(self, text: str) -> LostProcess:
        """Who does not answer any more, as far as that can be known."""
        missing = self._missing()
        if self.rank and self.rank == min(set(range(self.size)) - set(missing)):
            self.speak()
        late = "timed out" in text.lower() or "timeout" in text.lower()
        verb = "did not answer in time" if late else "was lost"
        if not missing:
            return LostProcess(f"one of the {self.size} processes {verb}")
        names = ", ".join(map(str, missing))
        return LostProcess(f"process {names} of {self.size} (counted from 0) {verb}")

    def _missing(self) -> list[int]:
        """Processes that do not answer a roll call."""
        others = set(range(self.size)) - {self.rank}
        deadline = time.monotonic() + ROLL_CALL
        try:
            if self._store is None:
                return []
            self._store.set(f"here {self.rank}", "")
            while others and time.monotonic() < deadline:
                others -= {r for r in others if self._store.check([f"here {r}"])}
                time.sleep(0.05)
        except RuntimeError:
            # What they meet through went with the first process.
            return [0]
        return sorted(others)


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The processes that share what is being measured now."""
    return _current


@contextmanager
def using(ranks: Ranks) -> Iterator[Ranks]:
    """Within the block these processes share what is measured."""
    global _current
    before, _current = _current, ranks
    try:
        yield ranks
    finally:
        _current = before
