import pytest

from flatmeter.cli.outcome import Outcome
from flatmeter.errors import ExitCode as E


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({}, E.OK),
        ({"a": [E.OK, E.OK]}, E.OK),
        ({"a": [E.REFUSED]}, E.REFUSED),
        ({"a": [E.REFUSED], "b": [E.REFUSED]}, E.REFUSED),
        ({"a": [E.REFUSED], "b": [E.MISMATCH]}, E.FAILED),
        ({"a": [E.REFUSED], "b": [E.OK]}, E.FAILED),
        ({"a": [E.OUT_OF_MEMORY, E.OUT_OF_MEMORY]}, E.OUT_OF_MEMORY),
        ({"a": [E.OUT_OF_MEMORY, E.OK]}, E.FAILED),
    ],
)
def test_common_code_or_failed(codes, expected):
    outcome = Outcome(unconverged=True)
    for checkpoint, own in codes.items():
        for code in own:
            outcome.add(checkpoint, code)
    assert outcome.exit_code(allow_unconverged=True) is expected
    if expected is E.OK:
        assert outcome.exit_code(allow_unconverged=False) is E.UNCONVERGED
