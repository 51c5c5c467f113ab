"""The architecture from names and shapes alone: exact and unique, or the nearest three."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from flatmeter.checkpoint import Checkpoint, fit
from flatmeter.errors import UsageError
from flatmeter.import_torchvision import import_torchvision
from flatmeter.model.infer import in_words, infer
from flatmeter.model.layout_cache import layouts
from flatmeter.model.registry import build_model, timm_module, torchvision_names

import_torchvision()

from torchvision import models  # noqa: E402


def meta(name, **args):
    """Names and shapes of torchvision's own network."""
    with torch.device("meta"):
        return models.get_model(name, weights=None, **args).state_dict()


def resnet(classes=10, channels=3, *, small=False, name="resnet18"):
    """A network changed by hand, as people do for small images."""
    with torch.device("meta"):
        net = models.get_model(name, weights=None, num_classes=classes)
        if small:
            net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
            net.maxpool = nn.Identity()
        elif channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return net.state_dict()


def told(state, **more):
    found = infer(state, **more)
    assert found.chosen is not None, [str(one) for one in found.exact]
    return str(found.chosen)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "squeezenet1_1", "vgg11_bn", "mobilenet_v3_small", "convnext_tiny", "mnasnet0_75"],
)
def test_torchvisions_networks(name):
    assert told(meta(name)) == f"torchvision:{name}"
    assert told(meta(name, num_classes=7)) == f"torchvision:{name} num_classes=7"


def test_every_layout_is_unique():
    """Of all classification networks of torchvision, no two have the same names and shapes."""
    every = layouts("torchvision")
    assert {one.model for one in every} == {f"torchvision:{n}" for n in torchvision_names()}
    seen = [tuple(sorted(one.shapes.items())) for one in every]
    assert len(set(seen)) == len(every)
    # An argument that no shape shows leaves two networks.
    assert {one.model.partition(":")[2] for one in every if one.silent} == {
        "googlenet",
        "inception_v3",
    }


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (resnet(), "num_classes=10"),
        (resnet(classes=1, channels=1), "in_channels=1 num_classes=1"),
        (resnet(small=True), "stem=cifar num_classes=10"),
        (resnet(small=True, channels=1), "stem=cifar in_channels=1 num_classes=10"),
    ],
    ids=["classes", "channels", "small", "small and gray"],
)
def test_what_is_read_off_the_shapes(state, said):
    assert told(state) == f"torchvision:resnet18 {said}"


def test_image_size_is_read_off_the_positions():
    state = meta("vit_b_16", image_size=64, num_classes=5)
    assert told(state) == "torchvision:vit_b_16 image_size=64 num_classes=5"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.", "net.module."])
def test_prefixes(prefix):
    state = {prefix + name: tensor for name, tensor in resnet().items()}
    assert told(state) == "torchvision:resnet18 num_classes=10"


def test_the_count_of_batches_may_be_missing():
    state = {n: t for n, t in resnet().items() if "num_batches" not in n}
    assert told(state) == "torchvision:resnet18 num_classes=10"


def test_names_of_an_older_torchvision():
    """As torchvision's own files for DenseNet have them."""
    state = {n.replace("norm1.", "norm.1."): t for n, t in meta("densenet121").items()}
    assert told(state) == "torchvision:densenet121"


def test_what_no_shape_shows_is_asked_for():
    found = infer(meta("googlenet", init_weights=False))
    assert found.chosen is None
    assert [str(one) for one in found.exact] == [
        "torchvision:googlenet transform_input=false",
        "torchvision:googlenet transform_input=true",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("fc.bias"),
        lambda s: s.update({"fc.weight": torch.ones(10, 511, device="meta")}),
        lambda s: s.update({"fc.bias": torch.ones(9, device="meta")}),
        lambda s: s.update({"extra": torch.ones(1)}),
        lambda s: s.update({"conv1.weight": torch.ones(64, 3, 5, 5, device="meta")}),
        lambda s: s.update({"bn1.weight": torch.ones(64, 1, device="meta")}),
    ],
    ids=["missing", "shape", "two counts of classes", "unexpected", "stem", "rank"],
)
def test_a_near_miss_lists_the_nearest_three(change):
    state = dict(resnet())
    change(state)
    found = infer(state)
    assert found.exact == ()
    assert len(found.nearest) == 3
    nearest = found.nearest[0]
    assert nearest.layout.model == "torchvision:resnet18"
    assert len(nearest.missing) + len(nearest.unexpected) + len(nearest.misshaped) == 1
    assert in_words(nearest).startswith("1 ")
    assert found.nearest[1].share >= nearest.share


def test_weights_like_nothing_known():
    found = infer({"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3)})
    assert (found.exact, found.nearest) == ((), ())


def test_the_files_word_must_agree():
    assert told(resnet(), says="resnet18") == "torchvision:resnet18 num_classes=10"
    assert told(resnet(), says="ResNet-18") == "torchvision:resnet18 num_classes=10"
    assert infer(resnet(), says="resnetaa18").chosen is None


@pytest.mark.parametrize("args", [{"stem": "cifar"}, {"in_channels": 1}, {}])
def test_the_network_computes_what_people_build_by_hand(args):
    channels = args.get("in_channels", 3)
    net = models.resnet18(num_classes=4)
    if "stem" in args:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    elif channels == 1:
        net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    inference = infer(net.state_dict()).chosen
    assert inference.args == {**args, "num_classes": 4}
    twin = build_model(inference.model, inference.args)
    fit(twin, Checkpoint("here.pt", "torch zip", net.state_dict()))
    x = torch.randn(2, channels, 32, 32)
    assert torch.equal(net.eval()(x), twin.eval()(x))


def test_networks_that_look_for_the_version_of_their_names():
    net = models.mnasnet0_5(num_classes=3)
    state = dict(net.state_dict())
    twin = build_model("torchvision:mnasnet0_5", {"num_classes": 3})
    fit(twin, Checkpoint("here.pt", "torch zip", state))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(x), twin.eval()(x))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"stem": "small"}, "imagenet, cifar"),
        ({"in_channels": 0}, "in_channels cannot be 0"),
        ({"in_channels": "many"}, "in_channels cannot be"),
    ],
)
def test_arguments_of_the_first_layer_that_cannot_be_meant(args, said):
    with pytest.raises(UsageError, match=said):
        build_model("torchvision:resnet18", args)


def test_a_network_without_such_a_stem():
    with pytest.raises(UsageError, match="no stem"):
        build_model("torchvision:squeezenet1_1", {"stem": "cifar"})


@pytest.mark.filterwarnings("ignore:reading the shapes")
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timms_networks():
    timm = timm_module()

    def state(name):
        return timm.create_model(name, num_classes=5, in_chans=1).state_dict()

    said = "in_chans=1 num_classes=5"
    assert told(state("test_resnet")) == f"timm:test_resnet {said}"
    # One library's name for what two have: both compute the same.
    assert told(state("resnet18")) == "torchvision:resnet18 in_channels=1 num_classes=5"
    twin = state("tf_mobilenetv3_small_075")
    assert infer(twin).chosen is None
    assert [one.model for one in infer(twin).exact] == [
        "timm:mobilenetv3_small_075",
        "timm:tf_mobilenetv3_small_075",
    ]
    assert told(twin, says="tf_mobilenetv3_small_075.in1k").startswith("timm:tf_mobilenetv3")
