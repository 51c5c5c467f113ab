"""What one process and several are to agree on: run alone by the tests, and as one of several.

``python program.py RANK SIZE PORT PART FILE`` writes what the first process found into FILE.
"""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

import flatmeter
from flatmeter import Estimate, Measure, Measurement
from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.data.dataset import Dataset
from flatmeter.ranks.group import current, using
from flatmeter.ranks.join import joined_by_script
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk

LIGHT = {
    "adaptive_sharpness": {"samples": 4, "starts": 1, "steps": 3, "rho_average": 0.5},
    "bn_sharpness": {"starts": 1, "steps": 3, "max_nodes": 8},
}


def data(n, classes=3):
    """Inputs and targets."""
    source = torch.Generator().manual_seed(n)
    return torch.randn(n, 1, 6, 6, generator=source), torch.arange(n) % classes


def conv(classes=3, norm=True):
    """A small network with batch-norm, or with layers that take probes."""
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(4) if norm else nn.Tanh()
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(),
        nn.Linear(5, classes),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


def values(rows):
    """Numbers by name, with what they cost and took."""
    found = {}
    for row in rows:
        name = f"{row.measure}.{row.quantity} of {row.scope}"
        found[name] = [row.value, row.loss, row.accuracy, row.gradient_equivalents, row.n_probes]
        found[name].append(row.stderr_data)
        found[f"{name}: words"] = [row.key, row.status, row.why]
    return found


def measured(distributed, n=23, net=None, measures="all", **more):
    """Some measures of a network in memory."""
    settings = {"batch_size": 4, "bn_batch": 5, "options": LIGHT, "dtype": "float64"}
    settings |= {"max_products": 8, **more}
    results = flatmeter.measure(
        net or conv(), measures, data=data(n), distributed=distributed, **settings
    )
    return values(results)


def of_a_sample(distributed, **more):
    """Measures of a sample of some data, of whose groups each process takes some."""
    x, y = data(23)
    some = ["gradient_norm", "hessian_eigenvalues", "hessian_trace", "adaptive_sharpness"]
    return values(
        flatmeter.measure(
            conv(),
            some,
            data=Dataset(x, y, "a sample", source_size=100),
            distributed=distributed,
            dtype="float64",
            batch_size=4,
            options=LIGHT,
            max_products=8,
            **more,
        )
    )


def smooth_hinge(z, y):
    """A loss of one's own."""
    return torch.nn.functional.softplus(1 - z.gather(1, y[:, None])[:, 0] + z.logsumexp(1)).mean()


def losses(distributed):
    """Losses besides cross-entropy."""
    some = ["gradient_norm", "hessian_eigenvalues", "minimum_sharpness"]
    x, y = data(23)
    several = torch.nn.functional.one_hot(y, 3).float()
    found = {}
    for name, loss, targets in (("bce", "bce", several), ("own", smooth_hinge, y)):
        results = flatmeter.measure(
            conv(norm=False),
            some,
            data=(x, targets),
            loss=loss,
            distributed=distributed,
            dtype="float64",
            batch_size=4,
            max_products=8,
        )
        found |= {f"{name} {key}": value for key, value in values(results).items()}
    return found


def flatness(distributed, method):
    """Relative flatness by one of its computations."""
    settings = {"layer": "all", "method": method, "max_probes": 4}
    return measured(
        distributed,
        net=conv(norm=False),
        measures="relative_flatness",
        options={"relative_flatness": settings},
    )


def engine(distributed):
    """Operators, traces by every kind of probe, evaluation without a meaning of accuracy."""
    if not distributed:
        return _engine()
    with joined_by_script(gpus=False) as ranks, using(ranks):
        return _engine()


def _engine():
    found = {}
    for classes, bn in ((3, "eval"), (120, "eval"), (3, "batch")):
        x, y = data(140 if bn == "eval" else 23, classes)
        loss = load_loss("cross_entropy")
        risk = EmpiricalRisk(
            conv(classes), loss, Dataset(x, y, "test", classes), bn=bn, bn_batch=5,
            batch_size=50, dtype=torch.float64,
        )  # fmt: skip
        V = torch.randn(2, risk.space.dim, generator=torch.Generator().manual_seed(1)).double()
        for operator in (HessianOperator(risk), GaussNewtonOperator(risk)):
            image = operator.matmat(V)
            found[f"{classes} {bn} {type(operator).__name__}"] = image.flatten().tolist()
            # Solvers go on from these bits in every process.
            assert current().alike(str(image.numpy().tobytes()))
        for curvature in ("ggn", "hessian"):
            traces = layer_traces(risk, curvature=curvature, max_probes=4)
            found[f"{classes} {bn} {curvature}"] = traces.values.tolist()
    return found


class Toy(Measure):
    title = "A toy"
    reference = "a test"

    @property
    def rank(self):
        return current().rank


class Hungry(Toy):
    name = "hungry"

    def compute(self, context):
        for x, _ in context.risk.batches():
            if self.rank == 1 and len(x) > 2:
                raise torch.OutOfMemoryError("too much at once")
        return Measurement({"value": Estimate.of_exact(context.risk.value())})


class Starving(Toy):
    name = "starving"

    def compute(self, context):
        if self.rank == 1:
            raise torch.OutOfMemoryError("never enough")
        return Measurement({"value": Estimate.of_exact(context.risk.value())})


class Buggy(Toy):
    name = "buggy"

    def compute(self, context):
        if self.rank == 1:
            return {}["nothing"]
        return Measurement({"value": Estimate.of_exact(context.risk.value())})


class Refusing(Toy):
    name = "refusing"

    def compute(self, context):
        raise flatmeter.NotApplicable("it has no meaning here")


class Endless(Toy):
    name = "endless"

    def compute(self, context):
        while True:
            context.risk.gradient()
            context.progress("going on")


class Astray(Toy):
    name = "astray"

    def compute(self, context):
        if self.rank == 1:
            context.risk.value()
        return Measurement({"value": Estimate.of_exact(float(context.risk.gradient().norm()))})


def all_measures(distributed):
    """Every measure, in both modes of batch-norm; the symmetries take most of the time."""
    interacting = ["quotient_hessian", "bn_sharpness", "spherical_sharpness", "hessian_trace"]
    return {
        "float64": measured(distributed),
        "batch statistics": measured(distributed, measures=interacting, bn="batch"),
    }


def every_computation(distributed):
    """What measures are made of, and fewer samples or batches than processes."""
    some = ["gradient_norm", "hessian_eigenvalues", "relative_flatness"]
    return {
        "float32": measured(distributed, measures=some, dtype="float32"),
        "few samples": measured(distributed, n=3, measures=some),
        "one batch of statistics": measured(distributed, n=3, measures=some, bn="batch"),
        **{m: flatness(distributed, m) for m in ("auto", "ggn", "exact", "probe")},
        "engine": engine(distributed),
        "a sample": of_a_sample(distributed),
        "batches of statistics": of_a_sample(distributed, bn="batch", bn_batch=2),
        "losses": losses(distributed),
        "alone": measured(False, measures="gradient_norm"),
    }


def failures():
    """Failures of one process that all are told."""
    found = {}
    for toy in (Hungry, Starving, Buggy, Refusing):
        (row,) = flatmeter.measure(conv(), [toy], data=data(23), distributed=True, dtype="float64")
        found[toy.name] = [row.status, row.message, row.value]
    for toy, limit in ((Endless, 1 if dist.get_rank() else 60), (Astray, None)):
        try:
            flatmeter.measure(conv(), [toy], data=data(23), max_time=limit, distributed=True)
        except flatmeter.FlatmeterError as error:
            found[toy.name] = [type(error).__name__, error.message]
    different = data(23 if dist.get_rank() else 22)
    try:
        flatmeter.measure(conv(), "gradient_norm", data=different, distributed=True)
    except flatmeter.FlatmeterError as error:
        found["different data"] = [type(error).__name__, error.message]
    return found


def main():
    rank, size, port, part, file = sys.argv[1:]
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=int(rank), world_size=int(size))
    found = every_computation(True) if part == "computations" else all_measures(True)
    if part == "measures":
        found["failures"] = failures()
    everyone = [None] * int(size)
    dist.all_gather_object(everyone, found)
    assert all(other == found for other in everyone), "processes tell different things"
    if rank == "0":
        with open(file, "w") as out:
            json.dump(found, out)


if __name__ == "__main__":
    main()
