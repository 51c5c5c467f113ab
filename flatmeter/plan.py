"""The plan of a run: which measures, with which settings, tolerances and seed."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from flatmeter.config.wording import mistake
from flatmeter.errors import UsageError
from flatmeter.measures.base import BNMode, Measure
from flatmeter.measures.registry import included, load_measure
from flatmeter.strategy import Strategy

if TYPE_CHECKING:
    import torch

    from flatmeter.subject import Subject


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run's numbers, besides the checkpoint and its data.

    Args:
        measures: with their settings.
        bn: batch-norm's mode for all measures; ``None`` leaves each its own.
        bn_batch: samples per batch of statistics in mode ``batch``.
        seed: of every random vector.
        dtype: ``float32``, ``float64``, or ``bfloat16`` for the network in it.
        device: where it is computed.
        rtol: relative tolerance, ``None`` leaves each measure its own.
        confidence: coverage of the intervals.
        max_products: most curvature products per measure.
        weight_decay: of the training loss.
        lr: learning rate of the training.
        params: pattern of the names of the parameters that are not held fixed.
        batch_size: samples per micro-batch; changes no number.
        strategy: how curvature products are computed; changes no number.
    """

    measures: tuple[Measure, ...]
    bn: BNMode | None = None
    bn_batch: int = 256
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    rtol: float | None = None
    confidence: float = 0.95
    max_products: int | None = None
    weight_decay: float = 0.0
    lr: float | None = None
    params: str | None = None
    batch_size: int | None = None
    strategy: Strategy | Literal["auto"] = "auto"

    def mode(self, measure: Measure) -> BNMode:
        """Batch-norm's mode for a measure."""
        return self.bn or measure.default_bn

    def torch_dtype(self) -> torch.dtype:
        """Of parameters, vectors and sums, as PyTorch's."""
        import torch

        return torch.float64 if self.dtype == "float64" else torch.float32

    def forward_dtype(self) -> torch.dtype | None:
        """Of the network's own arithmetic, where it is another."""
        import torch

        return torch.bfloat16 if self.dtype == "bfloat16" else None

    def ingredients(self, subject: Subject, measure: Measure) -> dict[str, Any]:
        """Everything that a number depends on, for its key."""
        mode = self.mode(measure)
        bn_batch = self.bn_batch if subject.takes_batch_statistics(mode) else None
        return {
            **subject.identity,
            "measure": measure.name,
            "definition": measure.definition,
            "settings": measure.settings.model_dump(mode="json"),
            "seed": self.seed,
            "tolerance": [self.rtol, self.confidence, self.max_products],
            "training": [self.weight_decay, self.lr],
            "params": self.params,
            "dtype": self.dtype,
            "bn": [subject.bn_mode(mode), bn_batch],
        }

    def lineage(self, subject: Subject, measure: Measure) -> dict[str, Any] | None:
        """The same for all measurements that go on from one another's state.

        ``None`` for a measure that cannot.
        """
        if measure.effort is None:
            return None
        whole = self.ingredients(subject, measure)
        return {**whole, "settings": _effortless(measure), "tolerance": "any"}

    def protocol(self, measure: Measure) -> dict[str, Any]:
        """How a measure is taken, whatever is measured and how accurately."""
        mode = self.mode(measure)
        return {
            "measure": measure.name,
            "definition": measure.definition,
            "settings": _effortless(measure),
            "seed": self.seed,
            "training": [self.weight_decay, self.lr],
            "params": self.params,
            "dtype": self.dtype,
            "bn": [mode, self.bn_batch if mode == "batch" else None],
        }


def _effortless(measure: Measure) -> dict[str, Any]:
    """The options of a measure that do not only say when to stop."""
    settings = measure.settings.model_dump(mode="json")
    return {name: value for name, value in settings.items() if name not in (measure.effort or ())}


def choose(
    names: Sequence[str | Measure | type[Measure]] | str = "all",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    origins: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> tuple[Measure, ...]:
    """Measures with their settings.

    Args:
        names: of measures, ``file.py:Class``, classes, ready instances, or ``all``.
        options: of measures, by name; those of measures that are not asked for are only checked.
        origins: where each ``options.measure.option`` was set, for messages.
        tell: given a sentence for each broken plugin that ``all`` leaves out.

    Raises:
        UsageError: an unknown measure or option, or a value that an option does not take.
    """
    wanted: list[str | Measure | type[Measure]] = []
    for name in names if isinstance(names, Sequence) and not isinstance(names, str) else [names]:
        wanted += included(tell) if name == "all" else [name]
    options = dict(options or {})
    chosen: dict[str, Measure] = {}
    for item in wanted:
        if isinstance(item, Measure):
            chosen[item.name] = item
            continue
        kind = load_measure(item) if isinstance(item, str) else item
        chosen[kind.name] = with_options(kind, options.get(kind.name, {}), origins or {})
    for name in options.keys() - chosen.keys():
        with_options(load_measure(name), options[name], origins or {})
    return tuple(chosen.values())


def with_options(
    kind: type[Measure], options: Mapping[str, Any], origins: Mapping[str, str]
) -> Measure:
    """The measure with its options, each named when it is wrong.

    Raises:
        UsageError: an unknown option or a value that it does not take.
    """
    known = kind.Settings.model_fields
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            nearest = f"did you mean {close[0]}? " if close else ""
            listed = f"options of {kind.name}: {', '.join(known) or 'none'}"
            raise UsageError(
                f"{kind.name} has no option {option!r}",
                where=origins.get(f"options.{kind.name}.{option}"),
                hint=nearest + listed,
            )
    try:
        return kind(kind.Settings(**options))
    except ValidationError as error:
        found = mistake(error, options, kind.name)
        raise UsageError(
            found.text,
            where=origins.get(f"options.{kind.name}.{found.field}"),
            hint=found.hint,
        ) from error
