"""Checkpoints as training libraries write them, where these are installed."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch
from torch import nn

from flatmeter.checkpoint import fit, read
from flatmeter.cli.main import run
from flatmeter.errors import CheckpointRefused
from flatmeter.import_torchvision import import_torchvision


@pytest.fixture(autouse=True)
def _torchvision():
    """The libraries import torchvision, whose operators may be missing."""
    import_torchvision()


LIGHTNING_NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
"""


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path, net, fresh, equal, monkeypatch, capsys):
    """What a Trainer writes by itself is measured on the command line."""
    lightning = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self, width=4, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.model = net

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

    inputs, targets = torch.randn(8, 3), torch.arange(8) % 2
    data = torch.utils.data.TensorDataset(inputs, targets)
    keeper = ModelCheckpoint(tmp_path, "net", monitor="loss", save_top_k=1)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=1, logger=False, callbacks=[keeper],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    found = read(tmp_path / "net.ckpt")
    assert found.key == "state_dict"
    assert found.metadata["stored"]["hyper_parameters"] == {"width": 4, "lr": 0.1}
    assert found.metadata["stored"]["pytorch-lightning_version"] == lightning.__version__
    assert not found.notes
    model = fresh()
    assert "prefix model. stripped" in fit(model, found)
    assert equal(model.state_dict(), net.state_dict())
    monkeypatch.chdir(tmp_path)
    torch.save({"inputs": inputs, "targets": targets}, "data.pt")
    (tmp_path / "nets.py").write_text(LIGHTNING_NET)
    assert run(["measure", "net.ckpt", "--model", "nets.py:make", "--data", "data.pt",
                     "-M", "gradient_norm", "-f", "json"]) == 0  # fmt: skip
    loss = json.loads(capsys.readouterr().out)["rows"][0]["loss"]
    expected = nn.functional.cross_entropy(net.eval()(inputs), targets)
    assert loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("ema", [False, True])
def test_timm(tmp_path, net, fresh, equal, ema):
    pytest.importorskip("timm")
    from timm.utils import CheckpointSaver, ModelEmaV3

    average = ModelEmaV3(net, decay=0.5)
    saver = CheckpointSaver(
        net, torch.optim.SGD(net.parameters(), lr=0.1), model_ema=average, checkpoint_dir=tmp_path,
        args=argparse.Namespace(model="resnet18", lr=0.1), recovery_dir=tmp_path,
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight.zero_()
    saver.save_checkpoint(epoch=1, metric=0.5)
    found = read(tmp_path / "last.pth.tar", ema=ema)
    assert found.key == ("state_dict_ema" if ema else "state_dict")
    assert found.metadata["stored"]["args"]["model"] == "resnet18"
    model = fresh()
    fit(model, found)
    assert equal(model.state_dict(), (average.module if ema else net).state_dict())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A group of processes that is this one."""
    if sys.platform == "win32":
        pytest.skip("gloo is not built there")
    from torch.distributed import destroy_process_group, init_process_group

    meet = tmp_path_factory.mktemp("group") / "meet"
    init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
    yield
    destroy_process_group()


def ddp(net):
    return nn.parallel.DistributedDataParallel(net).state_dict()


def ddp_of_compiled(net):
    return nn.parallel.DistributedDataParallel(torch.compile(net)).state_dict()


def compiled_ddp(net):
    return torch.compile(nn.parallel.DistributedDataParallel(net)).state_dict()


def compiled_layers(net):
    return nn.Sequential(*(torch.compile(layer) for layer in net)).state_dict()


def checkpointed(net):
    """The wrapper's own state_dict leaves its prefix out; lists of parameters keep it."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    wrapped = nn.Sequential(*(checkpoint_wrapper(layer) for layer in net))
    return {**dict(wrapped.named_parameters()), **dict(wrapped.named_buffers())}


def fsdp(net):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(net, device_id=torch.device("cpu")).state_dict()


def fsdp_names(net):
    from torch.distributed.fsdp import FullyShardedDataParallel

    net[0] = FullyShardedDataParallel(net[0], use_orig_params=True, device_id=torch.device("cpu"))
    found = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert "0._fsdp_wrapped_module.weight" in found
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def fully_sharded(net):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(_sharded(net), options=whole)


def averaged(net):
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


def _sharded(net):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "wrap",
    [ddp, ddp_of_compiled, compiled_ddp, compiled_layers, checkpointed, fsdp, fsdp_names,
     fully_sharded, averaged],
    ids=lambda wrap: wrap.__name__,
)  # fmt: skip
def test_wrappers_of_torch(tmp_path, net, fresh, equal, alone, wrap):
    """Their names, as they write them, become those of the network without them."""
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.save({"model": wrap(net), "epoch": 1}, tmp_path / "c.pt")
    model = fresh()
    fit(model, read(tmp_path / "c.pt"))
    state.pop("1.num_batches_tracked")
    assert equal({name: model.state_dict()[name] for name in state}, state)


@pytest.mark.filterwarnings("ignore")
def test_parts_of_a_sharded_network(tmp_path, net, fresh, equal, alone):
    """Each process's own part is refused; what ``distributed.checkpoint`` makes of it is read."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sharded = _sharded(net)
    torch.save(sharded.state_dict(), tmp_path / "part.pt")
    with pytest.raises(CheckpointRefused, match="DTensor"):
        read(tmp_path / "part.pt")
    weights, optimiser = get_state_dict(sharded, torch.optim.AdamW(sharded.parameters()))
    # As PyTorch's own recipe names them.
    value = {"app": {"model": weights, "optim": optimiser}, "epoch": 1}
    dcp.save(value, checkpoint_id=tmp_path / "dcp")
    found = read(tmp_path / "dcp")
    assert found.key == "app.model"
    assert all(name in found.notes[0] for name in ("not read", "epoch", "app.optim.param_groups"))
    model = fresh()
    fit(model, found)
    assert equal(model.state_dict(), state)
