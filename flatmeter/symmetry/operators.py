"""How tensor operators behave under scaling: the vocabulary of both granularities.

An operator is listed only where its law holds exactly and for every argument it can be called
with; what depends on arguments stands with the rules. Whatever is not listed fixes the scales of
its inputs and outputs, which can hide a symmetry but never invent one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flatmeter.symmetry.export import Call


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHAPE = _names(
    """
    alias atleast_1d atleast_2d atleast_3d broadcast_to cat channel_shuffle chunk clone
    concat concatenate contiguous detach diagonal expand expand_as flatten flip getitem
    hstack lift_fresh_copy movedim narrow permute pixel_shuffle pixel_unshuffle repeat
    repeat_interleave reshape reshape_as resolve_conj resolve_neg roll rot90 select slice
    split split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile transpose unbind
    unflatten unfold unsafe_chunk unsafe_split unsqueeze view view_as vstack
    """
)
"""Only move, repeat or drop numbers, in a way that does not depend on their values."""

CASTS = _names("to _to_copy type_as float double half bfloat16")
"""Change the type of numbers."""

POINTWISE = _names("abs relu leaky_relu neg prelu tril triu zero")
"""Homogeneous of degree one, number by number."""

POOLING = _names(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d
    max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    """
)
"""Homogeneous within each channel, over positions."""

REDUCTIONS = _names("mean sum amax amin linalg_vector_norm norm std")
"""Homogeneous over the dimensions that ``dim`` names."""

JOINT = _names(
    "max min median sort topk cumsum gather index index_select item take_along_dim im2col col2im"
)
"""Homogeneous of degree one over all of their input together."""

WRITES = _names(
    """
    index_put index_copy index_add scatter scatter_add masked_scatter slice_scatter select_scatter
    diagonal_scatter index_fill
    """
)
"""Put some numbers among others."""

SEQUENCES = _names("_pack_padded_sequence _pad_packed_sequence")
"""Move steps of sequences of different lengths, and fill up with a number."""

SUMS = _names("add sub rsub maximum minimum where copy")
"""Homogeneous of degree one in two inputs together."""

PRODUCTS = _names("mul matmul bmm mm mv dot vdot outer einsum")
"""Linear in each tensor input."""

SUMMED_PRODUCTS = _names("addmm addmv baddbmm addbmm addcmul")
"""A tensor plus a product of two others."""

CONVOLUTIONS = _names("conv1d conv2d conv3d")
TRANSPOSED = _names("conv_transpose1d conv_transpose2d conv_transpose3d")
AFFINE = _names("linear") | CONVOLUTIONS | TRANSPOSED
"""``input * weight + bias``."""

NORMS = _names("layer_norm group_norm rms_norm instance_norm batch_norm")
"""Divide by what they measure of their input, where they do not use stored statistics."""

DROPOUTS = _names("dropout feature_dropout alpha_dropout feature_alpha_dropout rrelu")
"""The identity, or leaky_relu, outside training."""

RECURRENT = _names("rnn_relu rnn_tanh lstm gru")
CELLS = _names("rnn_relu_cell rnn_tanh_cell lstm_cell gru_cell")

WEIGHTS = _names("embedding embedding_bag scaled_dot_product_attention _weight_norm")
"""Each with a law of its own."""

ZEROS = _names("zeros zeros_like new_zeros empty empty_like new_empty")
"""Zero has every scale; an empty tensor has none before something is written to it."""

INVARIANT = _names("argmax argmin argsort sign getitem")
"""The same for any common scale of the input; getitem where it takes indices."""

COMPARISONS = _names("gt ge lt le eq ne greater greater_equal less less_equal not_equal")
"""The same for any common scale of both sides, and zero has every scale."""

IGNORED = _names(
    """
    _assert_tensor_metadata _assert_async _assert_scalar sym_size sym_numel sym_stride
    sym_constrain_range sym_constrain_range_for_size
    """
)
"""Check shapes and types, compute nothing."""

FIXING = _names(
    """
    gelu silu sigmoid tanh hardtanh hardsigmoid hardswish relu6 softmax _softmax log_softmax
    _log_softmax softplus elu selu celu mish glu log_sigmoid logsigmoid hardshrink softshrink
    tanhshrink erf exp expm1 log log1p log2 sin cos atan floor ceil round clamp clamp_min clamp_max
    threshold pow logical_and logical_or logical_not logical_xor bitwise_and
    bitwise_or bitwise_not isnan isinf isfinite nan_to_num any all ones ones_like new_ones full
    full_like new_full arange linspace scalar_tensor eye fill fill_diagonal masked_fill
    pad constant_pad_nd div one_hot linalg_householder_product
    linalg_matrix_exp cross cdist
    _local_scalar_dense equal is_nonzero
    """
)
"""Known not to commute with scaling, at least with the arguments that reach the last rule."""

POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "var": 2.0}
"""Homogeneous of another degree."""

MOMENTS = {"var_mean": (2.0, 1.0), "std_mean": (1.0, 1.0)}
"""Degrees of each output."""

KNOWN = (
    SHAPE
    | CASTS
    | POINTWISE
    | POOLING
    | REDUCTIONS
    | JOINT
    | WRITES
    | SEQUENCES
    | SUMS
    | PRODUCTS
    | SUMMED_PRODUCTS
    | AFFINE
    | NORMS
    | DROPOUTS
    | RECURRENT
    | CELLS
    | WEIGHTS
    | ZEROS
    | INVARIANT
    | COMPARISONS
    | IGNORED
    | FIXING
    | frozenset(POWERS)
    | frozenset(MOMENTS)
)


def _outside_training(call: Call) -> bool:
    return not (call["train"] or call["training"])


def _pads_without_offset(call: Call) -> bool:
    return call["mode"] not in (None, "constant") or not call["value"]


def _fills_without_offset(call: Call) -> bool:
    value = call["value"]
    return isinstance(value, (int, float)) and (value == 0 or math.isinf(value))


def _clamps_at_zero(call: Call) -> bool:
    bounds = (call["min"], call["max"])
    return all(bound is None or bound == 0 for bound in bounds)


def _is_relu(call: Call) -> bool:
    return (call["threshold"], call["value"]) == (0, 0)


POINTWISE_IF: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(DROPOUTS, _outside_training),
    "clamp": _clamps_at_zero,
    "clamp_min": _clamps_at_zero,
    "clamp_max": _clamps_at_zero,
    "threshold": _is_relu,
    "masked_fill": _fills_without_offset,
}
"""Homogeneous number by number with some arguments only."""

PADDING: dict[str, Callable[[Call], bool]] = dict.fromkeys(
    ("pad", "constant_pad_nd"), _pads_without_offset
)
"""Homogeneous over positions with some arguments only."""


def is_pointwise(call: Call) -> bool:
    """Homogeneous of degree one number by number, with these arguments."""
    condition = POINTWISE_IF.get(call.name)
    return call.name in POINTWISE if condition is None else condition(call)


def is_norm_of_numbers(call: Call) -> bool:
    """A reduction that grows with its input; the norm of order zero counts instead."""
    return call.name in REDUCTIONS and 0 not in (call["ord"], call["p"])


def is_padding(call: Call) -> bool:
    """Adds positions whose numbers scale like the others."""
    condition = PADDING.get(call.name)
    return condition is not None and condition(call)


def uses_own_statistics(call: Call) -> bool:
    """A normalisation of its own input, rather than by stored statistics."""
    if call.name == "batch_norm":
        return bool(call["training"]) or call["running_mean"] is None
    if call.name == "instance_norm":
        return bool(call["use_input_stats"]) or call["running_mean"] is None
    return call.name in NORMS
