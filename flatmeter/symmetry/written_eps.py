"""The ε of normalisations that are written out, as in ``x * rsqrt(mean(x²) + ε)``."""

from __future__ import annotations

from torch.fx import Node

from flatmeter.symmetry.export import Call

LARGEST = 1e-3
"""A number up to this that keeps a divisor from zero is its ε."""

CARRIERS = {"expand_as", "expand", "sqrt", "to", "_to_copy", "view", "unsqueeze", "reshape"}
"""Hand a divisor on."""


def adds_eps(call: Call) -> bool:
    """Only keeps a divisor from zero, so that it is homogeneous as far as ε is negligible."""
    if call.name == "add":
        eps = call["other"]
    elif call.name in ("clamp", "clamp_min") and call["max"] is None:
        eps = call["min"]
    else:
        return False
    return isinstance(eps, (int, float)) and 0 < eps <= LARGEST and _only_divides(call.node)


def _only_divides(divisor: Node) -> bool:
    """Everything that uses a number divides by it, perhaps after a root of it was taken."""
    users = [user for user in divisor.users if "_assert" not in str(user.target)]
    return bool(users) and all(_divides(user, divisor) for user in users)


def _divides(user: Node, divisor: Node) -> bool:
    name = getattr(user.target, "_opname", "")
    if name == "div":
        return user.args[0] is not divisor
    if user.args[0] is not divisor:
        return False
    if name == "pow":
        exponent = user.args[1]
        if exponent == 0.5:
            return _only_divides(user)
        return isinstance(exponent, (int, float)) and exponent < 0
    return name in ("rsqrt", "reciprocal") or (name in CARRIERS and _only_divides(user))
