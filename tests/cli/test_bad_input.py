"""What goes wrong with files and data: a sentence, the right exit code, no traceback."""

from pathlib import Path

import numpy as np
import pytest


def _data(inputs, targets):
    np.savez("bad.npz", inputs=inputs, targets=targets)
    return ["--data", "bad.npz"]


def _missing(checkpoint):
    return ["b.pt"]


def _near(checkpoint):
    return ["aa.pt"]


def _truncated(checkpoint):
    Path("b.pt").write_bytes(checkpoint.read_bytes()[:700])
    return ["b.pt"]


def _text(checkpoint):
    Path("b.pt").write_text("these are not weights")
    return ["b.pt"]


def _folder(checkpoint):
    Path("empty").mkdir()
    return ["empty"]


def _architecture(checkpoint):
    return [checkpoint, "--model-arg", "hidden=[6, 7]"]


def _labels(checkpoint):
    return [checkpoint, *_data(np.zeros((4, 4), np.float32), np.array([0, 1, 2, 3]))]


def _shape(checkpoint):
    return [checkpoint, *_data(np.zeros((4, 9), np.float32), np.array([0, 1, 2, 1]))]


def _lengths(checkpoint):
    return [checkpoint, *_data(np.zeros((4, 4), np.float32), np.array([0, 1, 2]))]


def _real_targets(checkpoint):
    return [checkpoint, *_data(np.zeros((4, 4), np.float32), np.zeros(4, np.float32))]


def _no_data(checkpoint):
    return [checkpoint, "--data", "nowhere.npz"]


def _data_name(checkpoint):
    return [checkpoint, "--data", "digts"]


def _loss_name(checkpoint):
    return [checkpoint, "--loss", "cross_entrpy"]


def _model_name(checkpoint):
    return [checkpoint, "--model", "torchvision:resnet81"]


def _model_argument(checkpoint):
    return [checkpoint, "--model-arg", "widht=3"]


def _output_is_a_file(checkpoint):
    Path("out").write_text("")
    return [checkpoint, "-o", "out"]


@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    [
        (_missing, 2, ["b.pt", "no such file"]),
        (_near, 2, ["aa.pt: no such file", "did you mean a.pt?"]),
        (_truncated, 3, ["b.pt"]),
        (_text, 3, ["b.pt"]),
        (_folder, 2, ["empty"]),
        (_architecture, 4, ["linear1.weight", "missing", "another shape"]),
        (_labels, 2, ["labels run from 0 to 3", "3 outputs"]),
        (_shape, 2, ["[4, 9]"]),
        (_lengths, 2, ["4 inputs but 3 targets"]),
        (_real_targets, 2, ["integer labels"]),
        (_no_data, 2, ["nowhere.npz"]),
        (_data_name, 2, ["digts", "did you mean digits?"]),
        (_loss_name, 2, ["cross_entrpy", "did you mean cross_entropy?"]),
        (_model_name, 2, ["resnet81", "did you mean torchvision:resnet"]),
        (_model_argument, 2, ["widht"]),
        (_output_is_a_file, 2, ["out: cannot write", "folder"]),
    ],
)
def test_told_in_a_sentence(flatmeter, checkpoint, toys, prepare, code, words):
    arguments = prepare(checkpoint)
    found, out, err = flatmeter("measure", *arguments, "-M", f"{toys}:Norm")
    assert (found, out) == (code, "")
    assert err.startswith("flatmeter: error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
