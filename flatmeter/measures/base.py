"""What a measure is: a name, its paper, its settings, and one method that computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from flatmeter.estimate import Estimate
from flatmeter.measures.expense import Expense

if TYPE_CHECKING:
    import numpy as np

    from flatmeter.measures.context import Context

BNMode = Literal["eval", "batch"]


class MeasureSettings(BaseModel):
    """Base of every measure's settings: unknown keys are errors, values do not change."""

    # Layers of a Sequential are named by numbers, which --set reads as such.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


@dataclass(frozen=True)
class Part:
    """One quantity of one layer or tensor.

    Args:
        scope: the layer's or tensor's name.
        quantity: what it is there, such as ``trace``.
        estimate: its value.
    """

    scope: str
    quantity: str
    estimate: Estimate


@dataclass(frozen=True)
class Measurement:
    """What a measure returns.

    Args:
        quantities: by name, for the whole network; the first is the one a table shows.
        parts: per layer or tensor.
        notes: what a reader of the number should know, in words.
        state: raw probe values or tridiagonals, by name, stored beside the results.
    """

    quantities: Mapping[str, Estimate]
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()
    state: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def headline(self) -> Estimate:
        """The first quantity."""
        return next(iter(self.quantities.values()))


class Measure(ABC):
    """A measure of sharpness.

    Class attributes:
        name: the identifier used on the command line and in results.
        title: what a reader calls it; its name if left out.
        reference: paper and equation, where there is one.
        definition: version of the definition; part of a result's key.
        invariant_to: the transformations that leave the value unchanged, in words.
        requires: what the network or data must have, in words (shown by ``flatmeter list``).
        default_bn: how batch-norm is evaluated unless ``--bn`` says otherwise.
        effort: options that only say when to stop. Where they are given, ``compute`` can go on from
            the state of an earlier measurement, ``context.saved``, that differs in these and in the
            run's tolerances only; the result is that of a run from scratch.
        on_request: left out of ``all``, because it costs much more than the others.
        quantities: name of every quantity it reports, the first is the one a table shows.
        Settings: the pydantic model of its options.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str] = ""
    definition: ClassVar[int] = 1
    invariant_to: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    default_bn: ClassVar[BNMode] = "eval"
    effort: ClassVar[tuple[str, ...] | None] = None
    on_request: ClassVar[bool] = False
    quantities: ClassVar[tuple[str, ...]] = ("value",)
    Settings: ClassVar[type[MeasureSettings]] = MeasureSettings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "title") and hasattr(cls, "name"):
            cls.title = cls.name

    def __init__(self, settings: MeasureSettings | None = None, **options: Any) -> None:
        self.settings = settings if settings is not None else self.Settings(**options)

    def expense(self, columns: int) -> Expense | None:
        """What it usually costs with its settings; ``None`` where nobody has said.

        Args:
            columns: of the output's curvature; for cross-entropy the number of classes less one.
        """
        return None

    @abstractmethod
    def compute(self, context: Context) -> Measurement:
        """Compute the measure.

        Args:
            context: the empirical risk, symmetry group, tolerances and seed.

        Returns:
            The measurement.

        Raises:
            NotApplicable: the measure has no meaning for this network.
        """
