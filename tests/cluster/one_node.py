"""A real Slurm on this machine alone, started by process id: no systemd, nothing outside a folder.

python tests/cluster/one_node.py COMMAND ...    runs a command that may use sbatch, srun and so on
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
GPUS = 4
STARTED_WITHIN = 10.0

CONFIGURATION = """
ClusterName=flatmeter
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=3
MessageTimeout=60
MinJobAge=3600
SlurmdTimeout=300
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=ordinary Nodes={host} Default=YES PriorityTier=10 MaxTime=INFINITE State=UP
PartitionName=low Nodes={host} PriorityTier=1 GraceTime=10 MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Slurm is not there, or does not run on this machine; says why."""


class Slurm:
    """Slurm on one node with CPUs and GPUs that it only believes in, as a context.

    Args:
        folder: for sockets, state and logs.

    Raises:
        CannotStart: on entering.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.environment: dict[str, str] = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(self.configuration),
        }
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        check_installed()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._children[-1].poll() is None:
            self("scancel", "--user=root")
            with_limit(lambda: not self("squeue", "--noheader"), 30)
        self._stop()

    def __call__(self, *command: object, env: Mapping[str, str] | None = None) -> str:
        """What a command of Slurm prints.

        Raises:
            AssertionError: it failed; with what it said.
        """
        done = subprocess.run(
            list(map(str, command)),
            env={**self.environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def waited(self, job: str, seconds: float) -> bool:
        """Whether a job, with all the tasks of its array, ends within that time."""
        return with_limit(lambda: not self.states(job), seconds)

    def states(self, job: str) -> dict[str, str]:
        """State of every task of a job that has not ended, by its number."""
        lines = self("squeue", "--noheader", "--array", "--format=%F %i %T").splitlines()
        return {name: state for own, name, state in map(str.split, lines) if own == job}

    def _start(self) -> None:
        folder = self.folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(
            host=host, folder=folder, ports=free_ports(2), cpus=8 * GPUS, gpus=GPUS
        )
        self.configuration.write_text(text)
        (folder / "gres.conf").write_text(
            f"NodeName={host} Name=gpu File={folder}/gpu[0-{GPUS - 1}] Flags=nvidia_gpu_env\n"
        )
        for number in range(GPUS):
            # Numbers of no real device: Slurm only hands them out.
            run(["mknod", folder / f"gpu{number}", "c", "240", str(number)])
        files = {name: folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._child(
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--{name}-file={path}" for name, path in files.items() if name != "socket"),
            f"--socket={files['socket']}",
        )
        self._until(files["socket"].exists, "munged")
        self._child("slurmctld", "-D", "-c")
        self._until(lambda: answers("scontrol", "ping", env=self.environment), "slurmctld")
        self._child("slurmd", "-D", "-N", host)
        self._until(lambda: self("sinfo", "--noheader", "--format=%T").startswith("idle"), "slurmd")

    def _child(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            child = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        self._children.append(child)

    def _until(self, ready: Callable[[], bool], name: str) -> None:
        """Wait for a daemon.

        Raises:
            CannotStart: it ended, or takes too long; with the end of what it said.
        """
        child = self._children[-1]

        def answered() -> bool:
            try:
                return child.poll() is not None or ready()
            except (AssertionError, subprocess.TimeoutExpired):
                return False  # it refuses until it has begun

        if with_limit(answered, STARTED_WITHIN):
            if child.poll() is None:
                return
            what = f"{name} ended with {child.returncode}"
        else:
            what = f"{name} was not ready within {STARTED_WITHIN:g} s"
        said = (self.folder / f"{name}.out").read_text(errors="replace").splitlines()[-3:]
        raise CannotStart(f"{what}: {' | '.join(said)}")

    def _stop(self) -> None:
        for child in reversed(self._children):
            child.terminate()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def check_installed() -> None:
    """Whether there is anything to start.

    Raises:
        CannotStart: there is not, or this is not root.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise CannotStart(
            f"{', '.join(missing)} not installed: apt-get install --no-install-recommends "
            "slurmd slurmctld slurm-client munge"
        )
    if os.geteuid() != 0:
        raise CannotStart("only root can start Slurm's daemons as this does")


def with_limit(done: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true within that time."""
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True


def answers(*command: str, env: Mapping[str, str]) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, env=dict(env), capture_output=True).returncode == 0


def run(command: list[object]) -> None:
    """Run a command that is needed to start.

    Raises:
        CannotStart: it failed.
    """
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise CannotStart(f"{command[0]}: {done.stderr.strip()}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main(command: list[str]) -> int:
    """Run a command with a Slurm around it."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with Slurm(Path(name) / "slurm") as slurm:
                return subprocess.run(command, env=slurm.environment).returncode
        except CannotStart as error:
            print(f"no Slurm here: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
