"""The graph of a network: exported, or else recorded."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace

from torch import Tensor, nn

from flatmeter.errors import NotApplicable
from flatmeter.out_of_memory import ran_out
from flatmeter.symmetry.export import Graph, exported_graph
from flatmeter.symmetry.ideal import ideal, in_double
from flatmeter.symmetry.recorded import recorded_graph


def network_graph(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Graph:
    """Export a network, or record what it does with its inputs where that is refused.

    Args:
        module: the network in float64, in the mode it is to be measured in.
        inputs: example inputs ``[n, …]``.
        names: the parameters that may be scaled; all others are held fixed.

    Raises:
        NotApplicable: neither can be done; says why.
    """
    try:
        with in_double(), _quiet():
            return exported_graph(module, inputs, names)
    except NotApplicable as refusal:
        reason = _reason(refusal.__cause__ or refusal)
        try:
            with ideal(module), _quiet():
                graph = recorded_graph(module, inputs, names)
        except Exception as error:
            if ran_out(error):
                raise
            raise NotApplicable(
                "the network's graph can be neither exported nor recorded, so its symmetries are "
                f"not known: torch.export says “{reason}”; as it was recorded: {_reason(error)}",
                hint=refusal.hint,
            ) from error
    return replace(graph, note=_note(graph, reason, len(inputs)))


def _note(graph: Graph, reason: str, n: int) -> str:
    note = (
        f"torch.export refuses the network ({reason}), so its graph was recorded while it ran on "
        f"{n} samples; its symmetries were verified on others too, and Python code that they do "
        "not reach could still break them"
    )
    if graph.unreached:
        note += f"; held fixed because these samples do not reach them: {_listed(graph.unreached)}"
    return note


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _reason(error: BaseException) -> str:
    """The first line, and the line of the network's code where PyTorch points to one."""
    text = str(error).strip()
    first = text.partition("\n")[0].partition(" (unhinted")[0].rstrip(".") or type(error).__name__
    found = re.search(r'raised this error:\n  File "[^"]*?([^"/\\]+)", line (\d+).*\n +(.+)', text)
    return f"{first} at {found[1]}:{found[2]}, “{found[3]}”" if found else first


@contextmanager
def _quiet() -> Iterator[None]:
    """What PyTorch prints and logs of a failure is said in one sentence later."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
