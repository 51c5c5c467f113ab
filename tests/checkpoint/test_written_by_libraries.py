"""Checkpoints as training libraries write them, where these are installed."""

from __future__ import annotations

import argparse
import sys

import pytest
import torch
from torch import nn

from flatmeter.checkpoint import fit, read
from flatmeter.import_torchvision import import_torchvision


@pytest.fixture(autouse=True)
def _torchvision():
    """The libraries import torchvision, whose operators may be missing."""
    import_torchvision()


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path, net, fresh, equal):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self, width=4, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.model = net

        def training_step(self, batch, _):
            return self.model(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    found = read(tmp_path / "last.ckpt")
    assert found.key == "state_dict"
    assert found.metadata["stored"]["hyper_parameters"] == {"width": 4, "lr": 0.1}
    model = fresh()
    assert "prefix model. stripped" in fit(model, found)
    assert equal(model.state_dict(), net.state_dict())


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


def test_data_parallel_of_torch_distributed(tmp_path, net, fresh, equal):
    if sys.platform == "win32":
        pytest.skip("gloo is not built there")
    from torch.distributed import destroy_process_group, init_process_group

    init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(net)
        torch.save({"model": wrapped.state_dict(), "epoch": 1}, tmp_path / "c.pt")
    finally:
        destroy_process_group()
    model = fresh()
    fit(model, read(tmp_path / "c.pt"))
    assert equal(model.state_dict(), net.state_dict())
