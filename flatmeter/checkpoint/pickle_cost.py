"""What reading a pickle would take, added up from its opcodes before it is read."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

#: Steps that any file may take, of a microsecond and some hundred bytes at most.
_STEPS = 500_000
#: A file may take one for so many bytes, where that is more.
_BYTES_PER_STEP = 64
_CALL = 10
#: Places in the list of remembered values that take what a step may.
_PLACES = 6
_NAME = 200
#: What makes something as large as a number says.
_SIZED = re.compile(r"\w+\.bytearray|torch\.[\w.]*(Tensor|Storage)")
_ENCODE = re.compile(r"(_codecs|builtins|__builtin__)\.\w*encode")
_CODEC = ("latin1", "latin-1")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")
_CALLS = ("REDUCE", "NEWOBJ", "BUILD")


class TooCostly(Exception):
    """A pickle that would unfold to far more than its bytes."""


@dataclass(slots=True)
class _Item:
    """A value on the stack, as far as its cost is concerned.

    Args:
        weight: of hashing or copying it; everything else counts one.
        value: of a text or a number, or the name of a class or function.
        inside: the parts of a tuple.
    """

    weight: int = 1
    value: Any = None
    inside: Sequence[_Item] = ()


def check_cost(stream: IO[bytes], size: int, *, pickles: int = 1) -> None:
    """Refuse pickles that would take time or memory out of proportion to the file.

    A few bytes can ask for a gigabyte (``bytearray(10**9)``), for the hash of a tuple that holds
    itself twice, sixty levels deep, or for a list to be copied a million times. Nothing is run.

    Args:
        stream: at the beginning of the pickles.
        size: of the file in bytes.
        pickles: how many stand one after the other.

    Raises:
        TooCostly: they would.
        Exception: whatever a broken pickle makes of :mod:`pickletools`.
    """
    left = max(_STEPS, size // _BYTES_PER_STEP)
    for _ in range(pickles):
        left = _Meter(left).run(stream)


class _Meter:
    """Follows a pickle's stack without making any of its values."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.stack: list[_Item | None] = []  # None is a mark
        self.memo: dict[int, _Item] = {}

    def run(self, stream: IO[bytes]) -> int:
        """The steps that are left after one pickle."""
        for opcode, argument, _ in pickletools.genops(stream):
            self.spend(1)
            self.step(opcode, argument)
        return self.left

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooCostly

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name == "MARK":
            self.stack.append(None)
        elif name.endswith("PUT"):
            # Python keeps a list of them, as long as the largest number that one is given.
            self.spend(max(0, int(argument) - len(self.memo)) // _PLACES)
            self.memo[int(argument)] = self.top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif name.endswith("GET"):
            self.stack.append(self.memo[int(argument)])
        else:
            self.apply(opcode, argument)

    def apply(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name, before = opcode.name, opcode.stack_before
        if pickletools.markobject in before:
            taken = self.above_mark()
            bases = before.index(pickletools.markobject)
        else:
            taken, bases = [], len(before)
        below = [self.pop() for _ in range(bases)][::-1]
        if name.startswith(("SETITEM", "APPEND", "ADDITEMS")):
            self.fill(name, below, taken)
        elif name in _TUPLES:
            parts = below or taken
            # A tuple is hashed and copied with all that it holds.
            self.stack.append(_Item(1 + sum(part.weight for part in parts), None, parts))
        elif name in _CALLS:
            self.call(*below)
        else:
            self.spend(sum(item.weight for item in taken))
            text = isinstance(argument, str | bytes)
            # Containers of older protocols have their items above a mark.
            weight = 1 + len(taken) + (len(argument) // 8 if text else 0)
            value = None if text and len(argument) > _NAME else argument
            value = value.replace(" ", ".", 1) if value and name == "GLOBAL" else value
            self.stack.extend(_Item(weight, value) for _ in opcode.stack_after)

    def fill(self, name: str, below: list[_Item], taken: list[_Item]) -> None:
        items = taken or below[1:]
        hashed = items[::2] if name.startswith("SETITEM") else items
        if not name.startswith("APPEND"):
            self.spend(sum(item.weight for item in hashed))
        below[0].weight += len(items)
        self.stack.append(below[0])

    def call(self, made: _Item, arguments: _Item) -> None:
        """A class or function with a tuple, or an object with its state."""
        given = arguments.inside
        if _ENCODE.fullmatch(str(made.value)) and [g.value for g in given[1:]] not in (
            [codec] for codec in _CODEC
        ):
            raise TooCostly
        if _SIZED.fullmatch(str(made.value)):
            self.spend(sum(abs(g.value) for g in given if isinstance(g.value, int)))
        self.spend(_CALL + arguments.weight)
        self.stack.append(_Item(arguments.weight))

    def above_mark(self) -> list[_Item]:
        taken: list[_Item] = []
        while (item := self.stack.pop()) is not None:
            taken.append(item)
        return taken[::-1]

    def pop(self) -> _Item:
        item = self.stack.pop()
        if item is None:
            raise ValueError("a mark where a value should be")
        return item

    def top(self) -> _Item:
        item = self.stack[-1]
        if item is None:
            raise ValueError("a mark where a value should be")
        return item
