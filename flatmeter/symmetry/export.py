"""The network's graph of tensor operators, with its parameters by name."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from flatmeter.errors import NotApplicable
from flatmeter.risk.attention import math_attention
from flatmeter.risk.logits import logits_of


@dataclass(frozen=True)
class Call:
    """One operator of the graph, with every argument by the name its schema gives it.

    Args:
        node: where it stands in the graph.
        name: without namespace ``aten``, overload and the underscore of in-place variants.
        arguments: by name, defaults included.
        mutated: the nodes that an in-place variant writes to.
    """

    node: Node
    name: str
    arguments: Mapping[str, Any]
    mutated: tuple[Node, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)


@dataclass(frozen=True)
class Graph:
    """What the network computes.

    Args:
        calls: the operators in order of execution.
        parameters: nodes that hold a parameter that may be scaled, and the parameter's name.
        fixed: nodes that hold inputs, buffers, constants and parameters that are held fixed.
        outputs: nodes whose values the loss sees.
        values: of all nodes that no operator computes; empty where the graph cannot be run.
        stored: nodes that hold a parameter or a buffer of the module, and its name.
        fed: nodes that hold the inputs.
        unreached: parameters that these inputs do not reach, though others may.
        note: what a reader should know of a graph that is that of some inputs only.
    """

    calls: tuple[Call, ...]
    parameters: Mapping[Node, str]
    fixed: tuple[Node, ...]
    outputs: tuple[Node, ...]
    values: Mapping[Node, Any] = field(default_factory=dict)
    stored: Mapping[Node, str] = field(default_factory=dict)
    fed: tuple[Node, ...] = ()
    unreached: tuple[str, ...] = ()
    note: str = ""

    def without_numbers(self) -> Graph:
        """The same graph for whatever weights and inputs: only constants keep their values."""
        kept = {n: v for n, v in self.values.items() if n not in self.stored and n not in self.fed}
        return replace(self, values=kept)

    def with_numbers(self, module: nn.Module, inputs: Tensor) -> Graph:
        """What :meth:`without_numbers` gave, for another network of the same architecture.

        Args:
            module: the network.
            inputs: of the shape that it was exported with.
        """
        own = dict(module.named_parameters(remove_duplicate=False))
        own |= dict(module.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
        held = {node: own[name] for node, name in self.stored.items()}
        return replace(self, values={**self.values, **held, **dict.fromkeys(self.fed, inputs)})

    @property
    def is_static(self) -> bool:
        """No tensor has a shape that depends on values."""
        values = (tree_leaves(call.node.meta.get("val")) for call in self.calls)
        tensors = [v for leaves in values for v in leaves if isinstance(v, Tensor)]
        return all(isinstance(n, int) for v in tensors for n in v.shape)


class _Logits(nn.Module):
    """The network, returning only what the loss sees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.net(x))


def exported_graph(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Graph:
    """Export a network to a graph of ATen operators.

    Args:
        module: the network, in the mode it is to be measured in.
        inputs: example inputs ``[n, …]``.
        names: the parameters that may be scaled; all others are held fixed.

    Raises:
        NotApplicable: the network cannot be exported; says why.
    """
    wrapped = _Logits(module)
    wrapped.training = module.training
    try:
        with math_attention(), torch.no_grad():
            program = torch.export.export(wrapped, (inputs,), strict=False)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NotApplicable(
            f"the network's graph cannot be exported, so its symmetries are not known: {reason}",
            hint="torch.export.export(model, (inputs,), strict=False) shows what stands in the "
            "way; usually it is Python control flow that depends on the values of tensors",
        ) from error
    return _graph(program, module, inputs, names)


def _graph(
    program: ExportedProgram, module: nn.Module, inputs: Tensor, names: Sequence[str]
) -> Graph:
    owners = {id(module.get_parameter(name)): name for name in names}
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    stored_by = {
        name: spec.target.removeprefix("net.")
        for name, spec in specs.items()
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
    }
    # A tied tensor may stand under several names; what counts is which tensor it is.
    owner_of = {
        name: owners.get(id(module.get_parameter(target)))
        for name, target in stored_by.items()
        if specs[name].kind is InputKind.PARAMETER
    }
    calls: list[Call] = []
    parameters: dict[Node, str] = {}
    fixed: list[Node] = []
    outputs: tuple[Node, ...] = ()
    for node in program.graph.nodes:
        owner = owner_of.get(node.name)
        if node.op == "call_function":
            calls.append(call_of(node))
        elif node.op == "output":
            outputs = tuple(node.all_input_nodes)
        elif owner is not None:
            parameters[node] = owner
        else:
            fixed.append(node)
    held = [*parameters, *fixed]
    values = _values(program, inputs, held)
    stored = {node: stored_by[node.name] for node in held if node.name in stored_by}
    fed = tuple(n for n in held if n.name in specs and specs[n.name].kind is InputKind.USER_INPUT)
    return Graph(tuple(calls), parameters, tuple(fixed), outputs, values, stored, fed)


def _values(program: ExportedProgram, inputs: Tensor, nodes: Sequence[Node]) -> dict[Node, Any]:
    kept = {**program.state_dict, **program.constants}
    by_name = {s.arg.name: kept.get(s.target, inputs) for s in program.graph_signature.input_specs}
    return {
        node: getattr(program.graph_module, str(node.target))
        if node.op == "get_attr"
        else by_name[node.name]
        for node in nodes
    }


def call_of(node: Node) -> Call:
    """The operator that a node of a graph applies."""
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if target is operator.getitem:
        return Call(node, "getitem", {"self": node.args[0], "index": node.args[1]})
    if schema is None:
        return Call(node, getattr(target, "__name__", str(target)), dict(enumerate(node.args)))  # type: ignore[arg-type]
    arguments = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args):
            arguments[argument.name] = node.args[position]
        else:
            default = argument.default_value if argument.has_default_value() else None
            arguments[argument.name] = node.kwargs.get(argument.name, default)
    written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    mutated = tuple(n for name in written for n in nodes_of(arguments[name]))
    name = schema.name.removeprefix("aten::")
    if target == torch.ops.aten.view.dtype:
        name = "view.dtype"  # the same bits read as other numbers
    if mutated and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return Call(node, name, arguments, mutated)


def is_scaled(value: object) -> bool:
    """A node that holds real numbers, which scaling may change; integers and masks do not."""
    if isinstance(value, Node):
        value = value.meta.get("val")
    if isinstance(value, (tuple, list)):
        return any(is_scaled(v) for v in value)
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    return isinstance(value, torch.SymFloat)  # a number that was taken out of a tensor


def nodes_of(value: Any) -> Iterator[Node]:
    """The nodes in an argument, which may be a list."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from nodes_of(item)
