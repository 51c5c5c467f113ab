"""Linear equations between log-scales, solved exactly in rational numbers.

Nearly all are whole and kept as ``int``: fractions are some ten times slower.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Hashable, Iterable
from fractions import Fraction
from math import gcd, lcm

Number = int | Fraction
Vector = dict[Hashable, Number]

ZERO = "zero"
"""The unknown that is fixed at zero."""


class System:
    """Homogeneous linear equations; most only say that two unknowns are equal."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}
        self._rows: list[Vector] = []

    def _find(self, x: Hashable) -> Hashable:
        root = x
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while x != root:
            self._parent[x], x = root, self._parent[x]
        return root

    def equal(self, unknowns: Iterable[Hashable]) -> None:
        """All these are the same."""
        roots = [self._find(x) for x in unknowns]
        for root in roots[1:]:
            self._parent[self._find(root)] = self._find(roots[0])

    def zero(self, unknowns: Iterable[Hashable]) -> None:
        """All these are zero."""
        self.equal([ZERO, *unknowns])

    def total(self, terms: Iterable[tuple[Hashable, Number]]) -> None:
        """A linear combination of unknowns is zero."""
        row: Vector = defaultdict(int)
        for unknown, coefficient in terms:
            self._find(unknown)
            row[unknown] += _plain(coefficient)
        self._rows.append(row)

    def null_space(self, wanted: Iterable[Hashable]) -> list[Vector]:
        """A basis of the solutions as seen by some of the unknowns.

        Each vector says what happens when one unknown that is not wanted moves, where that can be
        had: wanted unknowns are expressed by the others.

        Args:
            wanted: the unknowns whose values count.

        Returns:
            Sparse vectors over all unknowns; on the wanted ones they are independent and have
            integer entries without a common divisor.
        """
        wanted = tuple(wanted)
        members: dict[Hashable, list[Hashable]] = defaultdict(list)
        for unknown in (*wanted, *self._parent):
            members[self._find(unknown)].append(unknown)
        fixed, counts = self._find(ZERO), set(wanted)
        private = {root for root, us in members.items() if counts.issuperset(us)}
        solved = _eliminate(self._reduced(fixed), private)
        free = [root for root in members if root != fixed and root not in solved]
        vectors = [
            _primitive({u: c for root, c in solution.items() for u in members[root]}, counts)
            for solution in _solutions(free, solved)
        ]
        return sparsest(independent(vectors, wanted), wanted)

    def _reduced(self, fixed: Hashable) -> list[Vector]:
        rows = []
        for full in self._rows:
            row: Vector = defaultdict(int)
            for unknown, coefficient in full.items():
                row[self._find(unknown)] += coefficient
            row.pop(fixed, None)
            rows.append({u: c for u, c in row.items() if c})
        return [row for row in rows if row]


def _plain(number: Number) -> Number:
    return number.numerator if number.denominator == 1 else number


def _ratio(a: Number, b: Number) -> Number:
    return a * b if b in (1, -1) else _plain(Fraction(a) / b)


def _eliminate(rows: list[Vector], private: set[Hashable]) -> dict[Hashable, Vector]:
    """Express as many unknowns by the others as there are independent rows.

    Private unknowns that stand in one row only cause no fill-in and go first. What is left is
    Gaussian elimination by the shortest row and its rarest unknown.

    Returns:
        For every pivot, in the order of elimination, the combination of later unknowns it equals.
    """
    where: dict[Hashable, set[int]] = defaultdict(set)
    for i, row in enumerate(rows):
        for unknown in row:
            where[unknown].add(i)
    solved: dict[Hashable, Vector] = {}
    left = set(range(len(rows)))

    def settle(i: int, pivot: Hashable) -> None:
        row = rows[i]
        left.discard(i)
        for unknown in row:
            where[unknown].discard(i)
        solved[pivot] = {u: _ratio(-c, row[pivot]) for u, c in row.items() if u != pivot}
        for k in tuple(where[pivot]):
            _substitute(rows[k], pivot, solved[pivot], where, k)

    for unknown in [u for u in where if u in private and len(where[u]) == 1]:
        if where[unknown]:
            settle(next(iter(where[unknown])), unknown)
    while left:
        i = min(left, key=lambda k: (len(rows[k]), k))
        if rows[i]:
            settle(i, min(rows[i], key=lambda u: (len(where[u]), u not in private)))
        left.discard(i)
    return solved


def _substitute(
    row: Vector, pivot: Hashable, by: Vector, where: dict[Hashable, set[int]], index: int
) -> None:
    factor = row.pop(pivot)
    where[pivot].discard(index)
    for unknown, coefficient in by.items():
        value = row.get(unknown, 0) + factor * coefficient
        if value:
            row[unknown] = value
            where[unknown].add(index)
        else:
            del row[unknown]
            where[unknown].discard(index)


def _solutions(free: list[Hashable], solved: dict[Hashable, Vector]) -> list[Vector]:
    """One solution for each free unknown: itself one, the other free ones zero."""
    by_free: dict[Hashable, Vector] = {u: {u: 1} for u in free}
    expressed: dict[Hashable, Vector] = dict(by_free)
    for pivot in reversed(solved):
        row: Vector = defaultdict(int)
        for unknown, coefficient in solved[pivot].items():
            for u, c in expressed[unknown].items():
                row[u] += coefficient * c
        expressed[pivot] = row
    vectors: dict[Hashable, Vector] = {u: {} for u in free}
    for unknown, row in expressed.items():
        for u, c in row.items():
            if c:
                vectors[u][unknown] = c
    return list(vectors.values())


def _primitive(vector: Vector, wanted: Container[Hashable]) -> Vector:
    """The multiple whose wanted entries are integers without a common divisor."""
    entries = [c for u, c in vector.items() if u in wanted]
    if not entries:
        return vector
    top, bottom = lcm(*(c.denominator for c in entries)), gcd(*(c.numerator for c in entries))
    if top == bottom == 1:
        return vector
    return {u: _ratio(c * top, bottom) for u, c in vector.items()}


def independent(vectors: list[Vector], wanted: tuple[Hashable, ...]) -> list[Vector]:
    """Those vectors that, on the wanted unknowns, are not combinations of the ones before."""
    echelon: dict[Hashable, Vector] = {}
    kept = []
    for vector in sorted(vectors, key=len):
        row: Vector = {u: vector[u] for u in wanted if u in vector}
        while row:
            lead = next((u for u in row if u in echelon), None)
            if lead is None:
                pivot = next(iter(row))
                echelon[pivot] = {u: _ratio(c, row[pivot]) for u, c in row.items()}
                kept.append(vector)
                break
            factor = row[lead]
            for u, c in echelon[lead].items():
                row[u] = row.get(u, 0) - factor * c
            row = {u: c for u, c in row.items() if c}
    return kept


def sparsest(vectors: list[Vector], wanted: tuple[Hashable, ...]) -> list[Vector]:
    """Add and subtract vectors from one another while that leaves fewer wanted unknowns to move.

    The span stays the same; "this tensor alone" comes out where it is a symmetry.
    """
    counts = set(wanted)
    vectors = sorted(vectors, key=len)
    touching: dict[Hashable, set[int]] = defaultdict(set)
    supports = [{u for u in v if u in counts} for v in vectors]
    for i, support in enumerate(supports):
        for u in support:
            touching[u].add(i)
    queue = list(range(len(vectors)))
    while queue:
        i = queue.pop()
        near = {j for u in supports[i] for j in touching[u]} - {i}
        for j in sorted(near):
            reduced = _shorter(vectors[j], supports[j], vectors[i], supports[i], counts)
            if reduced is None:
                continue
            for u in supports[j]:
                touching[u].discard(j)
            vectors[j], supports[j] = reduced, {u for u in reduced if u in counts}
            for u in supports[j]:
                touching[u].add(j)
            queue.append(j)
    return [_upwards(v, wanted) for v in vectors]


def _shorter(
    vector: Vector, support: set[Hashable], by: Vector, its: set[Hashable], counts: set[Hashable]
) -> Vector | None:
    """``vector ± by`` where that moves fewer of the unknowns that count, else ``None``."""
    shared = support & its
    if 2 * len(shared) <= len(its):
        return None  # most of what is added would be new
    for sign in (1, -1):
        gone = sum(vector[u] + sign * by[u] == 0 for u in shared)
        if gone > len(its) - len(shared):
            total = {u: vector.get(u, 0) + sign * by.get(u, 0) for u in {**vector, **by}}
            return _primitive({u: c for u, c in total.items() if c}, counts)
    return None


def _upwards(vector: Vector, wanted: tuple[Hashable, ...]) -> Vector:
    first = next(u for u in wanted if u in vector)
    return vector if vector[first] > 0 else {u: -c for u, c in vector.items()}
