"""What launchers say of a process's place."""

import pytest

from flatmeter.errors import UsageError
from flatmeter.ranks.launch import Place, array_task, first_host, launched

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "other[1-9]",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1(x2)",
}


def test_torchrun():
    place = Place(rank=5, size=8, local_rank=1, neighbours=4, host="node1", port=29500)
    assert launched(TORCHRUN) == place
    assert launched({**SRUN, **TORCHRUN}) == place


def test_srun():
    place = launched(SRUN)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.neighbours) == (4, 6, 0, 2)
    assert place.host == "gpu03"
    assert 20000 <= place.port < 30000
    assert launched({**SRUN, "SLURM_PROCID": "0"}).port == place.port
    assert launched({**SRUN, "SLURM_STEP_ID": "3"}).port != place.port
    own = launched({**SRUN, "MASTER_ADDR": "me", "MASTER_PORT": "7"})
    assert (own.host, own.port) == ("me", 7)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "4"},  # of another launcher, which says not where to meet
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
        # a shell of salloc
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "a[1-2]"},
        # a batch script, which is the first task of a job of four
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
)
def test_a_process_alone(environment):
    assert launched(environment) is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("cpu1,gpu[03-05]", "cpu1"),
        ("a-b[7,9-12]", "a-b7"),
        ("r[1-2]n[04-08]", "r1n04"),
        ("single.example.org", "single.example.org"),
        ("", "localhost"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_nonsense_is_named():
    with pytest.raises(UsageError, match="WORLD_SIZE"):
        launched({**TORCHRUN, "WORLD_SIZE": "many"})


def array(own, count, first=0, **more):
    numbers = {"ID": own, "COUNT": count, "MIN": first, **more}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("environment", "task"),
    [
        (array(0, 4), (1, 4)),
        (array(3, 4), (4, 4)),
        (array(1, 4, 1), (1, 4)),
        (array(15, 3, 5, STEP=5), (3, 3)),
    ],
)
def test_task_of_an_array(environment, task):
    assert array_task(environment) == task


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "this is none"),
        (array(17, 2, 3), "gaps between their numbers, which task 17 cannot count"),
        (array(4, 3, 1, STEP=2), "gaps"),
        (array("x", 3), "SLURM_ARRAY_TASK_ID"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT"),
    ],
)
def test_what_is_no_task_of_an_array(environment, text):
    with pytest.raises(UsageError, match=text):
        array_task(environment)
