"""One subject under one plan: risks, symmetry groups and evaluation, each made once."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from flatmeter.curvature.products import HessianOperator
from flatmeter.errors import FlatmeterError, OutOfMemory, Stopped, UsageError
from flatmeter.measures.base import BNMode, Measure
from flatmeter.measures.context import Context
from flatmeter.out_of_memory import ran_out
from flatmeter.plan import Plan
from flatmeter.ranks.group import current
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.evaluation import Evaluation, evaluate
from flatmeter.risk.non_finite import raise_non_finite
from flatmeter.risk.preflight import preflight
from flatmeter.subject import Subject
from flatmeter.symmetry.find import find_group
from flatmeter.symmetry.group import SymmetryGroup
from flatmeter.symmetry.other_inputs import enough_samples
from flatmeter.watch import Watch


class Workbench:
    """Makes what measures compute from, lazily, and shares it between them.

    Args:
        subject: what is measured.
        plan: how.
    """

    def __init__(self, subject: Subject, plan: Plan) -> None:
        self.subject, self.plan = subject, plan
        self.model = with_fixed(subject.model, plan.params) if plan.params else subject.model
        self.batch_size = plan.batch_size
        self._risks: dict[BNMode, EmpiricalRisk] = {}
        self._groups: dict[BNMode, SymmetryGroup] = {}
        self._prints: dict[BNMode, str] = {}

    def risk(self, bn: BNMode) -> EmpiricalRisk:
        """The empirical risk with batch-norm in a mode; the same object for both without one."""
        bn = bn if self.subject.has_batch_norm else "eval"
        if bn not in self._risks:
            risk = EmpiricalRisk(
                self.model,
                self.subject.loss,
                self.subject.data,
                bn=bn,
                batch_size=self.batch_size,
                bn_batch=self.plan.bn_batch,
                device=self.plan.device,
                dtype=self.plan.torch_dtype(),
                forward_dtype=self.plan.forward_dtype(),
                strategy=self.plan.strategy,
                weight_decay=self.plan.weight_decay,
            )
            self._risks[bn] = risk
            self._prints[bn] = fingerprint(risk.module)
        return self._risks[bn]

    def group(self, bn: BNMode) -> SymmetryGroup:
        """The symmetry group of the network in that mode."""
        bn = bn if self.subject.has_batch_norm else "eval"
        if bn not in self._groups:
            risk = self.risk(bn)
            with risk.math_attention():
                inputs = risk.example_inputs(enough_samples(risk.example_inputs(1)[0]))
                self._groups[bn] = find_group(risk.module, inputs, risk.space.names)
        return self._groups[bn]

    def prepare(self) -> tuple[Evaluation, tuple[str, ...]]:
        """Preflight and evaluation, in the network's own mode.

        Returns:
            Loss and accuracy over all the data, and what the preflight had to say.

        Raises:
            FlatmeterError: nothing can be measured; says why.
        """
        while True:
            try:
                with current().together("preflight"):
                    risk = self.risk("eval")
                    notes = preflight(risk)
                    evaluation = evaluate(risk)
                break
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                self.retreat("eval", error)
        if not abs(evaluation.loss) < float("inf"):
            with current().together("what is not finite"):
                raise_non_finite(risk)
        return evaluation, notes

    def context(self, measure: Measure, watch: Watch, saved: Mapping[str, np.ndarray]) -> Context:
        """What a measure is given, with the state of an earlier measurement."""
        bn = self.plan.mode(measure)
        risk = self.risk(bn)
        return Context(
            risk=risk,
            bn=risk.bn,
            group=lambda: self.group(bn),
            rtol=self.plan.rtol,
            confidence=self.plan.confidence,
            max_products=self.plan.max_products,
            seed=self.plan.seed,
            progress=watch.within(f"{self.subject.name}: {measure.name}"),
            lr=self.plan.lr,
            training_weight_decay=self.plan.weight_decay or None,
            saved=saved,
        )

    def rounding(self, bn: BNMode) -> float | None:
        """Relative error of a Hessian product in this dtype; ``None`` where none can be taken."""
        try:
            with current().together("rounding"):
                return HessianOperator(self.risk(bn)).noise
        except Stopped:
            raise
        except (FlatmeterError, RuntimeError, MemoryError):
            return None

    def retreat(self, bn: BNMode, error: BaseException) -> None:
        """Halve the micro-batch after memory ran out, and keep the graph of one at a time.

        Raises:
            OutOfMemory: the batch cannot be made smaller.
        """
        with current().together("smaller batches"):
            self._halve(bn, error)

    def _halve(self, bn: BNMode, error: BaseException) -> None:
        risk = self._risks.get(bn if self.subject.has_batch_norm else "eval")
        self._risks.clear()
        if self.plan.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if risk is not None and risk.samples_interact and self.batch_size is not None:
            raise OutOfMemory(
                f"memory ran out for one batch of {self.plan.bn_batch} samples",
                hint="these batches are part of the definition where batch-norm uses each batch's "
                "own statistics: a smaller --bn-batch fits, and is another number",
            ) from error
        own = 1 if risk is None else _largest_batch(risk)
        # Memory need not have run out in this process; the largest batch is the one to be halved.
        largest = -current().least(-own)
        if largest <= 1 and self.batch_size is not None:
            raise OutOfMemory(
                "memory ran out with one sample, one vector and one class at a time",
                hint="--batch-size, blocks of vectors and blocks of classes are as small as they "
                "get: use a device with more memory, --params to measure a part of the network, or "
                "float32",
            ) from error
        self.batch_size = max(1, largest // 2)

    def check_untouched(self, bn: BNMode, measure: Measure) -> None:
        """Parameters and buffers that measures share are as they were.

        Raises:
            FlatmeterError: the measure changed them; the next one gets fresh copies.
        """
        bn = bn if self.subject.has_batch_norm else "eval"
        risk = self._risks.get(bn)
        if risk is not None and fingerprint(risk.module) != self._prints[bn]:
            del self._risks[bn]
            raise FlatmeterError(
                f"{measure.name} changed the network's parameters or buffers while measuring",
                hint="its value would belong to another network; this is a bug of the measure",
            )


def fingerprint(module: nn.Module) -> str:
    """Hash of every parameter and buffer: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def _largest_batch(risk: EmpiricalRisk) -> int:
    try:
        return min(risk.batch_size, risk.held)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return 1


def with_fixed(model: nn.Module, pattern: str) -> nn.Module:
    """A copy of which only the parameters that match the pattern are trainable.

    Raises:
        UsageError: none does.
    """
    model = copy.deepcopy(model)
    names = [name for name, _ in model.named_parameters()]
    if not fnmatch.filter(names, pattern):
        close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
        raise UsageError(
            f"no parameter is named like {pattern!r}",
            where="--params",
            hint=f"names are for example {', '.join(close)}",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and fnmatch.fnmatchcase(name, pattern))
    return model
