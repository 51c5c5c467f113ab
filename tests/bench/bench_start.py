"""How long a person waits for ``flatmeter --help`` and ``import flatmeter``, beside bare Python.

Run by hand: ``python tests/bench/bench_start.py``. Prints seconds, the fastest of ten each.
"""

from __future__ import annotations

import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import flatmeter": ["-c", "import flatmeter"],
    "flatmeter --help": ["-m", "flatmeter", "--help"],
    "flatmeter measure --help": ["-m", "flatmeter", "measure", "--help"],
    "import torch": ["-c", "import torch"],
}

if __name__ == "__main__":
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(10):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(f"{name:26} {min(times):.3f} s")
