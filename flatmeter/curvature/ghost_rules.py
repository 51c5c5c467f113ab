"""Per-sample parameter gradients of one operator, and their squared norms without forming them.

For a cotangent δ at an operator's output the gradient of sample i is ``G_i = Σ_t δ_it a_itᵀ``, with
``a`` the (unfolded) input and t running over the positions at which the weight is applied. Its
squared norm is ``Σ_tt' A_tt' ⟨δ_t, δ_t'⟩`` with the Gram matrix ``A_tt' = ⟨a_t, a_t'⟩``, which is
the smaller computation where there are few positions. All columns share ``a``, and are rows of one
matrix product with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatmeter.curvature.capture import Call

#: Most numbers formed at once of a few samples: what stays in a processor's caches is quickest.
FORMED = {"cpu": 2**20, "cuda": 2**27}
#: In float32 a norm below this has lost digits, for its square leaves the range of numbers.
SMALLEST = 1e-15


def squared_norms(call: Call, deltas: Tensor) -> dict[str, Tensor]:
    """Squared norm of every sample's gradient, for each parameter of the call.

    Args:
        call: the operator, with its input for n samples.
        deltas: cotangents ``[c, n, …]`` at its output.

    Returns:
        ``[c, n]`` in float64 by parameter name.
    """
    if call.kind == "linear" and call.input.dim() == 2:
        # One position: the bias's norm is a factor of the weight's.
        square = _sum_squares(deltas)
        named = {call.weight: square * _sum_squares(call.input.unsqueeze(0)), call.bias: square}
        return {name: norms for name, norms in named.items() if name is not None}
    out = {}
    if call.weight is not None:
        if call.kind in ("linear", "conv"):
            out[call.weight] = _factored_norms(call, deltas)
        elif call.kind == "embedding":
            out[call.weight] = _embedding_norms(call, deltas)
        else:
            out[call.weight] = _formed_norms(call, deltas)
    if call.bias is not None:
        out[call.bias] = _sum_squares(_bias(call, deltas))
    return out


def gradients(call: Call, deltas: Tensor) -> dict[str, Tensor]:
    """Every sample's gradient, for each parameter of the call.

    Args:
        call: the operator, with its input for n samples.
        deltas: cotangents ``[c, n, …]`` at its output.

    Returns:
        ``[c, n, *shape of the parameter]`` by parameter name.
    """
    out = {}
    if call.weight is not None:
        shape = call.arguments["weight"].shape
        if call.kind in ("linear", "conv"):
            a, d = factors(call, deltas)
            grad = torch.einsum("cngto,ngti->cngoi", d, a)
            if call.transposed:
                shape, grad = shape[::-1], grad.transpose(-1, -2)
        elif call.kind == "embedding":
            grad = _embedding_weight(call, deltas)
        elif call.kind == "other_conv":
            grad = _convolution_weight(call, deltas)
        else:
            grad = _norm_weight(call, deltas)
        out[call.weight] = grad.reshape(*deltas.shape[:2], *shape)
    if call.bias is not None:
        grad = _bias(call, deltas)
        out[call.bias] = grad.reshape(*deltas.shape[:2], *call.arguments["bias"].shape)
    return out


def squared_gradients(call: Call, deltas: Tensor) -> dict[str, Tensor]:
    """Squares of the samples' gradients, entry by entry, summed over samples and columns.

    Args:
        call: the operator, with its input for n samples.
        deltas: cotangents ``[c, n, …]`` at its output.

    Returns:
        Float64 tensors shaped as the parameters, by name.
    """
    if call.kind == "linear" and call.input.dim() == 2:
        squares = deltas.double().square().sum(0)
        out = {}
        if call.weight is not None:
            total = squares.T @ call.input.double().square()
            out[call.weight] = total.T if call.transposed else total
        if call.bias is not None:
            out[call.bias] = squares.sum(0)
        return out
    totals: dict[str, Tensor] = {}
    # One sample at a time: a sample's gradients are as large as the parameters.
    for i in range(deltas.shape[1]):
        rows = slice(i, i + 1)
        for name, grad in gradients(_some(call, rows), deltas[:, rows]).items():
            total = grad.double().square().sum((0, 1))
            totals[name] = totals[name] + total if name in totals else total
    return totals


def _sum_squares(grad: Tensor) -> Tensor:
    """``[c, n, …] -> [c, n]`` in float64, without a copy of the tensor in float64."""
    flat = grad.flatten(2)
    if grad.device.type != "cpu":
        norms: Tensor = torch.linalg.vector_norm(flat, dim=-1, dtype=torch.float64)
        return norms.square()
    # There the dtype would cost a copy.
    norms = torch.linalg.vector_norm(flat, dim=-1)
    if _underflown(norms, SMALLEST, flat.dtype):
        norms = torch.linalg.vector_norm(flat.double(), dim=-1)
    return norms.double().square()


def _underflown(values: Tensor, smallest: float, dtype: torch.dtype) -> bool:
    """Computed in few digits, and so small that they may have been lost."""
    return dtype != torch.float64 and bool(values.numel()) and float(values.max()) < smallest


def factors(call: Call, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and cotangents of a linear layer or convolution, position by position.

    Args:
        call: the operator, with its input for n samples.
        deltas: cotangents ``[c, n, …]`` at its output.

    Returns:
        Inputs ``[n, g, T, i]`` and cotangents ``[c, n, g, T, o]``: g groups, T positions.
    """
    if call.kind == "linear":
        a, n = call.input, call.input.shape[0]
        d = deltas.reshape(len(deltas), n, 1, -1, deltas.shape[-1])
        return a.reshape(n, 1, -1, a.shape[-1]), d
    return _convolution_factors(call, deltas)


def _convolution_factors(call: Call, deltas: Tensor) -> tuple[Tensor, Tensor]:
    x, weight, groups = call.input, call.arguments["weight"], call.arguments.get("groups", 1)
    one_dimensional = x.dim() == 3
    kernel = tuple(weight.shape[2:])
    stride = _tuple(call.arguments.get("stride", 1), len(kernel))
    dilation = _tuple(call.arguments.get("dilation", 1), len(kernel))
    pads = _padding(call.arguments.get("padding", 0), kernel, dilation)
    x = F.pad(x, pads)
    if one_dimensional:
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride)
    n, positions = patches.shape[0], patches.shape[-1]
    a = patches.reshape(n, groups, -1, positions).transpose(2, 3)
    d = deltas.reshape(len(deltas), n, groups, -1, positions).transpose(3, 4)
    return a, d


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * length
    values = tuple(value)
    return values if len(values) == length else values * length


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[int]:
    """Zeros before and after each dimension, last dimension first, as ``F.pad`` takes them."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(t // 2, t - t // 2) for t in totals]
    else:
        sides = [(p, p) for p in _tuple(padding, len(kernel))]
    return [side for pair in reversed(sides) for side in pair]


def _factored_norms(call: Call, deltas: Tensor) -> Tensor:
    """Squared norms ``[c, n]`` for a layer's weight, a few samples at a time."""
    weight = call.arguments["weight"]
    inputs, outputs = weight[0].numel(), len(deltas) * weight.shape[0]
    positions = deltas[0, 0].numel() // weight.shape[0]
    # Inputs at every position, cotangents, and what is made of both.
    formed = positions * (inputs * call.arguments.get("groups", 1) + outputs)
    formed += min(positions**2, outputs * inputs)
    size = max(1, FORMED.get(deltas.device.type, FORMED["cuda"]) // formed)
    parts = [
        _position_norms(*factors(_some(call, rows), deltas[:, rows]))
        for rows in (slice(i, i + size) for i in range(0, deltas.shape[1], size))
    ]
    return torch.cat(parts, 1)


def _position_norms(a: Tensor, d: Tensor) -> Tensor:
    """Σ over groups of ``‖Σ_t δ_t a_tᵀ‖²``, as ``[c, n]`` in float64.

    By whichever takes fewer multiplications: the gradients, or the Gram matrix of positions.
    """
    c, n, g, positions, width = d.shape
    rows = d.permute(1, 2, 0, 4, 3).reshape(n, g, c * width, positions)
    if positions * (a.shape[-1] + c * width) < c * width * a.shape[-1]:
        spread = (rows @ (a @ a.transpose(-1, -2))).reshape(n, g, c, -1)
        norms: Tensor = torch.linalg.vecdot(spread, rows.reshape(n, g, c, -1)).double().sum(1).T
        if not _underflown(norms, SMALLEST**2, d.dtype):
            return norms
    grads = (rows @ a).reshape(n, g, c, -1)
    return _sum_squares(grads.transpose(1, 2)).T


def _formed_norms(call: Call, deltas: Tensor) -> Tensor:
    """Squared norms ``[c, n]`` of gradients that are formed, of kernels one sample at a time."""
    if call.kind != "other_conv":
        return _sum_squares(_norm_weight(call, deltas))
    norms = [
        _sum_squares(_convolution_weight(_some(call, slice(i, i + 1)), deltas[:, i : i + 1]))
        for i in range(deltas.shape[1])
    ]
    return torch.cat(norms, 1)


def _some(call: Call, rows: slice) -> Call:
    """The call with the input of some samples."""
    return replace(call, arguments={**call.arguments, "input": call.arguments["input"][rows]})


def _convolution_weight(call: Call, deltas: Tensor) -> Tensor:
    """Kernel gradients ``[c, n, *kernel]`` by the operator's own derivative, sample by sample."""
    weight = call.arguments["weight"].detach()
    others = {k: v for k, v in call.arguments.items() if k not in ("input", "weight", "bias")}

    def gradient(sample: Tensor, delta: Tensor) -> Tensor:
        back = torch.func.vjp(lambda w: call.function(sample[None], w, **others), weight)[1]
        grad: Tensor = back(delta[None])[0]
        return grad

    over_samples = torch.func.vmap(gradient)
    return torch.func.vmap(over_samples, in_dims=(None, 0))(call.input, deltas)


def _embedding_norms(call: Call, deltas: Tensor) -> Tensor:
    """``Σ_tt' [token t is token t'] ⟨δ_t, δ_t'⟩``, without a row for every word that there is."""
    tokens = _tokens(call)
    d = _without_padding(call, deltas)
    same = tokens.unsqueeze(-1) == tokens.unsqueeze(-2)
    return (d @ d.transpose(-1, -2) * same).sum((-1, -2), dtype=torch.float64)


def _embedding_weight(call: Call, deltas: Tensor) -> Tensor:
    d = _without_padding(call, deltas)
    grad = d.new_zeros(*d.shape[:2], *call.arguments["weight"].shape)
    index = _tokens(call)[None, :, :, None].expand(d.shape)
    return grad.scatter_add_(2, index, d)


def _tokens(call: Call) -> Tensor:
    """An embedding's input ``[n, t]``, which may have been one token for each sample."""
    return call.input.reshape(len(call.input), -1)


def _without_padding(call: Call, deltas: Tensor) -> Tensor:
    """Cotangents ``[c, n, t, e]`` of the tokens, zero where a token is padding."""
    tokens = _tokens(call)
    d: Tensor = deltas.reshape(*deltas.shape[:2], tokens.shape[1], -1)
    padding = call.arguments.get("padding_idx")
    if padding is None:
        return d
    rows = call.arguments["weight"].shape[0]
    counted: Tensor = d * (tokens != padding % rows).unsqueeze(-1)
    return counted


def _norm_weight(call: Call, deltas: Tensor) -> Tensor:
    """Gradient of a normalisation's scale: cotangent times normalised input, summed."""
    plain = {k: v for k, v in call.arguments.items() if k not in ("weight", "bias")}
    plain["input"] = call.input
    normalised = call.function(**plain)
    return _sum_positions(call, deltas * normalised)


def _bias(call: Call, deltas: Tensor) -> Tensor:
    return _sum_positions(call, deltas)


def _sum_positions(call: Call, deltas: Tensor) -> Tensor:
    """Sum of ``[c, n, …]`` over everything that the parameter is broadcast over."""
    if call.kind in ("layer_norm", "rms_norm"):
        kept = len(call.arguments["normalized_shape"])
        return deltas.flatten(2, -kept - 1).sum(2) if deltas.dim() > 2 + kept else deltas
    if call.kind == "linear":
        return deltas.flatten(2, -2).sum(2) if deltas.dim() > 3 else deltas
    return deltas.flatten(3).sum(-1) if deltas.dim() > 3 else deltas
