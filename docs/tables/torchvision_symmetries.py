"""The symmetries of torchvision's classification models: writes the table in the documentation.

    python docs/tables/torchvision_symmetries.py [MODEL …]

Without models all of them are measured, each in a process of its own. Rows of other models stay.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatmeter.import_torchvision import import_torchvision
from flatmeter.risk.batch_norm import batch_norms, private_copy
from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.blocks import lone_scales
from flatmeter.symmetry.find import find_group
from flatmeter.symmetry.group import SymmetryGroup
from flatmeter.symmetry.verify import EPS_FACTORS, Evaluator, draws

PAGE = Path(__file__).with_name("torchvision-symmetries.md")
HEAD = "| model | pixels | tensors |"

PIXELS = (32, 64, 75, 224)
"""Tried in turn; the first that a network accepts is taken."""

NEGLIGIBLE = 1e-10
"""An error that needs no smaller ε."""

ARGUMENTS = {
    "vit_b_16": {"image_size": 32},
    "vit_b_32": {"image_size": 64},
    "vit_l_16": {"image_size": 32},
    "vit_l_32": {"image_size": 64},
    "vit_h_14": {"image_size": 28},
}
"""Vision transformers are built for one size of image."""


def model_names() -> list[str]:
    """All classification models of the installed torchvision, small ones first."""
    models = import_torchvision().models
    names = models.list_models(module=models)
    return sorted(names, key=lambda n: models.get_model_weights(n).DEFAULT.meta["num_params"])


def build(name: str) -> nn.Module:
    """A network with random weights; what starts constant gets noise, so that it is tested too."""
    torch.manual_seed(0)
    models = import_torchvision().models
    net: nn.Module = models.get_model(name, weights=None, **ARGUMENTS.get(name, {}))
    with torch.no_grad():
        for parameter in net.parameters():
            if bool(parameter.min() == parameter.max()):
                parameter += 0.1 * torch.randn_like(parameter)
        for _, norm in batch_norms(net):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return net.eval()


def images(net: nn.Module, name: str) -> Tensor:
    """Random images of the smallest size that the network accepts."""
    fixed = ARGUMENTS.get(name, {}).get("image_size")
    for pixels in (fixed,) if fixed else PIXELS:
        n = 4 if pixels < 200 else 2
        x = torch.randn(n, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                net(x)
        except (RuntimeError, ValueError, AssertionError):
            continue
        return x
    raise SystemExit(f"{name} accepts no image of {PIXELS} pixels")


def row_of(name: str) -> dict[str, Any]:
    """What the table says of a model."""
    torch.set_num_threads(1)
    net = build(name)
    x = images(net, name)
    row: dict[str, Any] = {"model": name, "pixels": x.shape[-1], "eval": measured(net, x)}
    if batch_norms(net):
        net = private_copy(net, bn="batch", device=x.device, dtype=torch.float32)
        row["batch"] = measured(net, x)
    row["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def measured(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """The group of a network in its mode, and the seconds of one core that its parts take."""
    names = ParameterSpace.from_module(net).names
    start = time.process_time()
    with (
        clock(torch.export, "export") as export,
        clock(Evaluator, "__init__") as copied,
        clock(Evaluator, "change") as changes,
    ):
        group = find_group(net, x, names)
    seconds = time.process_time() - start
    verify = copied + changes
    return {
        "tensors": len(names),
        "parameters": sum(p.numel() for p in net.parameters()),
        "dim": group.dim,
        "channels": group.channels.count - 1,
        "blocks": int(lone_scales(group.channels).sum()),
        "error": group.error,
        "exact": all(g.exact for g in group.generators),
        "small_eps": small_eps_error(group, net, x),
        "unknown": dict(group.unknown_operators),
        "notes": list(group.notes),
        "export": sum(export),
        "verify": sum(verify),
        "solve": seconds - sum(export) - sum(verify),
    }


@contextmanager
def clock(owner: Any, name: str) -> Iterator[list[float]]:
    """The seconds of one core that each call of a function takes inside the block."""
    function, seconds = getattr(owner, name), []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - start)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, function)


def small_eps_error(group: SymmetryGroup, net: nn.Module, x: Tensor) -> float:
    """The verification error with the ε of the normalisations made small."""
    if all(g.exact for g in group.generators):
        return group.error
    evaluator, elements = Evaluator(net, x, group.names), draws(group.generators)
    errors: list[float] = []
    for factor in EPS_FACTORS:
        errors.append(max(evaluator.change(element, factor) for element in elements))
        if errors[-1] < NEGLIGIBLE:
            break
    return min(errors)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    eval_, batch = row["eval"], row.get("batch")
    both = [m for m in (eval_, batch) if m]

    def pair(key: str) -> list[str]:
        return [f"{eval_[key]:,}", f"{batch[key]:,}" if batch else ""]

    def error(mode: dict[str, Any] | None) -> str:
        if mode is None:
            return ""
        small = "" if mode["exact"] else f" → {mode['small_eps']:.0e}"
        return f"{mode['error']:.0e}{small}"

    unknown = sorted({f"`{name}`" for mode in both for name in mode["unknown"]})
    cells = [
        f"`{row['model']}`",
        str(row["pixels"]),
        f"{eval_['tensors']:,}",
        *pair("dim"),
        *pair("channels"),
        *pair("blocks"),
        error(eval_),
        error(batch),
        f"{max(m['export'] for m in both):.1f}",
        f"{max(m['solve'] for m in both):.1f}",
        f"{max(m['verify'] for m in both):.0f}",
        ", ".join(unknown) or "none",
    ]
    return "| " + " | ".join(cells) + " |"


def write(lines: dict[str, str]) -> None:
    """Put rows in their places on the page, in alphabetical order."""
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(HEAD)
    head, rule, *rest = text[start:].split("\n")
    count = next((i for i, line in enumerate(rest) if not line.startswith("|")), len(rest))
    rows = {row.split("`")[1]: row for row in rest[:count]} | lines
    ordered = [rows[name] for name in sorted(rows)]
    page = text[:start] + "\n".join([head, rule, *ordered, *rest[count:]])
    PAGE.write_text(page, encoding="utf-8")


def main(names: list[str]) -> None:
    """Measure models one after the other."""
    for name in names or model_names():
        command = [sys.executable, __file__, "--row", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        row = json.loads(done.stdout)
        print(json.dumps(row), flush=True)
        write({name: line(row)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(row_of(sys.argv[2])))
    else:
        main(sys.argv[1:])
