"""Reads every file of a corpus in one process, and prints how each was answered.

``python hostile_reader.py LIST`` with a file that names one path a line.
"""

from __future__ import annotations

import copyreg
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from hostile_files import EXTENSION

from flatmeter.checkpoint import fit, read, recognise
from flatmeter.checkpoint.torch_file import pickled_names
from flatmeter.errors import FlatmeterError
from flatmeter.model.registry import build_model

#: Seconds of this process, and of the clock, after which a file is given up.
_GIVEN_UP, _WAITED = 20, 200


def main() -> None:
    copyreg.add_extension("os", "system", EXTENSION)
    signal.signal(signal.SIGALRM, _give_up)
    signal.signal(signal.SIGPROF, _give_up)
    for line in Path(sys.argv[1]).read_text().splitlines():
        print(json.dumps(answer(Path(line))), flush=True)


def answer(path: Path) -> dict:
    """What is said of a file, and what it took."""
    before = _resident()
    start = time.process_time()
    signal.alarm(_WAITED)
    signal.setitimer(signal.ITIMER_PROF, _GIVEN_UP)
    said = _said(path)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    seconds = time.process_time() - start
    return {"path": str(path), "seconds": seconds, "bytes": _peak() - before, **said}


def _names(path: Path) -> None:
    """What ``flatmeter inspect`` lists of a pickle, whether it is read or not."""
    try:
        found = recognise(path)
    except OSError:
        return
    if found is not None and path.is_file():
        pickled_names(path, found)


def _give_up(*_: object) -> None:
    raise KeyboardInterrupt("no answer")


def _said(path: Path) -> dict:
    try:
        _names(path)
        checkpoint = read(path)
        fit(build_model("zoo:mlp"), checkpoint)
    except FlatmeterError as error:
        return {"code": int(error.exit_code), "message": error.message}
    except BaseException as error:
        return {
            "code": 70,
            "message": f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}",
        }
    return {"code": 0, "message": ""}


def _resident() -> int:
    """Bytes in memory, and the highest mark set back to it."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
