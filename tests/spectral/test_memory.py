from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flatmeter.spectral.memory import spare_bytes


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no /proc/meminfo")
def test_cpu_memory_is_a_share_of_what_the_kernel_reports() -> None:
    spare = spare_bytes(torch.device("cpu"))
    assert spare is not None
    total = next(x for x in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in x)
    assert 0 < spare < 1024 * int(total.split()[1])


def test_unknown_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert spare_bytes(torch.device("cpu")) is None
