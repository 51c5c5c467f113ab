"""``flatmeter.measure``: the measures of sharpness of a network, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from flatmeter.config.device import check_device
from flatmeter.data.dataset import Dataset
from flatmeter.data.sources import as_dataset, load_data
from flatmeter.errors import UsageError
from flatmeter.execution import run
from flatmeter.measures.base import BNMode, Measure
from flatmeter.plan import Plan, choose
from flatmeter.provenance import describe_run
from flatmeter.ranks.group import ALONE, current, using
from flatmeter.ranks.join import joined_by_script
from flatmeter.results.collection import Results
from flatmeter.strategy import Strategy
from flatmeter.subject import DataSpec, LossSpec, Subject, load, settle_loss
from flatmeter.watch import Watch
from flatmeter.workbench import fingerprint

SAMPLES = 4096
"""Samples that are measured on unless somebody says otherwise."""


def measure(
    subject: Subject | nn.Module | str | Path,
    measures: str | Sequence[str | Measure | type[Measure]] = "all",
    *,
    data: DataSpec | None = None,
    loss: LossSpec | None = None,
    samples: int | None = SAMPLES,
    seed: int = 0,
    bn: BNMode | None = None,
    bn_batch: int = 256,
    batch_size: int | None = None,
    weight_decay: float = 0.0,
    lr: float | None = None,
    params: str | None = None,
    rtol: float | None = None,
    confidence: float = 0.95,
    max_products: int | None = None,
    max_time: float | None = None,
    device: str = "auto",
    dtype: str = "float32",
    strategy: Strategy | Literal["auto"] = "auto",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[str], None] | None = None,
    distributed: bool = False,
) -> Results:
    """Measure the sharpness of a trained network.

    >>> results = flatmeter.measure(net, "minimum_sharpness", data=(x, y))
    >>> results.value("minimum_sharpness")

    Args:
        subject: what :func:`flatmeter.load` gave, a checkpoint's path, or a network in memory
            (which is not changed).
        measures: a name, several, measure classes or instances, or ``all``.
        data: for a network in memory: a :class:`flatmeter.Dataset`, ``(inputs, targets)``, a
            PyTorch data set of pairs, or a source such as ``"digits:train"``.
        loss: that it was trained with; cross-entropy if left out and targets are class labels.
        samples: size of the seeded subset of the data, ``None`` for all; what was loaded before
            keeps its data unless fewer are asked for.
        seed: of the subset and of every random vector.
        bn: batch-norm by stored statistics (``eval``) or each batch's own (``batch``); each
            measure's default if left out.
        bn_batch: samples per batch of statistics in mode ``batch``.
        batch_size: samples per micro-batch; changes no number.
        weight_decay: coefficient of ``½ ‖w‖²`` in the training loss.
        lr: learning rate of the training, for the edge-of-stability ratio.
        params: measure only parameters whose names match this pattern.
        rtol: relative tolerance; each measure's default if left out.
        confidence: coverage of the intervals.
        max_products: most curvature products that one measure may spend; for traces most probes,
            of one or two products each.
        max_time: seconds after which the run stops.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``float32``, ``float64``, or ``bfloat16`` (the network in it, sums and vectors in
            float32).
        strategy: how curvature products are computed: ``auto``, ``reverse``, ``reverse-batched``,
            ``forward`` or ``forward-batched``; changes no number.
        options: of measures, by name, such as ``{"minimum_sharpness": {"granularity": "neuron"}}``.
        progress: told in words what is being done.
        distributed: share the work among all processes of ``torch.distributed``, which the script
            has initialised; every one of them must make this call, and gets the same rows. Left
            out, this process measures alone whatever others there are.

    Returns:
        The rows of every measure. One that failed or does not apply has a row that says why.

    Raises:
        FlatmeterError: nothing can be measured (wrong data, no second derivative, …), or the time
            is up.
    """
    shared = joined_by_script(gpus=device != "cpu") if distributed else nullcontext(ALONE)
    with shared as ranks, using(ranks), ranks.together("measure"):
        subject = as_subject(subject, data=data, loss=loss, samples=samples, seed=seed)
        plan = Plan(
            measures=choose(measures, options),
            bn=bn,
            bn_batch=bn_batch,
            seed=seed,
            dtype=dtype,
            device=settle_device(device),
            rtol=rtol,
            confidence=confidence,
            max_products=max_products,
            weight_decay=weight_decay,
            lr=lr,
            params=params,
            batch_size=batch_size,
            strategy=strategy,
        )
        watch = Watch(progress, max_time)
        rows = [row for finished in run(subject, plan, watch) for row in finished.rows]
        return Results(rows, describe_run(plan, [subject]))


def as_subject(
    subject: Subject | nn.Module | str | Path,
    *,
    data: DataSpec | None,
    loss: LossSpec | None,
    samples: int | None,
    seed: int,
) -> Subject:
    """A subject from whatever a Python user holds.

    Raises:
        UsageError: a network in memory without data.
    """
    if isinstance(subject, (str, Path)):
        return load(subject, data=data, loss=loss, samples=samples, seed=seed)
    if isinstance(subject, Subject):
        if data is not None:
            subject = replace(subject, data=_dataset(data, samples, seed))
        elif samples not in (None, SAMPLES):
            subject = replace(subject, data=_dataset(subject.data, samples, seed))
        if loss is not None:
            subject = replace(subject, loss=settle_loss(loss, subject.data, subject.name)[0])
        return subject
    if data is None:
        raise UsageError(
            "a network in memory needs data", hint='give data=(inputs, targets) or data="digits"'
        )
    name = type(subject).__name__
    dataset = _dataset(data, samples, seed)
    settled, notes = settle_loss(loss, dataset, where=name)
    return Subject(
        name, subject, dataset, settled, fingerprint(subject), {}, (*dataset.notes, *notes)
    )


def _dataset(data: DataSpec, samples: int | None, seed: int) -> Dataset:
    if isinstance(data, str):
        return load_data(data, samples=samples, seed=seed)
    return as_dataset(data, name="data", samples=samples, seed=seed)


def settle_device(device: str) -> str:
    """``cuda`` where there is one for ``auto``; of several processes, each its own.

    Raises:
        UsageError: no name of a device, or of one that this machine does not have.
    """
    try:
        check_device(device)
    except ValueError as error:
        raise UsageError(f"device cannot be {device!r}: {error}", where="--device") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    ranks = current()
    if device == "cuda" and ranks.gpu is not None:
        return f"cuda:{ranks.gpu}"
    if ranks.size > 1 and device.startswith("cuda:"):
        raise UsageError(
            f"{device} is one GPU, and {ranks.size} processes share the measurement",
            where="--device",
            hint="with --device cuda each takes the GPU of its number",
        )
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= count:
        raise UsageError(
            f"there is no device {device}: PyTorch sees {count} GPUs", where="--device"
        )
    return device
