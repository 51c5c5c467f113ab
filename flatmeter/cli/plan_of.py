"""Settings into a plan, and into what reads checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from flatmeter.config.layers import Configuration
from flatmeter.config.schema import Settings
from flatmeter.plan import Plan, choose
from flatmeter.runner import settle_device
from flatmeter.subject import Loader


def plan_of(settings: Settings, origins: Mapping[str, str], tell: Callable[[str], None]) -> Plan:
    """How settings want checkpoints to be measured.

    Args:
        settings: of the run.
        origins: where each was set, for messages.
        tell: given a sentence for each broken plugin that is left out.

    Raises:
        UsageError: an unknown measure, option or device.
    """
    s = settings
    if s.deterministic:
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return Plan(
        measures=choose(s.measures, s.options, origins, tell),
        bn=s.bn,
        bn_batch=s.bn_batch,
        seed=s.seed,
        dtype=s.dtype,
        device=settle_device(s.device),
        rtol=s.rtol,
        confidence=s.confidence,
        max_products=s.max_products,
        weight_decay=s.weight_decay,
        lr=s.lr,
        params=s.params,
        batch_size=None if s.batch_size == "auto" else s.batch_size,
        strategy=s.strategy,
    )


def loader_of(
    configuration: Configuration,
    tell: Callable[[str], None],
    *,
    trust_pickle: bool = False,
    many: bool = False,
) -> Loader:
    """What reads checkpoints as settings say.

    Args:
        configuration: of the run.
        tell: given a sentence before minutes are spent on what networks look like.
        trust_pickle: run the code of files that cannot be read otherwise.
        many: what checkpoints have in common is found out once.
    """
    s = configuration.settings
    return Loader(
        configuration.given,
        samples=None if s.samples == "all" else s.samples,
        seed=s.seed,
        project=configuration.project,
        tell=tell,
        trust_pickle=trust_pickle,
        many=many,
    )
