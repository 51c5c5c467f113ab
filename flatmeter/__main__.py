"""``python -m flatmeter`` and the command ``flatmeter``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end with its exit code."""
    from flatmeter.allocator import keep_freed_memory
    from flatmeter.cli.main import run

    keep_freed_memory()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
