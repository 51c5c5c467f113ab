"""``flatmeter inspect`` of a file of 98 MiB in three formats: seconds beside importing and hashing.

python tests/bench/bench_inspect.py

Each is a process of its own, as for a person who types it. On a busy machine only the seconds of a
core mean anything. The target is 2 s for all but the hashing, on a core that does nothing else.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

KINDS = ("zip", "legacy", "safetensors")


def write(folder: Path) -> None:
    """A ResNet-50 in every format."""
    import torch
    from safetensors.torch import save_file

    from flatmeter.model.registry import build_model

    state = build_model("torchvision:resnet50").state_dict()
    torch.save(state, folder / "zip")
    torch.save(state, folder / "legacy", _use_new_zipfile_serialization=False)
    save_file(state, folder / "safetensors")


def inspect(path: str) -> None:
    """One inspection in this process, and where its time went."""
    began = time.process_time(), time.perf_counter()
    from flatmeter.checkpoint import fingerprint
    from flatmeter.cli import inspect_report  # noqa: F401
    from flatmeter.cli.main import run

    imported = time.process_time()
    hashed = [0.0]
    plain = fingerprint.sha256

    def timed(file: Path) -> str:
        start = time.process_time()
        digest = plain(file)
        hashed[0] += time.process_time() - start
        return digest

    out = io.StringIO()
    # The function of this name hides the module in the package.
    read = sys.modules["flatmeter.checkpoint.read"]
    with patch.object(read, "sha256", timed), contextlib.redirect_stdout(out):
        assert run(["inspect", path]) == 0
    assert "torchvision:resnet50" in out.getvalue()
    ended = time.process_time()
    print(
        f"{Path(path).name:12} imports {imported - began[0]:.2f}  hash {hashed[0]:.2f}  "
        f"all else {ended - imported - hashed[0]:.2f} s of a core; "
        f"{time.perf_counter() - began[1]:.2f} s by the clock",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        inspect(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place))
            for kind in (*KINDS[:1], *KINDS):  # the first fills the cache of known networks
                subprocess.run([sys.executable, __file__, str(Path(place) / kind)], check=True)
