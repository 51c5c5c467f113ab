"""Which part of a list is meant, as people write it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PATTERN = r"^(auto|\d+/\d+)$"


@dataclass(frozen=True)
class Shard:
    """One of several parts of a list.

    Args:
        number: of the part, from 1.
        count: how many parts there are.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, paths: Sequence[Path]) -> list[Path]:
        """Every ``count``-th path in the order of their names' characters.

        The same list has the same parts on every machine, whatever its language, the order in which
        the paths are named, and what is measured already.
        """
        return sorted(paths, key=str)[self.number - 1 :: self.count]


def check_shard(text: str) -> str:
    """``auto`` or ``K/N``, as it is.

    Raises:
        ValueError: anything else, or no part between 1 and N.
    """
    if not re.fullmatch(PATTERN, text):
        raise ValueError("it must be a part and their number, such as 3/100, or 'auto'")
    if text != "auto" and not 1 <= parse_shard(text).number <= parse_shard(text).count:
        raise ValueError(f"parts are counted from 1: there is no part {text}")
    return text


def parse_shard(text: str) -> Shard:
    """The part that :func:`check_shard` let pass, unless it is ``auto``."""
    number, _, count = text.partition("/")
    return Shard(int(number), int(count))
