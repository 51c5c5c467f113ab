"""A subject: a checkpoint joined with its network, its data and its loss."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatmeter.checkpoint import Checkpoint, fit, read
from flatmeter.checkpoint.unpickle import network_of
from flatmeter.data.dataset import Dataset
from flatmeter.data.sources import as_dataset, is_text, load_data
from flatmeter.data.text import Tokenizer
from flatmeter.errors import UsageError
from flatmeter.missing import missing
from flatmeter.model.hugging_face import config_of, describe, tokenizer_of
from flatmeter.model.hugging_face_config import PREFIX
from flatmeter.model.infer import infer
from flatmeter.model.registry import build_model, library_of
from flatmeter.own_code import source_hash, sources_hash
from flatmeter.recognition import inferring_once, recognised, settle_model
from flatmeter.risk.batch_norm import BNMode, settled_mode, takes_batch_statistics
from flatmeter.risk.custom_loss import FunctionLoss, load_loss
from flatmeter.risk.losses import Loss
from flatmeter.suitability import check_parts, check_suitable
from flatmeter.templates import Built, Templates
from flatmeter.words import project_words, settle, sidecar, which_weights

DataSpec = str | Dataset | tuple[Tensor, Tensor] | torch.utils.data.Dataset[Any]
LossSpec = str | Mapping[str, Any] | Loss | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """A checkpoint in its network, without data.

    Args:
        checkpoint: what was read.
        model: with these weights.
        words: what is said of the checkpoint, by whomever, and whose word counts.
        recipe: the model's name and arguments, as far as they are known.
        notes: what reading the checkpoint had to say.
    """

    checkpoint: Checkpoint
    model: nn.Module
    words: Mapping[str, Any]
    recipe: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """What is measured: a trained network on fixed data.

    Args:
        name: path of the checkpoint, or a name for a network in memory.
        model: with its trained weights; never changed.
        data: fixed and ordered.
        loss: that it was trained with.
        sha256: of the weights.
        recipe: the model's name and arguments, as far as they are known.
        notes: what reading the checkpoint had to say.
        ran: classes and functions of the file that were run to read it (``--trust-pickle``).
    """

    name: str
    model: nn.Module
    data: Dataset
    loss: Loss
    sha256: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()

    def __repr__(self) -> str:
        numbers = sum(p.numel() for p in self.model.parameters())
        network = f"{type(self.model).__name__} of {numbers:,} parameters"
        return f"Subject({self.name!r}: {network}, {self.data!r}, {self.loss.name})"

    @property
    def has_batch_norm(self) -> bool:
        """The network has a batch-norm."""
        return any(isinstance(m, _BatchNorm) for m in self.model.modules())

    def bn_mode(self, asked: BNMode) -> BNMode | None:
        """The mode in which its batch-norms run where a mode is asked for; ``None`` without one."""
        return settled_mode(self.model, asked)

    def takes_batch_statistics(self, asked: BNMode) -> bool:
        """The numbers depend on how the data are split into batches of statistics."""
        return self.bn_mode(asked) == "batch" or takes_batch_statistics(self.model)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What of a subject decides its numbers, for keys of results."""
        return {
            "weights": self.sha256,
            "model": {**self.recipe, "structure": _hash(repr(self.model))},
            "data": self.data.fingerprint(),
            "loss": describe_loss(self.loss),
        }


def load(
    path: str | Path,
    *,
    model: str | nn.Module | None = None,
    model_args: Mapping[str, Any] | None = None,
    data: DataSpec | None = None,
    loss: LossSpec | None = None,
    key: str | None = None,
    ema: bool | None = None,
    samples: int | None = 4096,
    seed: int = 0,
) -> Subject:
    """Read a checkpoint and everything that is needed to measure it.

    What is not given is taken from the checkpoint's own words (``flatmeter.save`` writes them),
    from a file ``CHECKPOINT.yaml`` beside it, or from the nearest ``flatmeter.yaml``. Code that a
    checkpoint names (``pkg.mod:factory``, ``file.py:factory``) is run only where one of the others
    names it too: a checkpoint may be a stranger's.

    Args:
        path: of the checkpoint.
        model: ``zoo:NAME``, ``torchvision:NAME``, ``pkg.mod:factory``, ``file.py:factory``, or a
            network whose weights are to be replaced.
        model_args: arguments of the factory.
        data: a source as on the command line, a :class:`Dataset`, ``(inputs, targets)``, or a
            PyTorch data set of pairs.
        loss: ``cross_entropy``, ``mse``, ``bce``, an import path, or a function
            ``(outputs, targets) -> mean``.
        key: entry of the file that holds the weights.
        ema: take the averaged weights (EMA) that stand beside the others.
        samples: size of the seeded subset of the data, ``None`` for all.
        seed: of that subset.

    Raises:
        CheckpointRefused: the file is unsafe, broken or of no known format.
        ArchitectureMismatch: the weights do not fit the network.
        DataError: the data cannot be read.
        UsageError: something is missing; says what, and what to add.
    """
    given: dict[str, Any] = {"model": model, "model_args": model_args, "data": data, "loss": loss}
    given |= {"key": key, "ema": ema}
    return Loader(given, samples=samples, seed=seed).load(path)


class Loader:
    """Loads subjects that share flags, and reads data that they share once.

    Args:
        given: flags by field; those that are ``None`` count as left out.
        samples: size of the seeded subset of the data, ``None`` for all.
        seed: of that subset.
        project: what the project file says; the nearest one is read if left out.
        tell: given a sentence before minutes are spent on what networks look like.
        trust_pickle: run the code of files that cannot be read otherwise; never a setting.
        many: what checkpoints have in common is found out once: a network is built once for all
            that name it, and names and shapes are compared with libraries once.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        *,
        samples: int | None = 4096,
        seed: int = 0,
        project: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = warnings.warn,
        trust_pickle: bool = False,
        many: bool = False,
    ) -> None:
        self.trust_pickle = trust_pickle
        self._templates = Templates() if many else None
        self._infer = inferring_once() if many else infer
        self.given = {k: v for k, v in given.items() if v is not None}
        self.samples, self.seed, self.tell = samples, seed, tell
        self.project = project_words() if project is None else project
        self._data: tuple[tuple[str, Tokenizer | None], Dataset] | None = None

    def load(self, path: str | Path) -> Subject:
        """The subject of one checkpoint; raises what :func:`load` raises."""
        network = self.network(path, data=True)
        config = config_of(network.words["model"], network.words["model_args"])
        data = self.dataset(network)
        check_parts(network.model, data)
        named = network.words.get("loss") or (config.loss if config else None)
        loss, said = settle_loss(named, data, where=str(path))
        if config is not None:
            said += check_suitable(config, data, loss)
        if isinstance(loss, FunctionLoss):
            network.recipe["loss_source"] = source_hash(loss.spec)
        return Subject(
            name=str(path),
            model=network.model,
            data=data,
            loss=loss,
            sha256=network.checkpoint.sha256,
            recipe=network.recipe,
            notes=(*network.notes, *said),
            ran=network.checkpoint.ran,
        )

    def network(self, path: str | Path, *, data: bool = False) -> Network:
        """The network of one checkpoint, for which nobody need say what it learnt from.

        Args:
            path: of the checkpoint.
            data: refuse it where nobody says that either.

        Raises:
            FlatmeterError: what :func:`load` raises, but for data and losses.
        """
        path = Path(path)
        beside = sidecar(path)
        key, ema = which_weights([self.given, beside, self.project], str(path))
        checkpoint = read(path, key=key, ema=ema, trust_pickle=self.trust_pickle)
        own = checkpoint.metadata
        words = settle([self.given, own, beside, self.project], own=1)
        said = self._of_the_file(words, checkpoint)
        inference = settle_model(words, checkpoint, self.tell, self._infer)
        # A configuration that is refused is no reason to ask for data first.
        config_of(words["model"], words["model_args"])
        lacking = [n for n in ("model", *(["data"] if data else [])) if words[n] is None]
        if data and words["loss"] is None and own.get("loss"):
            lacking.append("loss")
        if lacking:
            raise missing(checkpoint, lacking, inference)
        model, recipe = self._model(words)
        recipe["key"] = checkpoint.key if key or ema else None
        if model is checkpoint.module:
            recipe["source"] = sources_hash(checkpoint.ran)
        notes = (*checkpoint.notes, *said, *recognised(inference), *fit(model, checkpoint))
        return Network(checkpoint, model, words, recipe, notes)

    def _of_the_file(self, words: dict[str, Any], checkpoint: Checkpoint) -> tuple[str, ...]:
        """Take the network that was unpickled with its weights, where no flag names another."""
        if checkpoint.module is None or self.given.get("model") is not None:
            return ()
        if self.given.get("model_args"):
            raise UsageError(
                "the network is taken from the file, and is built already",
                where="--model-arg",
                hint="drop it, or name the network by --model",
            )
        words["model"], notes = network_of(checkpoint)
        return notes

    def _model(self, words: Mapping[str, Any]) -> Built:
        spec, args = words["model"], dict(words["model_args"])
        if isinstance(spec, nn.Module):
            return spec, {"model": type(spec).__qualname__}
        if spec.startswith(PREFIX):
            model = build_model(spec, args, initialised=False)
            return model, describe(spec[len(PREFIX) :], args)

        def build() -> Built:
            model = build_model(spec, args)
            source = None if library_of(spec) else source_hash(spec)
            return model, {"model": spec, "model_args": args, "source": source}

        return build() if self._templates is None else self._templates.take(spec, args, build)

    def dataset(self, network: Network) -> Dataset:
        """The data that a network's words name; the source read last is kept for the next."""
        words = network.words
        spec, samples, seed = words["data"], self.samples, self.seed
        if not isinstance(spec, str):
            return as_dataset(spec, name="data", samples=samples, seed=seed)
        tokenizer = None
        if is_text(spec):
            tokenizer = tokenizer_of(words["model"], words["model_args"], network.checkpoint.path)
        if self._data is None or self._data[0] != (spec, tokenizer):
            data = load_data(spec, samples=samples, seed=seed, tokenizer=tokenizer)
            self._data = (spec, tokenizer), data
        return self._data[1]


def settle_loss(spec: LossSpec | None, data: Dataset, where: str) -> tuple[Loss, tuple[str, ...]]:
    """The loss, and a note where it was assumed.

    Raises:
        UsageError: none is named and the targets are not class labels.
    """
    if isinstance(spec, Loss):
        return spec, ()
    if isinstance(spec, (str, Mapping)):
        return load_loss(spec), ()
    if callable(spec):
        return FunctionLoss(spec, getattr(spec, "__qualname__", repr(spec))), ()
    if data.loss is not None:
        said = "each token is predicted from those before it, with the loss " + data.loss
        return load_loss(data.loss), (said,)
    if data.targets.dtype.is_floating_point:
        raise UsageError(
            "nothing says which loss the network was trained with",
            where=where,
            hint="the targets are real numbers; add:  --loss mse   (or --loss bce)",
        )
    return load_loss("cross_entropy"), ("cross-entropy is assumed: the targets are class labels",)


def describe_loss(loss: Loss) -> dict[str, Any]:
    """Name and options of a loss, as JSON can write them."""
    return {
        "name": loss.name,
        **{k: v for k, v in vars(loss).items() if not callable(v) and not k.startswith("_")},
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
