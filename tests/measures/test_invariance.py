"""What every measure does not see, and what it must see, on networks of every kind.

Networks are moved along their own groups, which scale whole tensors (``tensors``), every channel by
itself (``channels``) or every scale-invariant block by itself (``blocks``), or their hidden units
change places (``units``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from moved_nets import ALONE, NETS, STATISTICS, prepared

from flatmeter.measures.context import Context
from flatmeter.measures.registry import BUILT_IN, load_measure

EXACT = 1e-10
"""Relative change that passes for rounding: float64 rounds sums of up to P = 350 terms by
350 · 2e-16, and differences between them (a trace, a rise of the loss) lose up to three digits.
Solvers are asked for a hundredth of it."""

SEEN = 1e-5
"""Least relative change that counts as seen: no rounding explains it."""


@dataclass(frozen=True)
class Row:
    """Quantities of a measure, and the moves of the network that they do or do not see.

    Args:
        measure: its name.
        quantities: separated by spaces.
        nets: where it is tested.
        unseen, seen: moves, separated by spaces; one that a network does not have is left out.
        options: of the measure.
    """

    measure: str
    quantities: str
    nets: tuple[str, ...]
    unseen: str = ""
    seen: str = ""
    options: dict = field(default_factory=dict)


NORMALISED = ("mlp batch statistics", "resnet batch statistics")
SHORT = {"starts": 1, "steps": 5}
SOME = ("mlp", "cnn", "resnet batch-norm")
ROWS = (
    Row("minimum_sharpness", "value", ALONE, "tensors blocks units", "channels"),
    Row("minimum_sharpness", "value", STATISTICS, "tensors blocks", options={"max_probes": 2}),
    Row(
        "minimum_sharpness",
        "value",
        ALONE,
        "tensors channels blocks units",
        options={"granularity": "neuron"},
    ),
    Row(
        "quotient_hessian",
        "lambda_max lambda_min abs_max gradient_norm normalized",
        tuple(NETS),
        "tensors units",
        "channels",
        {"max_probes": 2},
    ),
    Row(
        "quotient_hessian",
        "lambda_max gradient_norm",
        NORMALISED,
        seen="blocks",
        options={"max_probes": 2},
    ),
    Row("quotient_hessian", "trace", SOME, "tensors units", "channels"),
    Row(
        "quotient_hessian",
        "lambda_max trace",
        SOME,
        "tensors units",
        "channels",
        {"hessian": "scaled"},
    ),
    Row(
        "quotient_hessian",
        "lambda_max lambda_min gradient_norm normalized",
        (*STATISTICS, "mlp layer-norm", "group-norm"),
        "tensors blocks",
        "channels",
        {"blocks": "row", "max_probes": 2},
    ),
    Row("bn_sharpness", "value", NORMALISED, "tensors blocks", "channels", SHORT),
    Row("bn_sharpness", "value", ("group-norm",), "tensors blocks", options=SHORT),
    # Tensors move the weight and the bias of a layer before a layer-norm by different factors.
    Row("bn_sharpness", "value", ("mlp layer-norm",), "blocks", "tensors", SHORT),
    Row("spherical_sharpness", "block", NORMALISED, "tensors blocks units", "channels"),
    Row("spherical_sharpness", "block", ("mlp layer-norm",), "blocks", "tensors channels"),
    Row(
        "spherical_sharpness",
        "global tangent raw eos_ratio",
        ("mlp batch statistics",),
        "units",
        "tensors channels blocks",
    ),
    Row(
        "relative_flatness",
        "trace max frobenius_trace",
        tuple(NETS),
        "tensors blocks units",
        "channels",
    ),
    Row("relative_flatness", "normalized", tuple(NETS), "tensors blocks units channels"),
    Row(
        "relative_flatness",
        "trace max trace_mean max_mean",
        (*SOME, "mlp layer-norm", "mlp batch statistics"),
        "tensors blocks units",
        "channels",
        {"layer": "all"},
    ),
    Row(
        "relative_flatness",
        "normalized normalized_mean",
        SOME,
        "tensors channels units",
        options={"layer": "all"},
    ),
    Row(
        "relative_flatness",
        "frobenius_trace frobenius_trace_mean",
        ("cnn", "group-norm"),
        "tensors",
        "channels blocks",
        {"layer": "all"},
    ),
    Row("hessian_eigenvalues", "lambda_max lambda_min", SOME, "units", "tensors channels"),
    Row("hessian_trace", "value", SOME, "units", "tensors channels"),
    Row(
        "hessian_density",
        "frobenius_norm",
        ("mlp",),
        seen="tensors channels",
        options={"steps": 4, "max_products": 20},
    ),
    Row("gradient_norm", "value", SOME, "units", "tensors channels"),
    Row(
        "adaptive_sharpness",
        "average worst",
        (*SOME, "attention", "group-norm", "mlp batch statistics"),
        "tensors channels blocks",
        options={"samples": 3},
    ),
    Row(
        "adaptive_sharpness",
        "worst",
        ("mlp",),
        "tensors channels",
        options={"norm": "linf", "samples": 3},
    ),
    Row(
        "adaptive_sharpness",
        "average worst",
        SOME,
        "tensors",
        "channels",
        {"radius": "layer", "samples": 3},
    ),
    Row(
        "adaptive_sharpness",
        "average worst",
        SOME,
        seen="tensors channels",
        options={"radius": "standard", "samples": 3},
    ),
)


SETTINGS = {}


@pytest.fixture
def setting(make_risk):
    """Risk, group and moved parameters of a network, made once."""

    def of(name):
        if name not in SETTINGS:
            SETTINGS[name] = prepared(name, make_risk)
        return SETTINGS[name]

    return of


def measured(case, row, move):
    """The quantities after a move; rows of the same measure share them."""
    key = row.measure, *row.options.items(), move
    if key not in case.values:
        risk = case.risk
        risk.theta = case.moved[move]
        # A mean along a line needs no more nodes than usual: the line is the same.
        rtol = None if row.measure == "bn_sharpness" else EXACT / 100
        context = Context(risk, risk.bn, lambda: case.group, rtol=rtol, lr=0.1)
        context.training_weight_decay = 0.01
        case.values[key] = load_measure(row.measure)(**row.options).compute(context).quantities
    return case.values[key]


def title(value):
    if isinstance(value, Row):
        return "-".join([value.measure, *map(str, value.options.values()), value.quantities])
    return value


@pytest.mark.parametrize(
    ("row", "name"), [(row, name) for row in ROWS for name in row.nets], ids=title
)
def test_what_is_seen(setting, row, name):
    case = setting(name)
    before = measured(case, row, "nothing")
    for move in f"{row.unseen} {row.seen}".split():
        if move not in case.moved:
            continue
        after = measured(case, row, move)
        for quantity in row.quantities.split():
            a, b = before[quantity].value, after[quantity].value
            change = abs(a - b) / abs(a)
            if move in row.seen:
                assert change > SEEN, (move, quantity)
            else:
                assert change < EXACT, (move, quantity)


@pytest.mark.parametrize("name", ["mlp layer-norm", "resnet batch statistics"])
def test_what_eps_breaks_vanishes_with_it(make_risk, name):
    row = Row("quotient_hessian", "gradient_norm", (name,), options={"max_probes": 2})
    changes = []
    for factor in (1, 1e-2, 1e-4):
        case = prepared(name, make_risk, factor)
        before, after = (
            measured(case, row, m)["gradient_norm"].value for m in ("nothing", "tensors")
        )
        changes.append(abs(after / before - 1))
    assert changes[0] < 1e-3
    assert changes[0] / changes[1] == pytest.approx(100, rel=0.05)
    assert changes[1] / changes[2] == pytest.approx(100, rel=0.05)


def test_every_measure_has_its_rows_and_says_what_they_say():
    assert {row.measure for row in ROWS} == set(BUILT_IN)
    for name in BUILT_IN:
        freed = {move for row in ROWS if row.measure == name for move in row.unseen.split()}
        claimed = load_measure(name).invariant_to
        assert bool(freed - {"units"}) == any("units" not in words for words in claimed), name
