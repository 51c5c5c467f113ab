"""How samples are split into batches and groups, and dealt out to processes: numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from flatmeter.ranks.group import Ranks

Bounds = tuple[int, int]
"""First sample of a batch, and the one after its last."""


@dataclass(frozen=True)
class Split:
    """The samples in batches, of which every process has its part.

    Args:
        n: number of samples.
        size: most samples in a batch.
        interact: batches are part of the definition, so that whole ones are dealt out; else the
            samples are, and each process splits its own into batches.
        ranks: the processes.
    """

    n: int
    size: int
    interact: bool
    ranks: Ranks

    @property
    def batches(self) -> list[Bounds]:
        """Every batch, as if there were one process."""
        count = -(-self.n // self.size)
        # One sample has no statistics.
        return _parts(0, self.n, min(count, self.n // 2) if self.interact else count)

    @property
    def own_batches(self) -> list[Bounds]:
        """Those of this process."""
        if self.interact:
            batches = self.batches
            return [batches[i] for i in self.ranks.share(len(batches))]
        own = self.ranks.share(self.n)
        return _parts(own.start, own.stop, -(-len(own) // self.size)) if own else []

    @property
    def held(self) -> int:
        """Samples of this process."""
        return sum(stop - start for start, stop in self.own_batches)

    def own_groups(self, size: int) -> list[list[Bounds]]:
        """Groups of ``size`` samples that belong to this process, each in batches.

        No size of batches changes them. Batches of interacting samples are groups of their own.
        """
        if self.interact:
            return [[batch] for batch in self.own_batches]
        groups = []
        for number in self.ranks.share(-(-self.n // size)):
            first, last = number * size, min((number + 1) * size, self.n)
            starts = range(first, last, min(size, self.size))
            groups.append([(a, min(a + starts.step, last)) for a in starts])
        return groups


def _parts(first: int, last: int, count: int) -> list[Bounds]:
    """Samples ``first … last − 1`` in nearly equal parts.

    A last batch of a sample or two would have no statistics to speak of.
    """
    size = last - first
    return list(pairwise(first + round(i * size / count) for i in range(count + 1)))
