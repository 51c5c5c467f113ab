"""A linear layer or convolution as matrices applied at positions: ``z_t = W_g a_t``.

Linear layers have one position per token, convolutions one per patch; groups of channels have
matrices of their own. The *affine* reading of a convolution is one large matrix applied once, its
entries taken as free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.curvature.capture import Call
from flatmeter.curvature.ghost_rules import factors
from flatmeter.errors import NotApplicable

#: Most entries of a convolution's unrolled matrix.
UNROLLED_ENTRIES = 2**24


@dataclass(frozen=True)
class MatrixView:
    """Inputs, weights and outputs of a layer as matrices, in float64.

    Args:
        weight: ``[g, d, m]``, one matrix per group; the bias is a last column where it counts.
        positions: T, how often a matrix is applied to one sample.
        constant: the last column is the bias, whose feature is always 1.
        inputs: from a call ``φ``, as ``[n, g, T, m]``.
        outputs: from tensors ``[c, n, …]`` shaped as a stack of the layer's outputs, ``[c, n, g, T,
            d]``.
    """

    weight: Tensor
    positions: int
    constant: bool
    inputs: Callable[[Call], Tensor]
    outputs: Callable[[Call, Tensor], Tensor]

    @property
    def groups(self) -> int:
        """Number of groups g."""
        return int(self.weight.shape[0])

    @property
    def rows(self) -> int:
        """Rows d of a group's matrix."""
        return int(self.weight.shape[1])

    @property
    def columns(self) -> int:
        """Columns m of a group's matrix, the bias included."""
        return int(self.weight.shape[2])

    def layer_output(self, call: Call, v: Tensor) -> Tensor:
        """``v [n, g, T, d]`` laid out as the output of ``call``."""
        shape, dtype = call.output.shape, call.output.dtype
        if call.kind == "linear" or self.weight.shape[1] * self.groups != shape[1]:
            return v.reshape(shape).to(dtype)
        # Reshaping a batch of one gives strides from which PyTorch's batch-norm silently takes a
        # wrong derivative (CPU, torch 2.13), so the memory must be laid out anew.
        v = v.transpose(-1, -2).reshape(shape)
        return v.to(dtype).clone(memory_format=torch.contiguous_format)


def matrix_view(call: Call, *, bias: bool = False, affine: bool = False) -> MatrixView:
    """The view of the layer behind ``call``.

    Args:
        call: a call of the layer on some samples.
        bias: take the bias as one more column.
        affine: read a convolution as its unrolled matrix.

    Raises:
        NotApplicable: the unrolled matrix is too large.
    """
    weight = call.arguments["weight"].detach().double()
    shift = call.arguments.get("bias") if bias else None
    constant = shift is not None
    if affine and call.kind == "conv":
        matrix, inputs = _unrolled(call), _flat_inputs
        outputs, positions = _flat_outputs, 1
        repeats = matrix.shape[1] // weight.shape[0]
    else:
        groups = call.arguments.get("groups", 1) if call.kind == "conv" else 1
        matrix, inputs = weight.reshape(groups, weight.shape[0] // groups, -1), _patches
        outputs, repeats = _positions, 1
        positions = int(outputs(call, call.output.unsqueeze(0)).shape[-2])
    if shift is None:
        return MatrixView(matrix, positions, False, inputs, outputs)
    column = shift.detach().double().repeat_interleave(repeats).reshape(*matrix.shape[:2], 1)

    def with_one(other: Call) -> Tensor:
        a = inputs(other)
        return torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)

    return MatrixView(torch.cat([matrix, column], -1), positions, constant, with_one, outputs)


def _patches(call: Call) -> Tensor:
    return factors(call, call.output.detach().unsqueeze(0))[0].double()


def _positions(call: Call, deltas: Tensor) -> Tensor:
    n = deltas.shape[1]
    if call.kind == "linear":
        return deltas.reshape(len(deltas), n, 1, -1, deltas.shape[-1]).double()
    groups = call.arguments.get("groups", 1)
    per_group = deltas.shape[2] // groups
    return deltas.reshape(len(deltas), n, groups, per_group, -1).transpose(-1, -2).double()


def _flat_inputs(call: Call) -> Tensor:
    return call.input.reshape(len(call.input), 1, 1, -1).double()


def _flat_outputs(call: Call, deltas: Tensor) -> Tensor:
    return deltas.reshape(*deltas.shape[:2], 1, 1, -1).double()


def _unrolled(call: Call) -> Tensor:
    """The convolution's matrix ``[1, c_out · T, c_in · pixels]``, by acting on unit inputs."""
    size, entries = call.input[0].numel(), call.output[0].numel()
    if size * entries > UNROLLED_ENTRIES:
        raise NotApplicable(
            f"the convolution's unrolled matrix has {entries} × {size} entries, too many for the "
            "affine reading",
            hint="use convolution=tied",
        )
    plain = {**call.arguments, "bias": None}
    plain["input"] = torch.eye(size, dtype=call.input.dtype, device=call.input.device)
    plain["input"] = plain["input"].reshape(size, *call.input.shape[1:])
    plain["weight"] = call.arguments["weight"].detach()
    columns = call.function(**plain)
    return columns.reshape(1, size, entries).transpose(1, 2).double()
