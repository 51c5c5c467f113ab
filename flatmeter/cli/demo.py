"""``flatmeter demo``: train six small networks, measure them, say what to type next."""

from __future__ import annotations

from pathlib import Path

import click

from flatmeter.cli.streams import say


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("flatmeter-demo"))
def command(folder: Path) -> int:
    """Train six small networks on embedded digits, and measure them.

    They are saved as checkpoints in FOLDER (flatmeter-demo), which stays.
    """
    from flatmeter.cli.interrupts import Interrupts
    from flatmeter.config.layers import Configuration
    from flatmeter.config.schema import Settings
    from flatmeter.watch import Watch

    with Interrupts(Watch()) as interrupts:
        with interrupts.held():
            import torch

            from flatmeter.cli.session import Session
            from flatmeter.demo import train_all

        # Networks as small as these leave further threads nothing to do but wait for each other.
        torch.set_num_threads(1)
        paths = train_all(folder, say)
        session = Session(Configuration(Settings(allow_unconverged=True), {}), interrupts)
        code = session.run([str(path) for path in paths])
    say(
        f"\nmeasure these again:     flatmeter measure {folder}/*.pt\n"
        "measure one of your own: flatmeter measure CKPT --model net.py:build --data data.npz"
    )
    return code
