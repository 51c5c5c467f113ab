import pytest

from flatmeter.results.number import counted, format_error, format_number, some


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.4910436, "1.491"),
        (1490.0, "1490"),
        (12345.6, "12346"),
        (123456.7, "1.235e+05"),
        (-0.0012345, "-0.001234"),
        (0.00012345, "1.234e-04"),
        (9.99999, "10.00"),
    ],
)
def test_four_digits(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (1.4910436, 0.0, "1.491"),
        (1.4910436, 1e-7, "1.491"),
        (1.4910436, 0.0123, "1.49 ± 0.01"),
        (1.4910436, None, "1.491 ± ?"),
        (12122.3, 483.0, "12100 ± 500"),
        (0.5, 1.2, "0 ± 1"),
        (0.0, 0.02, "0.00 ± 0.02"),
        (2.5533e-4, 1.9e-7, "(2.553 ± 0.002)e-04"),
        (3.0e7, 2.0e5, "(3.00 ± 0.02)e+07"),
        (9.996, 0.04, "10.00 ± 0.04"),
    ],
)
def test_digits_follow_the_error(value, half_width, text):
    assert format_error(value, half_width) == text


def test_counts_with_their_noun():
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_the_first_names():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcde")) == "a, b, c and 2 more"
