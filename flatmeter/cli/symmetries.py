"""``flatmeter symmetries``: scaling symmetries of networks, and checkpoints moved along them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.choice import Choice
from flatmeter.cli.measure import given_flags, some_settings, trusting

_SETTINGS = (
    *("model", "model_args", "key", "ema", "data", "bn", "params", "device", "seed"),
    *("format", "export"),
)


@click.command("symmetries")
@click.argument("checkpoints", nargs=-1, metavar="[CHECKPOINT...]")
@some_settings(*_SETTINGS)
@trusting
@click.option(
    "--input-shape",
    metavar="C,H,W",
    help="shape of one input, where there are no data; by default one that the network takes",
)
@click.option(
    "--transform",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="write an equivalent checkpoint: .safetensors, or else as torch.save does",
)
@click.option(
    "--scale",
    metavar="seed|N|balanced",
    help="move by a random element, of --seed or of seed N, or to the smallest sum of squared "
    "weights  [default: seed]",
)
@click.option(
    "--granularity",
    type=Choice(("tensor", "channel")),
    help="move whole tensors, or every channel by itself  [default: tensor]",
)
@click.option(
    "--size",
    type=click.IntRange(1, 16),
    help="a random element scales by powers of two up to 2^SIZE  [default: 1]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0.0, min_open=True),
    help="relative change of the outputs up to which the checkpoint is written",
)
@click.option("--force", is_flag=True, help="write over a file")
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoints: tuple[str, ...],
    files: tuple[Path, ...],
    trust_pickle: bool,
    input_shape: str | None,
    transform: Path | None,
    scale: str | None,
    granularity: str | None,
    size: int | None,
    tolerance: float | None,
    force: bool,
    **flags: Any,
) -> int:
    """Show the scaling symmetries of checkpoints, or of a network by --model alone.

    They are read off the network's graph and verified by evaluation. No data are needed: without
    them random inputs are used. With --transform the checkpoint is moved along its symmetries and
    written, so that any measure of sharpness can be tested for invariance.
    """
    from flatmeter.cli.interrupts import Interrupts
    from flatmeter.config.layers import configure
    from flatmeter.watch import Watch

    configuration = configure(given_flags(context), files=files, environment=os.environ)
    with Interrupts(Watch()) as interrupts:
        with interrupts.held():
            from flatmeter.cli.symmetries_report import Request, report

        request = Request.of(
            configuration.settings.seed,
            input_shape=input_shape,
            transform=transform,
            scale=scale,
            granularity=granularity,
            size=size,
            tolerance=tolerance,
            force=force,
        )
        return int(report(configuration, checkpoints, request, trust_pickle=trust_pickle))
