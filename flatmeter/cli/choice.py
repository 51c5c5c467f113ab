"""One of some words on the command line."""

from __future__ import annotations

from typing import Any

import click

from flatmeter.config.wording import nearest, one_of
from flatmeter.errors import UsageError


class Choice(click.Choice):  # type: ignore[type-arg]  # generic only in later versions of click
    """As click's, with a mistake told as in a file of settings."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself.

        Raises:
            UsageError: it is none of them.
        """
        if value in self.choices:
            return str(value)
        name = param.name if param else "it"
        raise UsageError(
            f"{name} cannot be {value!r}: it must be {one_of(self.choices)}",
            where=param.opts[-1] if isinstance(param, click.Option) else None,
            hint=nearest(value, self.choices),
        )
