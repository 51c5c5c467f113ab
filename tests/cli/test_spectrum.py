from __future__ import annotations

import importlib.util
import json

import pytest

FLAGS = ("--set", "hessian_density.steps=8", "--progress", "none")


def test_prints_a_histogram_and_exports_the_curve(flatmeter, checkpoint) -> None:
    code, out, err = flatmeter("spectrum", checkpoint, *FLAGS, "--export", "curve.json")
    assert (code, err) == (0, "")
    assert out.startswith("a.pt: 43 eigenvalues\n")
    assert "log10(1 + eigenvalues)" in out
    (spectrum,) = json.loads(checkpoint.with_name("curve.json").read_text())["spectra"]
    assert sum(spectrum["counts"]) == pytest.approx(43, abs=1)
    code, out, _ = flatmeter("spectrum", checkpoint, *FLAGS, "-f", "csv")
    assert code == 0
    assert out.splitlines()[0].startswith("checkpoint,grid,density,")
    assert len(out.splitlines()) == len(spectrum["grid"]) + 1


def test_one_that_cannot_be_read_does_not_stop_the_others(flatmeter, checkpoint) -> None:
    checkpoint.with_name("b.pt").write_bytes(b"no checkpoint")
    code, out, err = flatmeter("spectrum", "b.pt", checkpoint, *FLAGS)
    assert code == 3
    assert "b.pt" in err
    assert out.startswith("a.pt: 43 eigenvalues")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-f", "md"), "csv or json"),
        (("--export", "a.html"), "csv or json"),
        (("--plot", "a.gif"), "png, svg, pdf"),
        (("--export", "nowhere/a.csv"), "nowhere"),
        ((), "no checkpoint is named"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_measured(
    flatmeter, checkpoint, arguments, said
) -> None:
    named = (checkpoint,) if arguments else ()
    code, out, err = flatmeter("spectrum", *named, *FLAGS, *arguments)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)
def test_draws(flatmeter, checkpoint) -> None:
    code, _, err = flatmeter("spectrum", checkpoint, *FLAGS, "--plot", "picture.svg")
    assert (code, err) == (0, "")
    assert "<svg" in checkpoint.with_name("picture.svg").read_text()
    code, _, err = flatmeter("spectrum", checkpoint, *FLAGS, "--plot", "nowhere/a.svg")
    assert code == 2
    assert "nowhere" in err
