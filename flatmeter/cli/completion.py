"""``flatmeter completion``: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from flatmeter.cli.choice import Choice
from flatmeter.cli.streams import write_out


@click.command("completion")
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash:  flatmeter completion bash >> ~/.bashrc
    zsh:   flatmeter completion zsh >> ~/.zshrc
    fish:  flatmeter completion fish > ~/.config/fish/completions/flatmeter.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # the choices above are click's own
    write_out(kind(context.find_root().command, {}, "flatmeter", "_FLATMETER_COMPLETE").source())
