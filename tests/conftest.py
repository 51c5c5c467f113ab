"""Shared by the whole suite: one thread, and GPU tests skipped where there is no GPU."""

from __future__ import annotations

import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What is kept in the user's cache folder is neither used nor changed."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


TIMM = ("resnet18", "test_resnet", "mobilenetv3_small_075", "tf_mobilenetv3_small_075")


@pytest.fixture(scope="session", autouse=True)
def _few_networks_of_timm():
    """Where timm is installed, it seems to have these only: building all of it takes minutes."""
    if importlib.util.find_spec("timm") is None:
        yield
        return
    from flatmeter.model import library_layouts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_layouts, "timm_names", lambda: list(TIMM))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def make_risk():
    """Build an EmpiricalRisk in float64 from a network, inputs and targets."""
    from flatmeter.data.dataset import Dataset
    from flatmeter.risk.custom_loss import load_loss
    from flatmeter.risk.empirical import EmpiricalRisk

    def build(net, x, y, loss="cross_entropy", **options):
        import torch

        data = Dataset(inputs=x, targets=y, name="test", classes=None)
        kind = load_loss(loss) if isinstance(loss, (str, dict)) else loss
        return EmpiricalRisk(net, kind, data, **{"dtype": torch.float64, **options})

    return build


@pytest.fixture
def dense():
    """Dense float64 Hessian and Gauss-Newton matrix of a risk, by code that flatmeter lacks."""
    import torch

    def hessian(risk):
        def loss(flat):
            parts = [risk.total(flat, x, y) for x, y in risk.batches()]
            decay = 0.5 * risk.weight_decay * flat.square().sum()
            return sum(parts) / risk.normalizer + decay

        return torch.autograd.functional.hessian(loss, risk.theta)

    def gauss_newton(risk):
        total = torch.zeros(risk.space.dim, risk.space.dim, dtype=risk.dtype)
        for x, y in risk.batches():
            J = torch.autograd.functional.jacobian(lambda f, x=x: risk.outputs(f, x), risk.theta)
            z = risk.outputs(risk.theta, x)
            L = torch.autograd.functional.hessian(
                lambda v, y=y, z=z: risk.loss.total(v.reshape(z.shape), y), z.reshape(-1)
            )
            J = J.reshape(-1, risk.space.dim)
            total += J.T @ L @ J
        return total / risk.normalizer

    class Dense:
        pass

    Dense.hessian = staticmethod(hessian)
    Dense.gauss_newton = staticmethod(gauss_newton)
    return Dense
