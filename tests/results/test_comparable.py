from dataclasses import replace

from flatmeter.results.comparable import fields
from flatmeter.results.record import Row

A = Row(
    *("a.pt", "s1", "trace", "value", 1),
    value=2.0,
    ci_low=1.0,
    ci_high=3.0,
    dtype="float32",
    n_data=9,
    loss=0.5,
    protocol="p",
    key="k1",
)
B = replace(A, checkpoint="b.pt", sha256="s2", value=5.0, key="k2")


def test_one_field_for_each_measure_with_its_headline():
    norm = replace(A, measure="norm", quantity="size")
    found = fields([[A, replace(A, quantity="second")], [B], [norm]])
    assert [(f.name, [r.value for r in f.rows]) for f in found] == [
        ("trace", [2.0, 5.0]),
        ("norm.size", [2.0]),
    ]
    assert [f.quantity for f in fields([[A, replace(A, quantity="second")]], ["trace.second"])] == [
        "second"
    ]


def test_the_most_accurate_of_one_thing_is_taken_and_told():
    better = replace(A, value=2.1, ci_low=2.0, ci_high=2.2, key="k3")
    (found,) = fields([[A], [B], [better]])
    assert [r.value for r in found.rows] == [2.1, 5.0]
    assert found.notes == [
        "measured more than once, to different accuracy, of which the narrowest interval is "
        "taken: a.pt"
    ]


def test_different_things_of_one_name_are_left_out():
    for other in (replace(A, sha256="s9"), replace(A, loss=0.6), replace(A, n_data=8)):
        (found,) = fields([[A], [B], [replace(other, key="k3")]])
        assert [r.checkpoint for r in found.rows] == ["b.pt"]
        assert list(found.left_out) == ["a.pt"]


def test_what_was_measured_in_another_way_is_another_field():
    found = fields([[A], [B], [replace(A, protocol="q", seed=1, key="k3")]])
    assert [(f.name, len(f.rows)) for f in found] == [
        ("trace (seed None)", 2),
        ("trace (seed 1)", 1),
    ]
    found = fields([[A], [replace(A, protocol="q", key="k3")]])
    assert [f.name for f in found] == ["trace (settings 1)", "trace (settings 2)"]


def test_no_value_has_a_reason():
    lost = replace(B, value=None, status="n/a", message="no meaning here")
    (found,) = fields([[A], [lost]])
    assert found.left_out == {"b.pt": "no meaning here"}
    (found,) = fields([[A, replace(A, quantity="second")], [B]], ["trace.second"])
    assert found.left_out == {"b.pt": "it has no second"}


def test_equal_weights_and_unequal_data_are_told():
    (found,) = fields([[A], [replace(B, sha256="s1", n_data=4)]])
    assert found.notes == [
        "equal weights under several names: a.pt = b.pt",
        "not all checkpoints were measured on as many samples",
    ]
