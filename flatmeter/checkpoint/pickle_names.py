"""Which classes and functions a pickle names, read from its opcodes without running it."""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

#: A bound on time; a pickle of tensors has a few dozen opcodes for each.
_MAX_OPCODES = 200_000

#: What torch.save writes of tensors and plain containers.
_ORDINARY = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|torch\.(_utils|_tensor)\._rebuild\w+"
    r"|torch\.(cuda\.|storage\.)?\w*Storage"
    r"|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device|Tensor|serialization\._get_layout|bfloat16|bool|q?u?int\d+|float\w+)"
    r"|(__builtin__|builtins)\.(set|bytearray|complex)"
    r"|_codecs\.encode|argparse\.Namespace"
)
_STRINGS = ("UNICODE", "STRING")
_PROTO = re.compile(rb"\x80.", re.DOTALL)


@dataclass(frozen=True)
class PickleNames:
    """Names in a pickle.

    Args:
        every: ``module.name`` of everything that is named, in order.
        unusual: those besides tensors and containers.
        whole: the object itself, not an entry of it, is made by the first of them.
        protocol: version of the pickle's format, 0 where it does not say.
    """

    every: tuple[str, ...]
    unusual: tuple[str, ...]
    whole: bool
    protocol: int = 0


def pickle_names(data: bytes, *, skip: int = 0) -> PickleNames:
    """The names in a pickle.

    An explanation for people, never a permission: a pickle can hide names from this.

    Args:
        data: beginning with the pickle; may be cut short.
        skip: number of pickles that stand before it.
    """
    stream = io.BytesIO(data)
    found: list[tuple[str, bool]] = []
    start = 0
    try:
        for _ in range(skip):
            for _ in pickletools.genops(stream):
                pass
        start = stream.tell()
        found.extend(_globals(stream))
    except Exception:
        # Whatever is wrong with the rest, the names before it are worth saying.
        pass
    unusual = [(name, first) for name, first in found if not _ORDINARY.fullmatch(name)]
    return PickleNames(
        tuple(dict.fromkeys(name for name, _ in found)),
        tuple(dict.fromkeys(name for name, _ in unusual)),
        whole=any(first for _, first in unusual),
        protocol=data[start + 1] if _PROTO.match(data, start) else 0,
    )


def unusual(names: Iterable[str]) -> list[str]:
    """Names besides those of tensors and containers."""
    return [name for name in names if not _ORDINARY.fullmatch(name)]


def _globals(stream: io.BytesIO) -> Iterator[tuple[str, bool]]:
    """Names in order, and whether each is what the pickle begins with.

    ``STACK_GLOBAL`` takes its two texts from the stack: those pushed last, written out or fetched
    from the memo.
    """
    memo: dict[int, str] = {}
    texts: list[str] = []
    top = ""
    first = True
    for opcode, argument, _ in islice(pickletools.genops(stream), _MAX_OPCODES):
        name, text = opcode.name, str(argument)
        if name in ("PROTO", "FRAME", "MARK"):
            continue
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if name == "MEMOIZE" else int(text)] = top
            continue
        if name in ("GLOBAL", "INST"):
            yield text.replace(" ", ".", 1), first
        elif name == "STACK_GLOBAL":
            yield ".".join(texts), first
        fetched = memo.get(int(text), "") if name.endswith("GET") else ""
        top = text if name.endswith(_STRINGS) else fetched
        if top:
            texts = [*texts[-1:], top]
        else:
            first = False
