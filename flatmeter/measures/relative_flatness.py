"""Relative flatness: curvature of the loss in a layer's weights, relative to those weights.

Definition (Petzka, Kamp, Adilova, Sminchisescu, Boley 2021, arXiv 2001.00939, Definition 3). For a
layer with weight matrix W of rows w_s, features φ and ``H_ss'`` the block of the loss's Hessian
between rows s and s'::

    trace            κ_Tr  = Σ_ss' ⟨w_s, w_s'⟩ Tr H_ss'
    max              κ_max = Σ_s ‖w_s‖² λ_max(H_ss)
    normalized       κ_Tr of the layer with every feature divided by its standard deviation
    frobenius_trace  ‖W‖² Tr H, for comparison

A layer that is called once per sample, with samples that do not interact, has ``κ_Tr = E ‖φ‖²
Tr(Wᵀ A W)`` with A the second derivative of a sample's loss in the layer's output, whatever comes
after it; everything is computed from that form. For the last layer under cross-entropy, squared or
binary cross-entropy it takes one forward pass and no derivative (cf. Taleghani et al. 2026, arXiv
2603.09016). A layer used twice, or with batch statistics after it, is computed from its whole
Hessian block, or refused when that is too large.

The network's value is that of the chosen layer. With ``layer: all``, which is this program's and
not the paper's, it is the *sum* over linear layers and convolutions, with the mean beside it.

Invariant to: rescaling a layer against the next one (all four); rescaling single rows against the
next layer (trace, max, normalized); rescaling single features against the layer before
(normalized); permutations of hidden units; a common shift of all class weights (trace,
normalized); rotations of the features (all but normalized).
Requires: a linear layer; second derivatives unless the closed form holds.
Cost: one forward pass for the last layer; elsewhere one backward pass per class, or one product
per output of the layer.
Not to be trusted: ``normalized`` has no value for features that are constant over the data; they
are left out, and a note counts them. Groups of a convolution's channels count as separate layers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field

from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.linear_layers import LinearLayer, linear_layers
from flatmeter.curvature.relative_flatness import Flatness, relative_flatness
from flatmeter.errors import NotApplicable, UsageError
from flatmeter.estimate import Estimate, Why
from flatmeter.measures.base import Measure, Measurement, MeasureSettings, Part
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense, exact_traces
from flatmeter.risk.cost import FORWARD


class Settings(MeasureSettings):
    """Options of relative flatness."""

    layer: str = Field(
        "last", description="last (linear layer that runs), a layer's name, or all (sum and mean)"
    )
    bias: bool = Field(False, description="count the bias as a weight of a constant feature")
    method: Literal["auto", "closed", "exact", "ggn", "probe"] = Field(
        "auto", description="the computation; auto takes the cheapest that gives the Hessian's"
    )
    convolution: Literal["tied", "affine"] = Field(
        "tied", description="a kernel's own Hessian, or that of its unrolled matrix"
    )
    max_probes: int = Field(200, ge=2, description="most probes where the value is not exact")


class RelativeFlatness(Measure):
    """Curvature in a layer's weights relative to the weights (arXiv 2001.00939)."""

    name = "relative_flatness"
    title = "Relative flatness"
    reference = "Petzka et al. 2021, arXiv 2001.00939, Definition 3"
    invariant_to = ("rescaling of layers", "of rows", "of features (normalized)")
    requires = ("a linear layer",)
    default_bn = "eval"
    quantities = (
        "trace",
        "max",
        "normalized",
        "frobenius_trace",
        "trace_mean",
        "max_mean",
        "normalized_mean",
        "frobenius_trace_mean",
    )
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        last_only = self.settings.layer != "all"  # type: ignore[attr-defined]
        return Expense(FORWARD, FORWARD) if last_only else exact_traces(columns)

    def compute(self, context: Context) -> Measurement:
        """Values of the chosen layers."""
        settings: Settings = self.settings  # type: ignore[assignment]
        layers = _chosen(linear_layers(context.risk), settings.layer)
        options = Options(
            method=settings.method,
            bias=settings.bias,
            affine=settings.convolution == "affine",
            rtol=context.rtol,
            confidence=context.confidence,
            max_probes=settings.max_probes,
            seed=context.seed,
            progress=context.progress,
        )
        found, refused = relative_flatness(context.risk, layers, options)
        if not found:
            raise NotApplicable("; ".join(refused.values()))
        groups = DataGroups.of(context.risk)
        parts = tuple(
            Part(name, quantity, _of_sample(estimate, [flatness], quantity, groups))
            for name, flatness in found.items()
            for quantity, estimate in _quantities(flatness).items()
        )
        return Measurement(
            quantities=_network(found, settings.layer == "all", groups),
            parts=parts,
            notes=tuple(_notes(found, refused)),
        )


def _chosen(layers: tuple[LinearLayer, ...], wanted: str) -> list[LinearLayer]:
    """The layers that the option stands for.

    Raises:
        NotApplicable: there is no such layer.
        UsageError: a name that no layer has.
    """
    if not layers:
        raise NotApplicable("the network has no linear layer and no convolution")
    if wanted == "all":
        return list(layers)
    if wanted == "last":
        linear = [layer for layer in layers if not layer.is_convolution]
        if not linear:
            raise NotApplicable(
                "the network has no linear layer",
                hint=f"name a convolution (layer={layers[-1].name}), or use layer=all",
            )
        return [linear[-1]]
    names = [layer.name for layer in layers]
    for layer in layers:
        if wanted in (layer.name, layer.call.weight):
            return [layer]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"no linear layer or convolution is called {wanted!r}",
        where="relative_flatness.layer",
        hint=f"{hint}there are: last, all, {', '.join(names)}",
    )


def _quantities(flatness: Flatness) -> dict[str, Estimate]:
    named = {
        "trace": flatness.trace,
        "max": flatness.maximum,
        "normalized": flatness.normalized,
        "frobenius_trace": flatness.frobenius_trace,
    }
    return {name: estimate for name, estimate in named.items() if estimate is not None}


def _of_sample(
    estimate: Estimate, layers: Sequence[Flatness], quantity: str, groups: DataGroups | None
) -> Estimate:
    """A sum over layers with its error from measuring on a sample of the data, where known."""
    if groups is None or any(quantity not in layer.shares for layer in layers):
        return estimate
    shares = torch.stack([layer.shares[quantity] for layer in layers]).sum(0)
    return estimate.of_sample(float(groups.stderr(shares)))


def _network(
    found: Mapping[str, Flatness], every: bool, groups: DataGroups | None
) -> dict[str, Estimate]:
    """The one layer's values, or sums over all layers and their means."""
    layers = [_quantities(flatness) for flatness in found.values()]
    common = [q for q in layers[0] if all(q in layer for layer in layers)]
    own = list(found.values())
    sums = {q: _of_sample(_sum([layer[q] for layer in layers]), own, q, groups) for q in common}
    if not every:
        return sums
    return sums | {f"{q}_mean": e.scaled(1 / len(layers)) for q, e in sums.items()}


def _sum(estimates: list[Estimate]) -> Estimate:
    """The sum; layers share their probes, so that their errors may add up in full."""
    if len(estimates) == 1:
        return estimates[0]
    value = sum(e.value for e in estimates)
    if all(e.exact for e in estimates):
        return Estimate.of_exact(value)
    residuals = [e.residual for e in estimates if e.residual is not None]
    whys = [e.why for e in estimates if not e.converged] or [
        e.why for e in estimates if e.why is not Why.EXACT
    ]
    return Estimate(
        value=value,
        stderr=sum(e.stderr for e in estimates),
        residual=sum(residuals) if residuals else None,
        n=min(e.n for e in estimates if not e.exact),
        converged=all(e.converged for e in estimates),
        why=whys[0],
    )


def _notes(found: Mapping[str, Flatness], refused: Mapping[str, str]) -> Iterable[str]:
    for kind in dict.fromkeys(f.computation for f in found.values()):
        names = [n for n, f in found.items() if f.computation is kind]
        yield f"{_some(names)}: {kind.value}"
    if names := [n for n, f in found.items() if not f.hessian]:
        yield f"{_some(names)}: of the Gauss-Newton matrix, not the Hessian"
    if names := [n for n, f in found.items() if f.maximum is None]:
        yield f"{_some(names)}: max is too costly and was not computed"
    if names := [n for n, f in found.items() if f.normalized is None]:
        yield f"{_some(names)}: normalized has no meaning for a weight that is used twice"
    if names := [n for n, f in found.items() if f.left_out]:
        count = sum(f.left_out for f in found.values())
        yield f"{_some(names)}: normalized leaves out {count} constant features"
    for reason in refused.values():
        yield f"left out of the sum: {reason}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
