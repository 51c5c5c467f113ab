"""The grid as text: continued below where the page is too narrow, folded and never cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flatmeter.results.apart import apart
from flatmeter.results.number import format_error
from flatmeter.results.pivot import Grid
from flatmeter.results.record import NETWORK, Row

if TYPE_CHECKING:
    from rich.table import Table


def render_text(grid: Grid, *, width: int = 80) -> str:
    """The grid as lines of at most ``width`` characters (a single longer word is folded)."""
    lines = [f"in {grid.folder}\n"] if grid.folder else []
    start = 0
    while start < len(grid.columns):
        stop = start + 1
        while stop < len(grid.columns) and _fits(grid, range(start, stop + 1), width):
            stop += 1
        lines.append(_draw(_table(grid, range(start, stop), width), width))
        start = stop
    lines += ["\n".join(folded(note, width) for note in grid.footnotes) + "\n"] * bool(
        grid.footnotes
    )
    return "\n".join(lines)


def render_parts(rows: Sequence[Row], *, width: int = 80, digits: int = 4) -> str:
    """One line per layer or tensor, its quantities side by side, for every measure with layers."""
    from rich.table import Table

    pages: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in apart(rows):
        if row.scope != NETWORK and row.value is not None:
            page = pages.setdefault((row.checkpoint, row.measure), {})
            cell = format_error(row.value, row.half_width, digits)
            page.setdefault(row.scope, {})[row.quantity] = cell
    drawn = []
    for (checkpoint, measure), page in pages.items():
        quantities = list(dict.fromkeys(q for cells in page.values() for q in cells))
        table = _styled(Table)
        table.add_column("layer or tensor", overflow="fold")
        for quantity in quantities:
            table.add_column(quantity, justify="right", overflow="fold")
        for scope, cells in page.items():
            table.add_row(scope, *(cells.get(q, "") for q in quantities))
        drawn.append(f"{measure} of {checkpoint}\n{_draw(table, width)}")
    return "\n".join(drawn)


def draw_table(heads: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> str:
    """A plain table; the first two columns are to the left, the others to the right."""
    from rich.table import Table

    table = _styled(Table)
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return _draw(table, width)


def _styled(kind: type[Table]) -> Table:
    from rich import box

    return kind(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def _table(grid: Grid, indices: range, width: int) -> Table:
    from rich.table import Table

    table = _styled(Table)
    longest = max([len("checkpoint"), *(len(name) for name, _ in grid.lines)])
    limit = min(longest, max(16, width // 3))
    table.add_column("checkpoint", overflow="fold", min_width=limit, max_width=limit)
    for i in indices:
        heading = "\n".join(grid.columns[i].heading)
        table.add_column(heading, justify="right", vertical="top", overflow="fold")
    for name, cells in grid.lines:
        table.add_row(name, *(cells[i] for i in indices))
    return table


def _fits(grid: Grid, indices: range, width: int) -> bool:
    from rich.console import Console

    console = Console(width=10_000, markup=False, emoji=False)
    return console.measure(_table(_widest(grid), indices, width)).maximum <= width


def _widest(grid: Grid) -> Grid:
    """A grid of one line that is as wide as all lines together."""
    from rich.cells import cell_len

    if not grid.lines:
        return grid
    names, cells = zip(*grid.lines, strict=True)
    line = tuple(max(column, key=cell_len) for column in zip(*cells, strict=True))
    return replace(grid, lines=((max(names, key=cell_len), line),))


def _draw(table: Table, width: int) -> str:
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=width, color_system=None, markup=False, emoji=False, highlight=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def folded(note: str, width: int) -> str:
    """A note in lines of at most ``width`` characters."""
    import textwrap

    return textwrap.fill(note, width, subsequent_indent="    ", break_on_hyphens=False)
