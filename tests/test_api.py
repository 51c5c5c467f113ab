"""The public names, as a Python user meets them."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import flatmeter
from flatmeter.errors import NonFinite, Stopped, UsageError
from flatmeter.model.registry import build_model


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(30, 4, generator=generator), torch.arange(30) % 3


def test_every_public_name_is_there():
    for name in flatmeter.__all__:
        assert getattr(flatmeter, name) is not None
    assert set(flatmeter.__all__) <= set(dir(flatmeter))
    with pytest.raises(AttributeError, match="no attribute 'measurement'"):
        flatmeter.measurement  # noqa: B018


def test_import_is_quick_and_without_torch():
    script = "import flatmeter, sys; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_network_in_memory_is_measured_and_left_as_it_was(net, data):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.train()
    results = flatmeter.measure(net, ["gradient_norm", "hessian_trace"], data=data)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.eval()
    loss = nn.functional.cross_entropy(net(data[0]), data[1])
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
    assert results.value("gradient_norm") == pytest.approx(float(norm), rel=1e-5)
    row = results.row("gradient_norm")
    assert row.checkpoint == "Sequential"
    assert row.loss == pytest.approx(loss.item(), rel=1e-5)
    assert row.n_data == 30
    assert row.bn_mode == "eval"
    assert row.status == "ok"
    assert row.seconds > 0
    assert row.gradient_equivalents >= 1
    assert row.peak_bytes > 0
    assert "hessian_" in str(results)


def test_classes_instances_and_functions_will_do(net, data):
    class Size(flatmeter.Measure):
        name = "size"
        title = "Size"
        reference = "none"

        def compute(self, context):
            return flatmeter.Measurement(
                {"value": flatmeter.Estimate.of_exact(len(context.risk.theta))}
            )

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    pairs = torch.utils.data.TensorDataset(*data)
    for measure in (Size, Size()):
        results = flatmeter.measure(net, [measure], data=pairs, loss=loss)
        assert results.value("size") == sum(p.numel() for p in net.parameters())


def test_batch_norm_mode_changes_the_number(net, data):
    one = flatmeter.measure(net, "gradient_norm", data=data, bn="eval").value("gradient_norm")
    two = flatmeter.measure(net, "gradient_norm", data=data, bn="batch").value("gradient_norm")
    assert one != two


def test_saved_and_loaded(tmp_path):
    model = build_model("zoo:mlp", {"hidden": [6]})
    path = flatmeter.save(
        tmp_path / "a.pt", model, name="zoo:mlp", args={"hidden": [6]}, data="digits", loss="mse"
    )
    subject = flatmeter.load(path, samples=100, loss="cross_entropy")
    assert len(subject.data) == 100
    assert torch.equal(subject.model.head.weight, model.head.weight)
    results = flatmeter.measure(subject, "gradient_norm")
    assert results.row("gradient_norm").checkpoint == str(path)
    other = flatmeter.measure(path, "gradient_norm", samples=100, loss="cross_entropy")
    assert other.value("gradient_norm") == results.value("gradient_norm")


def test_what_is_missing_is_named(net, data):
    with pytest.raises(UsageError, match="needs data"):
        flatmeter.measure(net)
    with pytest.raises(UsageError, match="gradient_norm"):
        flatmeter.measure(net, "gradient_nrm", data=data)
    with pytest.raises(UsageError, match=r"device cannot be 'tpu': it must be"):
        flatmeter.measure(net, "gradient_norm", data=data, device="tpu")
    with pytest.raises(UsageError, match="which loss"):
        flatmeter.measure(net, "gradient_norm", data=(data[0], data[0][:, :3]))


def test_values_that_are_not_finite_name_their_layer(net, data):
    with torch.no_grad():
        net[3].weight[0, 0] = float("nan")
    with pytest.raises(NonFinite, match=r"3\.weight"):
        flatmeter.measure(net, "gradient_norm", data=data)


def test_a_missing_file_is_told_as_on_the_command_line(tmp_path, monkeypatch, capsys):
    from flatmeter.cli.main import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "nofiles.pt").touch()
    with pytest.raises(UsageError, match=r"did you mean nofiles\.pt") as caught:
        flatmeter.measure("nofile.pt")
    assert run(["measure", "nofile.pt"]) == 2
    assert capsys.readouterr().err == f"flatmeter: error: {caught.value}\n"


def test_time_limit(net, data):
    with pytest.raises(Stopped, match=r"the time limit\ngive max_time more"):
        flatmeter.measure(net, "hessian_trace", data=data, max_time=1e-9)


def test_progress_is_told(net, data):
    said = []
    flatmeter.measure(net, "gradient_norm", data=data, progress=said.append)
    assert any("gradient_norm" in text for text in said)


def test_fewer_samples_of_a_loaded_subject(tmp_path):
    model = build_model("zoo:mlp", {"hidden": [6]})
    path = flatmeter.save(
        tmp_path / "a.pt", model, name="zoo:mlp", args={"hidden": [6]}, data="digits"
    )
    subject = flatmeter.load(path, loss="cross_entropy")
    results = flatmeter.measure(subject, "gradient_norm", samples=7)
    assert results.rows[0].n_data == 7


def test_a_subject_tells_what_it_is_in_one_line(net, data, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    subject = flatmeter.load(tmp_path / "net.pt", model=net, data=data, samples=7)
    assert repr(subject) == (
        f"Subject('{tmp_path}/net.pt': Sequential of 53 parameters, "
        "Dataset('data': inputs float32 [7, 4], targets int64 [7]), cross_entropy)"
    )
