"""What products, quotients and powers demand of channels.

Identifiers cannot express the sum of two scales, so that of two factors that both move one is held
fixed, unless their scales cancel: what is divided by its own norm holds still. Powers in between,
as in ``x * rsqrt(mean(x²) + ε)``, are kept as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.channel_equations import ChannelEquations, Power, ndim
from flatmeter.symmetry.channel_scales import Scale, fixed
from flatmeter.symmetry.export import Call
from flatmeter.symmetry.written_eps import adds_eps


def product(equations: ChannelEquations, call: Call) -> Scale | None:
    """A factor that holds still changes nothing; a parameter leads from channel to channel."""
    factors = [x for x in (call["self"], call["other"]) if isinstance(x, Node)]
    if len(factors) == 1:
        return equations.of(factors[0])
    left, right = (equations.of(x) for x in factors)
    if right.is_fixed or left.is_fixed:
        kept, still = (left, right) if right.is_fixed else (right, left)
        return Scale(_broadcast(kept.plus, still.plus), _broadcast(kept.minus, still.minus))
    for x, w in ((left, right), (right, left)):
        if w.minus.any() and not x.minus.any():
            equations.ids.same(w.minus, x.plus)
            return Scale(_broadcast(w.plus, x.plus), _broadcast(x.minus, w.minus))
    if left.minus.any() or right.minus.any():
        return None
    if equations.ids.agree(left.plus, -right.plus):
        return fixed(ndim(call.node))
    # Hold the smaller factor, such as a gate for every sample.
    few = 0 if left.plus.numel() < right.plus.numel() else 1
    equations.fix(factors[few])
    kept = (right, left)[few]
    return Scale(_broadcast(kept.plus, (left, right)[few].plus), kept.minus)


def quotient(equations: ChannelEquations, call: Call) -> Scale | None:
    """By what holds still, or by what scales alike."""
    if call["rounding_mode"] is not None:
        return None
    scale, divisor = equations.of(call["self"]), equations.of(call["other"])
    if not divisor.is_fixed:
        cancels = equations.ids.agree(scale.plus, divisor.plus)
        if cancels and equations.ids.agree(scale.minus, divisor.minus):
            return fixed(ndim(call.node))
        equations.fix(call["other"])
    return Scale(_broadcast(scale.plus, divisor.plus), _broadcast(scale.minus, divisor.minus))


def _broadcast(ids: Tensor, like: Tensor) -> Tensor:
    return ids.reshape((*[1] * (like.ndim - ids.ndim), *ids.shape))


def power(equations: ChannelEquations, call: Call) -> Scale | Power | None:
    """A power, or an operator that hands one on; ``None`` where it is neither."""
    found = _power(equations, call)
    if found is None or found.degree not in (1, -1):
        return found
    scale = found.scale
    return scale if found.degree == 1 else Scale(-scale.plus, -scale.minus)


def _power(equations: ChannelEquations, call: Call) -> Power | None:
    source = call["self"]
    if not isinstance(source, Node):
        return None
    before = equations.powers.get(source)
    exponent = known.POWERS.get(call.name, call["exponent"] if call.name == "pow" else None)
    if call.name == "mul" and call["other"] is source:
        exponent = 2
    if exponent is not None and call.name != "var":
        if not isinstance(exponent, (int, float)):
            return None
        base = before or Power(equations.of(source), Fraction(1))
        return Power(base.scale, base.degree * Fraction(exponent))
    if call.name == "var" and before is None:
        return Power(reduced(equations, equations.of(source), call), Fraction(2))
    if before is None:
        return None
    if call.name in ("mean", "sum"):
        return Power(reduced(equations, before.scale, call), before.degree)
    is_handed_on = call.name in known.CASTS or adds_eps(call)
    return before if is_handed_on or _scales_by_number(call) else None


def _scales_by_number(call: Call) -> bool:
    return call.name in ("mul", "div") and isinstance(call["other"], (int, float))


def reduced(equations: ChannelEquations, scale: Scale, call: Call) -> Scale:
    """The scale of sums, means and norms over some dimensions, along which it must not vary."""
    dim, total = call["dim"], scale.plus.ndim
    dims: Sequence[int] = (
        range(total) if dim in (None, []) else [dim] if isinstance(dim, int) else dim
    )
    plus, minus = (equations.ids.uniform(ids, dims) for ids in (scale.plus, scale.minus))
    if call["keepdim"]:
        return Scale(plus, minus)
    gone = {d % total for d in dims}
    kept = [[n for d, n in enumerate(ids.shape) if d not in gone] for ids in (plus, minus)]
    return Scale(plus.reshape(kept[0]), minus.reshape(kept[1]))
