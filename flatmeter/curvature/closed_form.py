"""Relative flatness of the outermost layer from its inputs and outputs alone.

Where the network's outputs are the layer's, the curvature of the loss in them is known::

    cross-entropy   A = ω (diag(p) − p pᵀ)
    squared error, binary cross-entropy   A diagonal

so that one forward pass gives ``w_·tᵀ A w_·t`` for every feature t, without differentiating. For
cross-entropy that is the variance of a column of W under p. With few classes it is summed over
their pairs, ``Σ_{c<e} ω p_c p_e (w_ct − w_et)²``, of which only ``p_c p_e`` is the sample's; with
many it is taken about the most likely class. Neither loses digits for a confident network. A
position of a sequence is a sample of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flatmeter.curvature.capture import Call
from flatmeter.curvature.flatness_sums import FeatureMoments, RowBlocks, Scales
from flatmeter.curvature.linear_layers import LinearLayer, call_of, watched
from flatmeter.curvature.matrix_view import MatrixView
from flatmeter.risk.cost import FORWARD
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.losses import BinaryCrossEntropy, MeanSquaredError

#: Numbers held in float64 at once for each of a few samples' features: what stays in caches.
CHUNK = 2**17

_ELEMENTWISE = (MeanSquaredError, BinaryCrossEntropy)


def has_closed_form(risk: EmpiricalRisk, layer: LinearLayer, view: MatrixView) -> bool:
    """Whether the layer is outermost, in an order that is understood, and the loss is known."""
    if not layer.outermost or layer.inseparable or view.groups > 1:
        return False
    if not isinstance(risk.loss, (CrossEntropy, *_ELEMENTWISE)):
        return False
    with torch.no_grad():
        z, watch = watched(risk, risk.example_inputs(3))
    call = call_of(watch, layer)
    own = view.outputs(call, call.output.unsqueeze(0))
    if own.shape[-1] != view.rows or view.positions != own.shape[-2]:
        return False
    found = _in_rows(risk, z.double(), call, view)
    return found is not None and torch.equal(found, own.reshape(found.shape))


def _in_rows(risk: EmpiricalRisk, t: Tensor, call: Call, view: MatrixView) -> Tensor | None:
    """``t``, shaped as the network's outputs, as ``[samples · positions, d]``."""
    if not isinstance(risk.loss, CrossEntropy) and t.shape == call.output.shape:
        return view.outputs(call, t.unsqueeze(0)).reshape(-1, view.rows)
    last = t.movedim(1, -1)
    return last.reshape(-1, view.rows) if last.shape[-1] == view.rows else None


class ClosedForm:
    """Sums over the data, batch by batch.

    Args:
        risk: the empirical risk.
        layer: for which :func:`has_closed_form` holds.
        view: of it.
    """

    def __init__(self, risk: EmpiricalRisk, layer: LinearLayer, view: MatrixView) -> None:
        self.risk, self.layer, self.view = risk, layer, view
        self.weight = view.weight[0]
        if isinstance(risk.loss, CrossEntropy):
            # A shift common to all classes changes no probability.
            self.weight = self.weight - self.weight.mean(0)
        m = view.columns
        self.moments = FeatureMoments(view, risk.dtype)
        # Of features t and t': Σ_i φ_it² w_·t'ᵀ A_i w_·t'.
        self.pairs = self.weight.new_zeros(m, m)
        d = view.rows
        self.by_class_pairs = isinstance(risk.loss, CrossEntropy) and d * (d - 1) // 2 < m
        first, second = torch.triu_indices(d, d, 1, device=self.weight.device)
        if self.by_class_pairs:
            self.first, self.second = first, second
            self.joint = self.weight.new_zeros(m, len(first))
        self.hessian_trace = self.weight.new_zeros(())
        self.rows = RowBlocks(view, risk.n * view.positions, single=True)

    def run(self) -> Tensor:
        """κ_Tr, κ_nw and Tr H, ``[3]``; ``rows`` then holds the blocks of the rows."""
        for x, y in self.risk.batches():
            with torch.no_grad():
                z, watch = watched(self.risk, x)
            self._add(call_of(watch, self.layer), z.double(), y)
            self.risk.cost.add(FORWARD * len(x) / self.risk.held)
        if self.by_class_pairs:
            gaps = self.weight[self.first] - self.weight[self.second]
            self.pairs = self.joint @ gaps.square()
        self.risk.ranks.sum(self.pairs, self.hessian_trace)
        self.moments.add_up(self.risk.ranks)
        self.scales = Scales.of(self.moments, self.view)
        forward, inverse = self.scales.forward[0].square(), self.scales.inverse[0]
        normalised = inverse @ self.pairs @ forward
        sums = torch.stack([self.pairs.sum(), normalised, self.hessian_trace])
        return sums / self.risk.normalizer

    def _add(self, call: Call, z: Tensor, y: Tensor) -> None:
        features = self.view.inputs(call).reshape(-1, 1, 1, self.view.columns)
        rows, weights = self._rows(call, z, y)
        diagonals = []
        size = max(1, CHUNK // max(self.view.rows, self.view.columns))
        for a, part, w in zip(
            features.split(size), rows.split(size), weights.split(size), strict=True
        ):
            self.moments.add(a[:, 0])
            squares = a[:, 0, 0].square()
            diagonal = self._add_products(squares, part, w)
            self.hessian_trace += squares.sum(1) @ diagonal.sum(1)
            diagonals.append(diagonal)
        self.rows.add_factored(features, torch.cat(diagonals).unsqueeze(1))

    def _add_products(self, squares: Tensor, part: Tensor, w: Tensor) -> Tensor:
        """Add ``Σ_i φ_it² w_·t'ᵀ A_i w_·t'`` over some samples; the diagonals of their A."""
        if self.by_class_pairs:
            p = F.softmax(part, dim=1)
            joint = w.unsqueeze(1) * p[:, self.first] * p[:, self.second]
            self.joint += squares.T @ joint
            diagonal = torch.zeros_like(p).index_add_(1, self.first, joint)
            return diagonal.index_add_(1, self.second, joint)
        if isinstance(self.risk.loss, CrossEntropy):
            variance, diagonal = softmax_variances(part, self.weight, w)
        else:
            variance, diagonal = part @ self.weight.square(), part
        self.pairs += squares.T @ variance
        return diagonal

    def _rows(self, call: Call, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and sample weights, or the diagonal of Λ and ones."""
        loss = self.risk.loss
        if isinstance(loss, CrossEntropy):
            logits = _in_rows(self.risk, z, call, self.view)
            assert logits is not None
            return logits, loss.curvature_weights(y).reshape(-1)
        # A diagonal Λ has the factor √Λ, which this returns with every sign positive.
        diagonal = loss.probe(z, y, torch.ones_like(z)).square()
        rows = _in_rows(self.risk, diagonal, call, self.view)
        assert rows is not None
        return rows, torch.ones_like(rows[:, 0])


def softmax_variances(z: Tensor, weight: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """``w_·tᵀ A w_·t`` and ``A_ss`` for ``A = ω (diag(p) − p pᵀ)``, all in float64.

    With k the most likely class, ``Σ_c p_c (w_ct − w_kt)² − (Σ_c p_c (w_ct − w_kt))²``, whose terms
    are as small as the probability of all other classes.

    Args:
        z: logits ``[n, d]``.
        weight: ``[d, m]``, centred over classes.
        omega: ``[n]``.

    Returns:
        ``[n, m]`` and ``[n, d]``.
    """
    p = F.log_softmax(z, dim=1).exp()
    k = z.argmax(dim=1)
    others = p.scatter(1, k.unsqueeze(1), 0.0)
    rest = others.sum(1, keepdim=True)
    top = weight[k]
    mean = others @ weight - rest * top
    square = others @ weight.square() - 2 * top * (others @ weight) + rest * top.square()
    omega = omega.unsqueeze(1)
    diagonal = p * (1 - p)
    diagonal.scatter_(1, k.unsqueeze(1), p.gather(1, k.unsqueeze(1)) * rest)
    return omega * (square - mean.square()), omega * diagonal
