"""The graph of a network that cannot be exported: what it does with some inputs, written down.

Python control flow takes the branches that these inputs take, and numbers that leave for Python
or NumPy come back as constants. What they were made from is held fixed, and so is what a branch
depends on unless scaling cannot change the decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from flatmeter.risk.attention import math_attention
from flatmeter.risk.logits import logits_of
from flatmeter.symmetry.export import Graph, call_of

EXITS = (
    torch.Tensor.numpy,
    torch.Tensor.__array__,
    torch.Tensor.tolist,
    torch.Tensor.data_ptr,
    torch.Tensor.__dlpack__,
    torch.Tensor.untyped_storage,
    torch.Tensor.__reduce_ex__,
)
"""Hand a tensor's numbers to something that is not seen."""


def recorded_graph(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Graph:
    """Run a network and write down its operators.

    Args:
        module: the network, in the mode it is to be measured in; left as it is.
        inputs: ``[n, …]``; the graph is that of these.
        names: the parameters that may be scaled; all others are held fixed.

    Raises:
        Exception: whatever the network or the recording of it raises.
    """
    parameters = {name: module.get_parameter(name).detach() for name in names}

    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        with _Exits():
            return logits_of(functional_call(module, parameters, (x,)))

    with _restored(module), math_attention(), torch.no_grad():
        # Data-dependent operators go on with the numbers that are there.
        record = make_fx(outputs, pre_dispatch=True, _error_on_data_dependent_ops=False)
        recorded = record(parameters, inputs)
    return _graph(recorded, parameters, inputs)


def _graph(recorded: GraphModule, parameters: Mapping[str, Tensor], inputs: Tensor) -> Graph:
    nodes = list(recorded.graph.nodes)
    *owners, source = [node for node in nodes if node.op == "placeholder"]
    constants = {n: getattr(recorded, str(n.target)) for n in nodes if n.op == "get_attr"}
    return Graph(
        calls=tuple(call_of(node) for node in nodes if node.op == "call_function"),
        parameters=dict(zip(owners, parameters, strict=True)),
        fixed=(source, *constants),
        outputs=tuple(next(n for n in nodes if n.op == "output").all_input_nodes),
        values=dict(zip(owners, parameters.values(), strict=True)) | {source: inputs} | constants,
        unreached=tuple(n for node, n in zip(owners, parameters, strict=True) if not node.users),
    )


class _Exits(TorchFunctionMode):
    """Leaves a trace of numbers that are taken out of tensors: an operator that fixes them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func == torch.Tensor.__deepcopy__:
            return args[0].clone()
        if func in EXITS:
            torch.isnan(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Buffers that running the network changes are put back."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
