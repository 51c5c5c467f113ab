from itertools import pairwise

import pytest


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("measures", ["minimum_sharpness: ", "relative_flatness: ", "options: "]),
        ("models", ["zoo:mlp", "torchvision:resnet18", "file.py:factory"]),
        ("data", ["digits", "torchvision:NAME"]),
        ("losses", ["cross_entropy", "mse", "bce"]),
        ("formats", ["safetensors"]),
    ],
)
def test_what_can_be_named(flatmeter, topic, words):
    code, out, err = flatmeter("list", topic)
    assert (code, err) == (0, "")
    assert all(word in out for word in words)
    assert "Traceback" not in out


def test_formats_say_what_is_read_and_what_to_do_else(flatmeter):
    lines = flatmeter("list", "formats")[1].splitlines()
    assert [x.split(":")[0] for x in lines if ": read" in x] == [
        "torch zip",
        "torch legacy",
        "safetensors",
        "torch.export",
        "Hugging Face folder",
        "distributed checkpoint",
    ]
    assert "damaged" not in "".join(lines)
    for line, advice in pairwise(lines):
        assert not line.endswith(": refused") or advice.startswith("    ")


def test_unknown_topic(flatmeter):
    code, out, err = flatmeter("list", "mesures")
    assert (code, out) == (2, "")
    assert err.endswith("\ndid you mean measures?\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(flatmeter, shell):
    code, out, _ = flatmeter("completion", shell)
    assert code == 0
    assert "_FLATMETER_COMPLETE" in out


def test_unknown_command_names_the_nearest(flatmeter):
    code, out, err = flatmeter("mesure", "a.pt")
    assert (code, out) == (2, "")
    assert err == "flatmeter: error: no such command 'mesure'\ndid you mean measure?\n"


def test_version(flatmeter):
    from flatmeter import __version__

    code, out, _ = flatmeter("--version")
    assert (code, out) == (0, f"flatmeter, version {__version__}\n")
