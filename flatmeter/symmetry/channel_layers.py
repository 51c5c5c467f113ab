"""What layers with parameters demand of the channels they join."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.channel_equations import ChannelEquations, ndim, pure_scale
from flatmeter.symmetry.channel_scales import Scale, fixed
from flatmeter.symmetry.export import Call, is_scaled


def matmul(equations: ChannelEquations, call: Call) -> Scale | None:
    """By a matrix that is a parameter, or with a factor that holds still."""
    left, right = (call["self"], call["other"] if call["mat2"] is None else call["mat2"])
    return _matrix_product(equations, left, right)


def addmm(equations: ChannelEquations, call: Call) -> Scale | None:
    """A product of matrices plus a bias."""
    out = _matrix_product(equations, call["mat1"], call["mat2"])
    if out is None:
        return None
    equations.ids.same(equations.pure(call["self"]), out.plus)
    return out


def _matrix_product(equations: ChannelEquations, left: Node, right: Node) -> Scale | None:
    if min(ndim(left), ndim(right)) < 2:
        return None
    ids = equations.ids
    if ndim(right) == 2 and (equations.open_parameter(right) or equations.of(right).minus.any()):
        out = ids.fresh(1, right.meta["val"].shape[1])
        equations.demand(right, out, channels_of(equations, left, -1).reshape(-1, 1))
        return pure_scale(out.reshape(*[1] * (ndim(left) - 1), -1))
    a, b = equations.of(left), equations.of(right)
    if a.is_fixed:
        out = ids.uniform(equations.pure(right), [-2])
    elif b.is_fixed:
        out = ids.uniform(equations.pure(left), [-1])
    elif left is right:
        return None
    else:
        # Scores: what a channel of the one factor gains that of the other loses.
        rows = ids.uniform(equations.pure(left), [-2])
        columns = ids.uniform(equations.pure(right), [-1])
        ids.same(rows.transpose(-1, -2), -columns)
        return fixed(max(ndim(left), ndim(right)))
    return pure_scale(out.reshape(*[1] * (max(ndim(left), ndim(right)) - out.ndim), *out.shape))


def vector_product(equations: ChannelEquations, call: Call) -> Scale | None:
    """A matrix or a vector times a vector that holds still, or the other way round."""
    left, right = call["self"], next(x for x in (call[n] for n in _SECOND) if x is not None)
    a, b = equations.of(left), equations.of(right)
    if b.is_fixed:
        return _summed(equations, a, -1)
    return _summed(equations, b, 0) if a.is_fixed else None


_SECOND = ("vec", "tensor", "other")


def _summed(equations: ChannelEquations, scale: Scale, dim: int) -> Scale:
    plus, minus = (equations.ids.uniform(x, [dim]).squeeze(dim) for x in (scale.plus, scale.minus))
    return Scale(plus, minus)


def channels_of(equations: ChannelEquations, node: Node, dim: int) -> Tensor:
    """One identifier for each place along a dimension, the same at all places along others."""
    plus, total = equations.pure(node), ndim(node)
    plus = equations.ids.uniform(plus, [d for d in range(total) if d != dim % total])
    return plus.reshape(-1).expand(node.meta["val"].shape[dim])


def affine(equations: ChannelEquations, call: Call) -> Scale | None:
    """Linear layers and convolutions, grouped and transposed ones too."""
    weight, groups = call["weight"], call["groups"] or 1
    if not isinstance(weight, Node) or ndim(weight) < 2:
        return None
    shape, spatial = weight.meta["val"].shape, ndim(weight) - 2
    channel = -1 - spatial
    source = channels_of(equations, call["input"], channel)
    transposed = call.name in known.TRANSPOSED
    width = shape[1] * groups if transposed else shape[0]
    is_output = call.node in equations.graph.outputs
    out = torch.zeros(width, dtype=torch.long) if is_output else equations.ids.fresh(width)
    if not equations.open_parameter(weight) and equations.of(weight).is_fixed:
        equations.ids.same(out, equations.ids.uniform(source, [0]))
        _shift(equations, call["bias"], out)
        return pure_scale(out.reshape(*[1] * (ndim(call.node) + channel), -1, *[1] * spatial))
    plus, minus = (source, out) if transposed else (out, source)
    # Rows belong to groups of rows, columns to their place within the group's channels.
    rows, columns = plus.reshape(-1, 1), minus.reshape(groups, -1)
    columns = columns.repeat_interleave(shape[0] // groups, 0) if groups > 1 else columns
    rows, columns = (x.reshape(*x.shape, *[1] * spatial) for x in (rows, columns))
    equations.demand(weight, *((columns, rows) if transposed else (rows, columns)))
    _shift(equations, call["bias"], out)
    return pure_scale(out.reshape(*[1] * (ndim(call.node) + channel), -1, *[1] * spatial))


def _shift(equations: ChannelEquations, bias: Node | None, out: Tensor) -> None:
    """What is added has the scale of what it is added to, unless it changes nothing."""
    if bias is None:
        return
    plus = equations.ids.fresh(*out.shape) if bias in equations.null else out
    equations.demand(bias, plus, torch.zeros_like(plus))


def norm(equations: ChannelEquations, call: Call) -> Scale:
    """Statistics are taken over some dimensions, in which the input must scale alike."""
    ids, node = equations.ids, call["input"]
    total = ndim(node)
    plus = equations.pure(node)
    if not known.uses_own_statistics(call):
        ids.fix(plus)
    if call.name in ("layer_norm", "rms_norm"):
        width = len(call["normalized_shape"])
        ids.uniform(plus, range(-width, 0))
        lead, shape = [1] * (total - width), tuple(call["normalized_shape"])
    else:
        channels = channels_of(equations, node, 1)
        if call.name == "group_norm":
            ids.uniform(channels.reshape(call["num_groups"], -1), [1])
        lead, shape = [1], (len(channels), *[1] * (total - 2))
    return _gained(equations, call, lead, shape)


def _gained(
    equations: ChannelEquations, call: Call, lead: list[int], shape: tuple[int, ...]
) -> Scale:
    """What a normalisation puts out: the scale of its gain, which its shift shares."""
    if call["weight"] is None:
        if call["bias"] is not None:
            equations.fix(call["bias"])
        return fixed(ndim(call.node))
    own = call["weight"].meta["val"].shape
    out = equations.ids.fresh(*own)
    equations.demand(call["weight"], out, torch.zeros_like(out))
    _shift(equations, call["bias"], out)
    return pure_scale(out.reshape(*lead, *shape))


def attention(equations: ChannelEquations, call: Call) -> Scale:
    """Scores hold still: what a query's channel gains the key's loses. Values keep theirs."""
    ids, mask = equations.ids, call["attn_mask"]
    if isinstance(mask, Node) and is_scaled(mask):
        equations.fix(mask)
    # All tokens share their scales.
    query, key, values = (ids.uniform(equations.pure(call[n]), [-2]) for n in _ATTENDING)
    if call["enable_gqa"]:
        heads = call["query"].meta["val"].shape[-3]
        key, values = (_for_each(x, call[n], heads) for x, n in ((key, "key"), (values, "value")))
    ids.same(query, -key)
    return pure_scale(values)


_ATTENDING = ("query", "key", "value")


def _for_each(plus: Tensor, node: Node, heads: int) -> Tensor:
    """Heads of keys or values, repeated so that every head of queries has one."""
    own = node.meta["val"].shape[-3]
    return plus if plus.shape[-3] == 1 else plus.repeat_interleave(heads // own, -3)


def embedding(equations: ChannelEquations, call: Call) -> Scale:
    """A row for every token: channels are the columns of the table."""
    out = equations.ids.fresh(1, call["weight"].meta["val"].shape[1])
    equations.demand(call["weight"], out, torch.zeros_like(out))
    return pure_scale(out.reshape(*[1] * (ndim(call.node) - 1), -1))


def weight_norm(equations: ChannelEquations, call: Call) -> Scale:
    """``g v / ‖v‖``: each part of v that is normalised is free, the result has g's scale."""
    direction, gain, dim = call["v"], call["g"], call["dim"]
    total = ndim(direction)
    kept = [] if dim == -1 else [dim]
    ids = equations.ids
    shape = [n if d in kept else 1 for d, n in enumerate(direction.meta["val"].shape)]
    free = ids.fresh(*shape)
    equations.demand(direction, free, torch.zeros_like(free))
    scale = equations.of(gain)
    lead = [1] * (total - scale.plus.ndim)
    return Scale(
        scale.plus.reshape(*lead, *scale.plus.shape), scale.minus.reshape(*lead, *scale.minus.shape)
    )
