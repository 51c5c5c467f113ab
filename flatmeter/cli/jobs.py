"""How many processes measure checkpoints side by side, and on which device each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flatmeter.config.layers import Configuration
from flatmeter.config.schema import Settings
from flatmeter.errors import UsageError


@dataclass(frozen=True)
class Order:
    """What a process is to do with every checkpoint that it is given.

    Args:
        configuration: of the run, with the process's own device.
        trust_pickle: run the code of files that cannot be read otherwise.
        threads: of PyTorch.
        neighbours: processes that share the memory.
        resumes: what earlier runs have found is not measured again.
    """

    configuration: Configuration
    trust_pickle: bool
    threads: int
    neighbours: int
    resumes: bool


@dataclass(frozen=True)
class Crew:
    """The processes that measure checkpoints of their own.

    Args:
        configuration: of the run.
        trust_pickle: run the code of files that cannot be read otherwise.
        count: of processes; 1 for this one alone.
        gpus: that PyTorch sees.
        threads: of PyTorch, for all together.
        resumes: what earlier runs have found is not measured again.
    """

    configuration: Configuration
    trust_pickle: bool
    count: int
    gpus: int
    threads: int
    resumes: bool

    @classmethod
    def of(
        cls,
        configuration: Configuration,
        checkpoints: int,
        ranks: int,
        *,
        trust_pickle: bool,
        resumes: bool,
    ) -> Crew:
        """The processes for some checkpoints on this machine.

        Args:
            configuration: of the run.
            checkpoints: that there are.
            ranks: processes that share each measurement.
            trust_pickle: run the code of files that cannot be read otherwise.
            resumes: what earlier runs have found is not measured again.

        Raises:
            UsageError: several are asked for where others share each measurement.
        """
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        count = processes(configuration.settings, checkpoints, ranks, gpus)
        return cls(configuration, trust_pickle, count, gpus, torch.get_num_threads(), resumes)

    def order(self, number: int) -> Order:
        """What one of them is to do.

        Args:
            number: of the process, from 0.
        """
        settings = self.configuration.settings
        device = device_of(settings.device, number, self.gpus)
        own = settings.model_copy(update={"device": device})
        return Order(
            replace(self.configuration, settings=own),
            self.trust_pickle,
            threads=max(1, self.threads // self.count),
            neighbours=self.count,
            resumes=self.resumes,
        )


def processes(settings: Settings, checkpoints: int, ranks: int, gpus: int) -> int:
    """How many processes measure checkpoints of their own.

    Args:
        settings: of the run.
        checkpoints: that there are.
        ranks: processes that share each measurement.
        gpus: that PyTorch sees.

    Raises:
        UsageError: several are asked for where others share each measurement.
    """
    wanted = settings.jobs
    if wanted == "auto":
        several = settings.device in ("auto", "cuda") and ranks == 1
        return max(1, min(gpus, checkpoints)) if several else 1
    if wanted > 1 and ranks > 1:
        raise UsageError(
            f"{ranks} processes were started together and share each measurement, so that none can "
            "have checkpoints of its own",
            where="--jobs",
            hint="leave out --jobs, or start one process: srun --ntasks=1 flatmeter measure …",
        )
    return max(1, min(wanted, checkpoints))


def device_of(device: str, number: int, gpus: int) -> str:
    """The device of one of several processes.

    Args:
        device: as it was asked for.
        number: of the process, from 0.
        gpus: that PyTorch sees.
    """
    if device in ("auto", "cuda") and gpus:
        return f"cuda:{number % gpus}"
    return "cpu" if device == "auto" else device
