"""Which operator uses which parameter, watched while the network runs.

A torch-function mode sees every operator that Python code calls, as a module or as a function, so
that nothing depends on module classes or names. What is not seen here (compiled code, custom
autograd functions) leaves its parameters without a known use, and they are handled by probes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = (
    "input",
    "weight",
    "bias",
    "stride",
    "padding",
    "output_padding",
    "groups",
    "dilation",
)
_EMBEDDING = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq")
_LINEAR: dict[Any, tuple[str, tuple[str, ...]]] = {
    F.linear: ("linear", ("input", "weight", "bias")),
    # As GPT-2 in transformers has its linear layers: a row of the weight for each input.
    torch.addmm: ("linear", ("bias", "input", "weight")),
    torch.conv1d: ("conv", _CONV),
    torch.conv2d: ("conv", _CONV),
    torch.conv3d: ("other_conv", _CONV),
    torch.conv_transpose1d: ("other_conv", _TRANSPOSED),
    torch.conv_transpose2d: ("other_conv", _TRANSPOSED),
    torch.conv_transpose3d: ("other_conv", _TRANSPOSED),
    F.embedding: ("embedding", _EMBEDDING),
    F.layer_norm: ("layer_norm", ("input", "normalized_shape", "weight", "bias", "eps")),
    F.rms_norm: ("rms_norm", ("input", "normalized_shape", "weight", "eps")),
    F.group_norm: ("group_norm", ("input", "num_groups", "weight", "bias", "eps")),
    F.batch_norm: (
        "batch_norm",
        (
            "input",
            "running_mean",
            "running_var",
            "weight",
            "bias",
            "training",
            "momentum",
            "eps",
        ),
    ),
}

_MATRICES = (F.linear, torch.conv1d, torch.conv2d)


@dataclass
class Call:
    """One use of a weight and a bias by an operator that the ghost method knows.

    Args:
        kind: ``linear``, ``conv`` (one or two dimensions), ``other_conv`` (three, or transposed),
            ``embedding``, ``batch_norm``, ``layer_norm``, ``rms_norm`` or ``group_norm``.
        function: the operator.
        arguments: by name, as it was called.
        output: what the rest of the network computes from; derivatives are taken with respect to
            this tensor.
        weight: name of the parameter used as weight, if it is one.
        bias: likewise.
        transposed: the parameter has a row for each input, and is the weight's transpose.
    """

    kind: str
    function: Callable[..., Tensor]
    arguments: Mapping[str, Any]
    output: Tensor
    weight: str | None
    bias: str | None
    transposed: bool = False

    @property
    def input(self) -> Tensor:
        """The operator's input, without a graph."""
        tensor: Tensor = self.arguments["input"]
        return at_least_float32(tensor.detach())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters it uses."""
        return tuple(n for n in (self.weight, self.bias) if n is not None)


@dataclass(eq=False)
class Capture(TorchFunctionMode):
    """Watches a forward pass and records who uses the given parameters.

    Args:
        parameters: the tensors that the forward pass is run with, by name.
        cut: names of weights whose operators' outputs are detached, so that the graph starts
            there.
    """

    parameters: Mapping[str, Tensor]
    cut: Sequence[str] = ()
    calls: list[Call] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()
        self._name_of = {id(t): n for n, t in self.parameters.items()}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._inside(func, args, kwargs)
        out = func(*args, **kwargs)
        used = [
            self._name_of[id(leaf)]
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and id(leaf) in self._name_of
        ]
        # Asking for a shape or a dtype is no use. A linear operator is recorded even where its
        # weight is computed from parameters elsewhere.
        if not used and func not in _MATRICES:
            return out
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
            return out
        self.uses.update(used)
        return self._record(func, args, kwargs, out) if func in _LINEAR else out

    def _inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Watch what a function of Python does, which would else count as one operator."""
        asks = F.has_torch_function  # type: ignore[attr-defined]
        F.has_torch_function = lambda tensors: False  # type: ignore[attr-defined]
        try:
            with self:
                return func(*args, **kwargs)
        finally:
            F.has_torch_function = asks  # type: ignore[attr-defined]

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Any:
        kind, signature = _LINEAR[func]
        arguments = dict(zip(signature, args, strict=False)) | kwargs
        if arguments.get("scale_grad_by_freq") or arguments.get("max_norm"):
            # Its gradient is not its derivative.
            return out
        weight, bias = arguments.get("weight"), arguments.get("bias")
        transposed = func is torch.addmm
        if transposed:
            named = weight is not None and id(weight) in self._name_of
            if kwargs or not named or bias is None or bias.dim() != 1:
                return out
            assert weight is not None
            func, arguments = F.linear, {**arguments, "weight": weight.t()}
        call = Call(
            kind=kind,
            function=func,
            arguments=arguments,
            output=out,
            weight=self._name_of.get(id(weight)),
            bias=self._name_of.get(id(bias)),
            transposed=transposed,
        )
        if set(self.cut) & set(call.names):
            call.output = out.detach().requires_grad_()
        self.calls.append(call)
        # The clone is what an in-place activation may overwrite; the recorded tensor stays.
        return call.output.clone()

    def known(self) -> dict[str, Call]:
        """The call of every parameter that is used exactly once, by an operator known here."""
        return {n: call for call in self.calls for n in call.names if self.uses[n] == 1}


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it has fewer digits: squares and sums are taken of it."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
