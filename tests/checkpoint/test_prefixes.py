"""Prefixes of wrappers: as few as needed are stripped, and never into a collision."""

from __future__ import annotations

import pytest

from flatmeter.checkpoint.prefixes import strip_prefixes
from flatmeter.errors import CheckpointRefused

WANTED = {"a.weight", "a.bias", "b.weight"}


def stripped(names, wanted=WANTED):
    renaming = strip_prefixes(names, lambda found: set(found) == set(wanted), "here")
    assert sorted(renaming.stored.values()) == sorted(n for n in names if n != "n_averaged")
    return renaming


def prefixed(prefix):
    return [prefix + name for name in sorted(WANTED)]


def test_names_that_fit_stay():
    renaming = stripped(sorted(WANTED))
    assert set(renaming.stored) == WANTED
    assert renaming.notes == ()


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_fsdp_wrapped_module.",
        "_checkpoint_wrapped_module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module.",
        "model.",
        "net.",
        "backbone.",
        "module.model.",
        "model.module.",
        "model._orig_mod.",
    ],
)
def test_prefixes(prefix):
    renaming = stripped(prefixed(prefix))
    assert set(renaming.stored) == WANTED
    assert all(any(part in note for note in renaming.notes) for part in prefix.split(".") if part)


def test_wrappers_at_any_depth():
    names = ["a._checkpoint_wrapped_module.weight", "a._checkpoint_wrapped_module.bias"]
    assert set(stripped([*names, "_fsdp_wrapped_module.b.weight"]).stored) == WANTED


def test_a_layer_called_module_is_kept_where_the_network_has_it():
    wanted = {"module.weight", "module.bias"}
    assert set(stripped(["module.weight", "module.bias"], wanted).stored) == wanted
    assert set(stripped(["module.module.weight", "module.module.bias"], wanted).stored) == wanted


def test_a_common_prefix_is_kept_where_nothing_fits():
    assert set(stripped(["model.x", "model.y"]).stored) == {"model.x", "model.y"}


def test_only_one_common_prefix_is_tried():
    assert set(stripped(prefixed("net.model.")).stored) == set(prefixed("net.model."))


def test_averaged_models_count_is_no_weight():
    renaming = stripped(["n_averaged", *prefixed("module.")])
    assert set(renaming.stored) == WANTED
    assert any("averaged" in note for note in renaming.notes)


def test_collision():
    with pytest.raises(CheckpointRefused, match="one name"):
        stripped(["a.weight", "module.a.weight"])


def test_a_name_that_would_vanish():
    with pytest.raises(CheckpointRefused):
        stripped(["module", "a.weight"])


def test_averaged_weights_beside_others_are_left_out():
    names = [f"{first}.{name}" for first in ("model", "model_ema") for name in sorted(WANTED)]
    renaming = strip_prefixes(names, lambda found: set(found) == WANTED, "here")
    assert set(renaming.stored.values()) == {f"model.{name}" for name in WANTED}
    assert any("model_ema left out (--ema" in note for note in renaming.notes)


def test_a_part_of_the_network_that_is_called_so_is_kept():
    wanted = {"ema.weight", "b.weight"}
    assert set(stripped(sorted(wanted), wanted).stored) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.weight_g", "a.parametrizations.weight.original0"),
        ("a.weight_v", "a.parametrizations.weight.original1"),
        ("weight_g", "parametrizations.weight.original0"),
        ("a.parametrizations.weight.original0", "a.weight_g"),
        ("a.parametrizations.weight.original1", "a.weight_v"),
        ("features.denselayer1.norm.1.weight", "features.denselayer1.norm1.weight"),
        ("features.denselayer1.conv.2.weight", "features.denselayer1.conv2.weight"),
        ("encoder.layer_0.mlp.linear_1.bias", "encoder.layer_0.mlp.0.bias"),
        ("encoder.layer_0.mlp.linear_2.weight", "encoder.layer_0.mlp.3.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_names_of_another_time(name, wanted, prefix):
    renaming = stripped([prefix + name, f"{prefix}c.x"], {wanted, "c.x"})
    assert renaming.stored == {wanted: prefix + name, "c.x": f"{prefix}c.x"}
    assert "names" in renaming.notes[-1]


def test_names_that_fit_are_not_brought_up_to_date():
    wanted = {"a.weight_g", "a.weight_v"}
    assert set(stripped(sorted(wanted), wanted).stored) == wanted
