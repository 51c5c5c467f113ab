"""kill -9 at many random moments of a sweep: what is left is that of an undisturbed one.

python tests/bench/bench_kills.py [KILLS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
sys.path.append(str(Path(__file__).parents[1] / "results"))

from killed import Forks, rows, sweep_with_kills
from test_killed import make_sweep


def main(kills: int) -> None:
    """Print how many sweeps and kills there were, and what is lost, doubled or different."""
    with tempfile.TemporaryDirectory() as name, Forks() as forks:
        folder = Path(name)
        command = make_sweep(folder / "checkpoints", 4)
        began = time.monotonic()
        assert forks(*command, "-o", folder / "undisturbed") == 0
        seconds = time.monotonic() - began
        expected = rows(folder / "undisturbed")
        print(f"undisturbed: {len(expected)} rows in {seconds:.2f} s")
        began = time.monotonic()
        sweep_with_kills(forks, command, folder / "out", kills, seed=0, longest=seconds)
        print(f"{kills} kills in {time.monotonic() - began:.0f} s")
        sweeps = sorted(folder.glob("out*"))
        lost = doubled = different = 0
        for sweep in sweeps:
            found = rows(sweep)
            lost += len(expected.keys() - found.keys())
            doubled += sum(len(lines) > 1 for lines in found.values())
            different += sum(found[k] != expected[k] for k in found.keys() & expected.keys())
        print(f"{len(sweeps)} sweeps: {lost} rows lost, {doubled} doubled, {different} different")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
