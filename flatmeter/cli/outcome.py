"""The exit code of a run from what became of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

from flatmeter.errors import ExitCode


@dataclass
class Outcome:
    """Counts what became of every measure of every checkpoint.

    Args:
        codes: of the measures, by checkpoint, and of exports that were lost, by file; a value, or
            a refusal with its reason, is ``OK``.
        unconverged: a value did not converge.
    """

    codes: dict[str, list[ExitCode]] = field(default_factory=dict)
    unconverged: bool = False

    def add(self, checkpoint: str, code: ExitCode) -> None:
        """One measure of a checkpoint, or the checkpoint itself, ended with ``code``."""
        self.codes.setdefault(checkpoint, []).append(code)

    def failed(self, checkpoint: str) -> bool:
        """Whether anything of a checkpoint failed."""
        return any(self.codes.get(checkpoint, ()))

    def exit_code(self, *, allow_unconverged: bool) -> ExitCode:
        """The code that all checkpoints failed with, ``FAILED`` where only some did."""
        codes = {_common(own) for own in self.codes.values()}
        if codes - {ExitCode.OK}:
            return codes.pop() if len(codes) == 1 else ExitCode.FAILED
        if self.unconverged and not allow_unconverged:
            return ExitCode.UNCONVERGED
        return ExitCode.OK


def _common(codes: list[ExitCode]) -> ExitCode:
    found = set(codes)
    if found <= {ExitCode.OK}:
        return ExitCode.OK
    return found.pop() if len(found) == 1 else ExitCode.FAILED
