"""What only a real process shows: signals, pipes, full disks, encodings, start-up."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def _began(child, path):
    """Wait until the slow toy is at work."""
    limit = time.monotonic() + 60
    while not path.exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGTERM, 75, "stopped by SIGTERM; what was finished is kept in out\nrun the same"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1; what was finished is kept in out\nrun the same"),
        (signal.SIGINT, 130, "stopped by Ctrl-C; what was finished is kept in out\nrun the same"),
    ],
)
def test_signals_keep_what_was_finished(process, checkpoint, toys, tmp_path, number, code, text):
    child = process(
        *("measure", checkpoint, "-M", f"{toys}:Norm", "-M", f"{toys}:Slow", "-o", "out"),
        env={"SLOW_BEGAN": str(tmp_path / "began")},
    )
    _began(child, tmp_path / "began")
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == code
    assert text in err
    assert "Traceback" not in err
    assert "norm" in out
    rows = [json.loads(x) for x in Path("out/results.jsonl").read_text().splitlines()]
    assert {row["measure"] for row in rows} == {"norm"}


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_signals_without_a_folder(process, checkpoint, toys, tmp_path, number, code, name):
    """Columns that were not reached must not cost those that were."""
    child = process(
        *("measure", checkpoint, "-M", f"{toys}:Norm", "-M", f"{toys}:Slow"),
        *("--columns", "norm,slow", "--sort", "slow", "--export", "a.md"),
        env={"SLOW_BEGAN": str(tmp_path / "began")},
    )
    _began(child, tmp_path / "began")
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == code
    assert f"stopped by {name}; what was finished is shown, but not kept\nwith -o DIR," in err
    assert "Traceback" not in err
    assert out.splitlines()[0].split() == ["checkpoint", "norm", "slow"]
    assert out.splitlines()[2].split()[0] == "a.pt"
    assert Path("a.md").exists()


def test_time_limit(process, checkpoint, toys, tmp_path):
    child = process(
        *("measure", checkpoint, "-M", f"{toys}:Norm", "-M", f"{toys}:Slow", "--max-time", "1s"),
        env={"SLOW_BEGAN": str(tmp_path / "began")},
    )
    _, err = child.communicate(timeout=60)
    assert child.returncode == 75
    assert "stopped by the time limit" in err


def test_closed_pipe_ends_quietly(process, checkpoint, toys):
    child = process("measure", checkpoint, "-M", f"{toys}:Norm", "-f", "json")
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(30) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_stream_that_was_never_open(closed, checkpoint, toys):
    words = [sys.executable, "-m", "flatmeter", "measure", str(checkpoint), "-M", f"{toys}:Norm"]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {closed}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"], ["config", "schema"]])
def test_stdout_on_a_full_disk(process, arguments):
    with FULL.open("w") as full:
        child = process(*arguments, stdout=full)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err.startswith("flatmeter: error: cannot write to stdout: No space left on device")
    assert "Traceback" not in err


def test_results_on_a_disk_that_fills_up(process, checkpoint, toys):
    """A limit on file sizes cuts a write short just as a full disk does."""
    child = process(
        *("measure", checkpoint, "-M", f"{toys}:Unconverged", "-M", f"{toys}:Norm", "-o", "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "flatmeter: error: out: cannot write: the file would be larger than allowed" in err
    assert "Traceback" not in err
    assert "unconverged" in out
    rows = [json.loads(x) for x in Path("out/results.jsonl").read_text().splitlines()]
    assert [row["measure"] for row in rows] == ["unconverged"]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_an_export_on_a_full_disk_costs_nothing_else(process, checkpoint, toys):
    for name in ("full.csv", "full.json"):
        Path(name).symlink_to(FULL)
    exports = [x for name in ("full.csv", "a.csv", "full.json") for x in ("--export", name)]
    child = process("measure", checkpoint, "-M", f"{toys}:Norm", "-q", *exports)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "a.pt" in out
    assert "full.csv: cannot write: the disk is full" in err
    assert "full.json: cannot write: the disk is full" in err
    assert "norm" in Path("a.csv").read_text()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_full_stdout_costs_no_export(process, checkpoint, toys):
    with FULL.open("w") as full:
        child = process(
            *("measure", checkpoint, "-M", f"{toys}:Norm", "-q", "--export", "a.csv"), stdout=full
        )
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "cannot write to stdout" in err
    assert "norm" in Path("a.csv").read_text()


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_ascii_where_the_stream_knows_no_more(process, checkpoint, toys, variables):
    child = process(
        *("measure", checkpoint, "-M", f"{toys}:Unconverged"),
        env={**variables, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    out, _err = child.communicate(timeout=60)
    assert child.returncode == 6
    assert out.isascii()
    assert "+/-" in out


def test_starts_without_torch():
    script = (
        "import sys; import flatmeter\n"
        "from flatmeter.cli.main import run\n"
        "assert run(['--help']) == 0 and run(['measure', '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'scipy', 'pydantic', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_completion_asks_no_torch():
    environment = {
        **os.environ,
        "_FLATMETER_COMPLETE": "bash_complete",
        "COMP_WORDS": "flatmeter measure --measure mini",
        "COMP_CWORD": "3",
    }
    script = (
        "import sys, atexit\n"
        "sys.argv = ['flatmeter']\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from flatmeter.__main__ import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["plain,minimum_sharpness", "False"], done.stderr


def catches(child, number):
    """The process has a handler of its own for a signal."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_stopped_while_it_starts(process, checkpoint, toys):
    """Importing PyTorch takes seconds; a job that is stopped meanwhile must be requeued too."""
    child = process("measure", checkpoint, "-M", f"{toys}:Norm")
    while not catches(child, signal.SIGTERM):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 75
    assert "stopped by SIGTERM" in err
    assert "Traceback" not in err
