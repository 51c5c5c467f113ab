"""Meeting the processes that were started together with this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from flatmeter.errors import LostProcess, UsageError
from flatmeter.ranks.group import Ranks
from flatmeter.ranks.launch import Place


@contextmanager
def joined(place: Place, *, gpus: bool, timeout: float) -> Iterator[Ranks]:
    """The processes that a launcher started, met.

    Args:
        place: of this process.
        gpus: tensors may be on GPUs.
        timeout: seconds for which one may keep the others waiting.

    Raises:
        LostProcess: not all of them came.
        UsageError: this PyTorch knows no other processes.
    """
    if not dist.is_available():
        raise UsageError("this PyTorch was built without torch.distributed: measure with 1 process")
    wait = timedelta(seconds=timeout)
    os.environ.update(MASTER_ADDR=place.host, MASTER_PORT=str(place.port))
    # A lost process is to raise in the others, not to end them from a thread of NCCL's.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        store, _, _ = next(iter(rendezvous("env://", place.rank, place.size, timeout=wait)))
        store = dist.distributed_c10d.PrefixStore("flatmeter", store)
        dist.init_process_group(
            "gloo", store=store, rank=place.rank, world_size=place.size, timeout=wait
        )
    except RuntimeError as error:
        raise LostProcess(
            f"process {place.rank} could not meet all {place.size} processes at {place.host}:"
            f"{place.port}: {str(error).splitlines()[0]}",
            hint="start them together by torchrun or srun; to measure with this process alone, "
            "unset WORLD_SIZE (torchrun) or SLURM_STEP_NUM_TASKS (Slurm)",
        ) from error
    gpu = own_gpu(place.local_rank) if gpus else None
    ranks = Ranks(
        place.rank,
        place.size,
        neighbours=place.neighbours,
        gpu=gpu,
        control=dist.group.WORLD,
        data=_data_group(gpu, wait),
        store=store,
    )
    try:
        yield ranks
        if ranks.broken is None:
            # gloo aborts a process whose neighbour is gone while it still ends a meeting.
            with suppress(RuntimeError):
                dist.barrier(dist.group.WORLD)
    finally:
        if ranks.broken is None:
            dist.destroy_process_group()


@contextmanager
def joined_by_script(*, gpus: bool) -> Iterator[Ranks]:
    """The processes of a script that has initialised torch.distributed itself.

    Raises:
        UsageError: it has not.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "distributed=True needs torch.distributed.init_process_group before it",
            hint="leave it out to measure with this process alone",
        )
    size = dist.get_world_size()
    gpu = torch.cuda.current_device() if gpus and torch.cuda.is_available() else None
    control = dist.new_group(backend="gloo")
    hosts: list[str] = [""] * size
    dist.all_gather_object(hosts, socket.gethostname(), control)
    data = dist.group.WORLD if gpu is not None and dist.get_backend() == "nccl" else None
    neighbours = hosts.count(socket.gethostname())
    ranks = Ranks(dist.get_rank(), size, neighbours=neighbours, gpu=gpu, control=control, data=data)
    try:
        yield ranks
    finally:
        if ranks.broken is None:
            dist.destroy_process_group(control)


def own_gpu(local_rank: int) -> int | None:
    """The GPU of a process among those on its machine; ``None`` where there is none.

    A launcher may also show each process its own GPU only.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return local_rank % count if count else None


def _data_group(gpu: int | None, wait: timedelta) -> dist.ProcessGroup | None:
    """NCCL where every process has a GPU to itself, which it insists on."""
    own = None
    if gpu is not None:
        torch.cuda.set_device(gpu)
        own = (socket.gethostname(), str(torch.cuda.get_device_properties(gpu).uuid))
    owners: list[tuple[str, str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(owners, own)
    if None in owners or len(set(owners)) < len(owners):
        return None
    group: dist.ProcessGroup = dist.new_group(backend="nccl", timeout=wait)
    return group
