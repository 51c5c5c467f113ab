"""Which strategy multiplies fastest here: timed once for each network, device and size of block."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flatmeter.curvature.strategies import Apply, Curvature
from flatmeter.errors import UsageError
from flatmeter.out_of_memory import ran_out
from flatmeter.randomness import derived_generator
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.variants import excerpt
from flatmeter.strategy import STRATEGIES, Strategy, is_batched, mode_of

WIDTHS = (1, 4, 16)
"""Sizes of block that are timed; another size is taken for the nearest below it."""

GAIN = 0.85
"""Another strategy must take less than this part of the plain one's time: timings are noisy, and
two runs should choose alike."""

PART, FEW, ENOUGH = 32, (4, 32), 0.03
"""A trial takes a 32nd of the samples, but 4 to 32, and more where their gradient takes less than
0.03 s: of few samples the calls are timed and not the work."""

LONG = 0.3
"""Seconds from which one run is timed and not the better of two."""

Times = Mapping[Strategy, float]
"""Seconds for each vector, of the strategies that work."""

_TIMED: dict[Hashable, Times] = {}
_STRUCTURES: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_RIGHT: WeakKeyDictionary[nn.Module, dict[Hashable, bool]] = WeakKeyDictionary()


def choose(risk: EmpiricalRisk, curvature: Curvature, k: int) -> Strategy:
    """The strategy for products with blocks of ``k`` vectors.

    Reverse over reverse, vector by vector, unless another is clearly faster on some of the samples
    and gives the same product on this very network and all its data. Forward derivatives do not
    honour what backward ones do: ``torch.no_grad``, the padding of an embedding, the ``backward``
    of a custom function.

    Args:
        risk: the empirical risk; its ``strategy`` is taken where it names one.
        curvature: the kind of matrix.
        k: vectors in a block.

    Raises:
        UsageError: the strategy that was named fails or gives another product.
    """
    if risk.strategy != "auto":
        if not _gives_the_same(risk, curvature, risk.strategy):
            raise UsageError(
                f"the strategy {risk.strategy} does not give the product of reverse on this "
                "network",
                where="--strategy",
                hint="its forward pass holds something that only backward derivatives know, such "
                "as torch.no_grad; leave the option out",
            )
        return risk.strategy
    if torch.are_deterministic_algorithms_enabled():
        return "reverse"
    times = seconds(risk, curvature, k)
    enough = GAIN * times.get("reverse", 0.0)
    for strategy in sorted(times, key=lambda s: times[s]):
        if times[strategy] > enough:
            break
        if _gives_the_same(risk, curvature, strategy):
            return strategy
    return "reverse"


def seconds(risk: EmpiricalRisk, curvature: Curvature, k: int) -> Times:
    """Seconds for each vector of a block of ``k``, on some of the samples, by strategy.

    Timed once for networks that are built alike. Strategies that fail are left out.
    """
    width = max(w for w in WIDTHS if w <= k)
    key = (curvature.name, width, *_setting(risk))
    if key not in _TIMED:
        at_once = risk.vectors_at_once(width)
        _TIMED[key] = _times(_Trial.long(risk, curvature), width, at_once, risk.graphs_fit)
    return _TIMED[key]


def _setting(risk: EmpiricalRisk) -> tuple[Hashable, ...]:
    """What decides the speed."""
    if risk.module not in _STRUCTURES:
        kind = type(risk.module)
        text = f"{kind.__module__}.{kind.__qualname__} {risk.module!r} {risk.space.dim}"
        _STRUCTURES[risk.module] = hashlib.sha256(text.encode()).hexdigest()
    return (
        _STRUCTURES[risk.module],
        tuple(risk.data.inputs.shape[1:]),
        risk.loss.name,
        str(risk.device),
        risk.dtype,
        risk.samples_interact,
        risk.graphs_fit,
        min(risk.batch_size, risk.n).bit_length(),
        torch.get_num_threads(),
    )


def _times(trial: _Trial, width: int, at_once: int, kept: bool) -> Times:
    found: dict[Strategy, float] = {}
    for strategy in STRATEGIES:
        if is_batched(strategy) and at_once == 1:
            continue
        try:
            found[strategy] = trial.seconds(strategy, width, at_once, kept)
        except Exception:
            # Whatever the reason, others may do; without any the caller takes the plain one.
            continue
    return found


def _gives_the_same(risk: EmpiricalRisk, curvature: Curvature, strategy: Strategy) -> bool:
    """The strategy gives the product of reverse over reverse, on all of this process's data."""
    if strategy == "reverse":
        return True
    known = _RIGHT.setdefault(risk.module, {})
    key = (curvature.name, strategy, risk.loss.name, risk.n)
    if key not in known:
        try:
            known[key] = _agree(risk, curvature, strategy)
        except Exception as error:
            if ran_out(error):
                raise
            known[key] = False
    return known[key]


def _agree(risk: EmpiricalRisk, curvature: Curvature, strategy: Strategy) -> bool:
    """The products of every micro-batch agree, and the buffers are left alone.

    Not counted in the cost, which is to be the same whatever clocks say.
    """
    V = _vectors(risk, 2 if is_batched(strategy) else 1)
    own = excerpt(risk, risk.n, risk.dtype)
    before = [b.clone() for b in own.module.buffers()]
    off = scale = 0.0
    for x, y in risk.batches():
        plain, other = (_linearised(own, curvature, s, x, y) for s in ("reverse", strategy))
        expected = torch.cat([plain(v[None], keep=True) for v in V]).double()
        off += float((other(V, keep=False).double() - expected).square().sum())
        scale += float(expected.square().sum())
    untouched = all(map(torch.equal, before, own.module.buffers()))
    return untouched and off <= torch.finfo(risk.dtype).eps * scale


def _linearised(
    risk: EmpiricalRisk, curvature: Curvature, strategy: Strategy, x: Tensor, y: Tensor
) -> Apply:
    point = risk.theta.clone().requires_grad_()
    return curvature.linearise(mode_of(strategy), risk, point, x, y)


def _vectors(risk: EmpiricalRisk, k: int) -> Tensor:
    rows = torch.randn(k, risk.space.dim, generator=derived_generator(0, "strategy"))
    return rows.to(risk.device, risk.dtype)


class _Trial:
    """Products on the first samples, with a copy of the network."""

    def __init__(self, risk: EmpiricalRisk, curvature: Curvature, n: int) -> None:
        self.curvature = curvature
        self.risk = excerpt(risk, n, risk.dtype)
        self.x, self.y = self.risk.first_batch()

    @classmethod
    def short(cls, risk: EmpiricalRisk, curvature: Curvature) -> _Trial:
        """Of few samples."""
        least, most = FEW
        return cls(risk, curvature, min(risk.n, max(least, min(risk.n // PART, most))))

    @classmethod
    def long(cls, risk: EmpiricalRisk, curvature: Curvature) -> _Trial:
        """Of more where they are quick."""
        trial = cls.short(risk, curvature)
        n = len(trial.x)
        most = risk.bn_batch if risk.samples_interact else risk.batch_size
        wanted = min(int(n * ENOUGH / _shorter(trial.risk.gradient, risk.device)), most, risk.n)
        return cls(risk, curvature, wanted) if wanted > n else trial

    def seconds(self, strategy: Strategy, width: int, at_once: int, kept: bool) -> float:
        """For each vector of a block; with the share of building the graph where it is not kept."""
        V = _vectors(self.risk, at_once if is_batched(strategy) else 1)
        build = 0.0 if kept else _shorter(lambda: self._build(strategy), self.risk.device)
        apply = self._build(strategy)
        taken = _shorter(lambda: apply(V, keep=True), self.risk.device)
        return taken / len(V) + build / width

    def _build(self, strategy: Strategy) -> Apply:
        return _linearised(self.risk, self.curvature, strategy, self.x, self.y)


def _shorter(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the shorter of two runs, or of one that is long."""
    taken: list[float] = []
    while len(taken) < 2 and sum(taken) < LONG:
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-6)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
