"""Six small networks trained on the embedded digits in seconds, saved as ordinary checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from flatmeter.checkpoint import save
from flatmeter.data.dataset import Dataset
from flatmeter.data.sources import load_data
from flatmeter.model.registry import build_model
from flatmeter.randomness import derived_generator
from flatmeter.results.place import check_folder

DATA = "digits:train"


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Args:
        model: its name in the zoo.
        args: of the model.
        optimiser: plain SGD or Adam.
        lr: learning rate.
        batch: samples per step.
        epochs: passes over the data.
    """

    model: str
    args: Mapping[str, Any] = field(default_factory=dict)
    optimiser: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    batch: int = 32
    epochs: int = 20


#: By file name: three networks without normalisation, three with batch-norm.
RECIPES: Mapping[str, Recipe] = {
    "mlp": Recipe("zoo:mlp", lr=0.2, epochs=40),
    "cnn": Recipe("zoo:cnn", {"channels": [12, 24]}, optimiser="adam", lr=1e-2, epochs=25),
    "residual": Recipe("zoo:resnet", {"norm": "none"}, optimiser="adam", lr=1e-2),
    "mlp-bn-batch32": Recipe("zoo:mlp", {"norm": "batch", "bias": False}),
    "mlp-bn-batch512": Recipe(
        "zoo:mlp", {"norm": "batch", "bias": False}, batch=512, lr=0.2, epochs=120
    ),
    "cnn-bn": Recipe(
        "zoo:cnn",
        {"channels": [8, 16], "norm": "batch", "bias": False},
        optimiser="adam",
        lr=1e-2,
    ),
}


def train_all(folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """Train every recipe and save it in ``folder``.

    Args:
        folder: made where it does not exist; files of an earlier run are replaced.
        tell: told in words what is being done.

    Returns:
        The checkpoints, in the order of :data:`RECIPES`.

    Raises:
        UsageError: the folder cannot be written to.
    """
    check_folder(folder)
    data = load_data(DATA, samples=None)
    paths = []
    for name, recipe in RECIPES.items():
        tell(f"training {name}")
        model = train(recipe, data)
        path = folder / f"{name}.pt"
        training = {"optimiser": recipe.optimiser, "lr": recipe.lr, "batch": recipe.batch}
        save(
            path,
            model,
            name=recipe.model,
            args=dict(recipe.args),
            data=DATA,
            loss="cross_entropy",
            training={**training, "epochs": recipe.epochs},
        )
        paths.append(path)
    return paths


def train(recipe: Recipe, data: Dataset, seed: int = 0) -> nn.Module:
    """A network trained by a recipe; the same one each time.

    Args:
        recipe: how.
        data: on what.
        seed: of the initial weights and of the order of the samples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(recipe.model, dict(recipe.args))
    kind = torch.optim.SGD if recipe.optimiser == "sgd" else torch.optim.Adam
    optimiser = kind(model.parameters(), lr=recipe.lr)
    loss = nn.CrossEntropyLoss()
    model.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(data), generator=derived_generator(seed, "demo order", epoch))
        for batch in order.split(recipe.batch):
            optimiser.zero_grad()
            loss(model(data.inputs[batch]), data.targets[batch]).backward()
            optimiser.step()
    return model.eval()
