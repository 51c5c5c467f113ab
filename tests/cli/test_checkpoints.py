"""Checkpoints that hold more, or less, than one set of good weights."""

from __future__ import annotations

import json

import torch

FLAGS = ("-M", "gradient_norm", "-f", "json", "-q")


def test_averaged_weights_are_another_measurement(flatmeter, checkpoint):
    content = torch.load(checkpoint)
    plain = content["state_dict"]
    content["state_dict_ema"] = {name: tensor / 2 for name, tensor in plain.items()}
    torch.save(content, checkpoint)

    def row(*flags):
        code, out, err = flatmeter("measure", checkpoint, *FLAGS, *flags)
        assert (code, err) == (0, "")
        return json.loads(out)["rows"][0]

    own, averaged = row(), row("--ema")
    assert own["value"] != averaged["value"]
    assert own["key"] != averaged["key"]
    assert averaged["key"] == row("--key", "state_dict_ema")["key"]


def test_averaged_weights_that_are_not_there(flatmeter, checkpoint):
    code, _, err = flatmeter("measure", checkpoint, *FLAGS, "--ema")
    assert code == 2
    assert err == (
        "flatmeter: error: a.pt: no entry of it holds averaged weights; weights stand under: "
        "state_dict\nleave --ema out, or name one of these by --key\n"
    )
