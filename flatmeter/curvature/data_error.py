"""How much a number would change on another sample of the data, from sums over groups of samples.

The data measured are a random sample, without replacement, of a larger source. The weights are held
fixed: only the sample varies, nobody trains anew. A mean ``Σ_g s_g / Σ_g ω_g`` of sums over G
random groups has the residuals ``e_g = s_g − ω_g · mean``, which add up to zero, and the variance::

    (1 − n/N) · G/(G − 1) · Σ_g e_g² / (Σ_g ω_g)²

for n of N samples: the ratio estimator with the correction for a finite population (Cochran 1977,
*Sampling Techniques*, chapters 2 and 6). For other functions of the data ``s_g`` is the derivative
of the function along group g: the value's weights at an optimum (envelope theorem), ``vᵀ H_g v``
for an eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from flatmeter.curvature.products import HessianOperator
from flatmeter.estimate import Estimate
from flatmeter.randomness import derived_generator
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.variants import summed_over
from flatmeter.spectral.ritz import NEAR_ZERO

#: Groups of samples. Of batches of statistics there are as many as there are batches.
GROUPS = 32
#: With fewer groups the spread says too little.
MIN_GROUPS = 8


def apart(estimate: Estimate, error: float, ends: Sequence[Estimate]) -> Estimate:
    """An eigenvalue with its error from a sample of the data, where first order tells it.

    Not for one near zero, and not for a negative one: the smallest of a sample is biased downwards,
    by more than its first-order error.

    Args:
        estimate: the eigenvalue.
        error: to first order.
        ends: of the spectrum.
    """
    least = NEAR_ZERO * max(abs(end.value) for end in ends)
    return estimate if estimate.value < least else estimate.of_sample(error)


class DataGroups:
    """The samples of a risk in random groups that no batch size changes.

    At random, because the samples may come in the order of their classes. Where samples interact a
    batch of statistics is a group.

    Args:
        risk: the empirical risk.
        members: numbers of the samples of each group.
    """

    def __init__(self, risk: EmpiricalRisk, members: list[Tensor]) -> None:
        self.risk, self.members = risk, members
        targets = risk.data.targets
        counts = [risk.loss.count(targets[index]) for index in members]
        self.weights = torch.tensor(counts, dtype=torch.float64)

    @classmethod
    def of(cls, risk: EmpiricalRisk) -> DataGroups | None:
        """Its groups; ``None`` where all data are measured, or too few samples for groups."""
        if risk.data.unseen == 0:
            return None
        if risk.samples_interact:
            members = [torch.arange(*bounds) for bounds in risk.bounds()]
        else:
            order = torch.randperm(risk.n, generator=derived_generator(0, "data groups"))
            ends = [round(i * risk.n / GROUPS) for i in range(GROUPS + 1)]
            members = [order[a:b].sort().values for a, b in pairwise(ends) if b > a]
        return cls(risk, members) if len(members) >= MIN_GROUPS else None

    @property
    def own(self) -> range:
        """Numbers of the groups that this process computes; of more processes some have none."""
        return self.risk.ranks.share(len(self.members))

    def parts(self, numbers: range | None = None) -> Iterator[EmpiricalRisk]:
        """For each group, or some, the sum of its losses.

        What is spent counts for the whole risk, as if all groups were taken.
        """
        taken = self.members if numbers is None else [self.members[i] for i in numbers]
        count = sum(len(index) for index in taken)
        for index in taken:
            part = summed_over(self.risk, index)
            yield part
            share = len(index) / count
            cost = part.cost
            self.risk.cost.add(cost.gradient_equivalents * share, products=cost.products * share)

    def sums(self, of: Callable[[EmpiricalRisk], Tensor]) -> Tensor:
        """A function of every group's sum of losses: ``[G, …]`` float64, on the CPU.

        Each process computes some of the groups.
        """
        # One that has none takes the first, for the shape.
        numbers = self.own or range(1)
        found = torch.stack([of(part).detach().cpu().double() for part in self.parts(numbers)])
        table = found.new_zeros(len(self.members), *found.shape[1:])
        if self.own:
            table[numbers.start : numbers.stop] = found
        self.risk.ranks.sum(table)
        return table

    def losses(self, flat: Tensor) -> Tensor:
        """Sums of the losses at ``flat [P]``: ``[G]``."""
        return self.sums(lambda part: part.value_tensor(flat))

    def forms(self, V: Tensor) -> Tensor:
        """``vᵀ H_g v`` for the Hessian of every group's sum and every row of ``V [k, P]``.

        Returns:
            ``[G, k]``, at the cost of one product for each row.
        """
        V = V.to(self.risk.device, self.risk.dtype)
        return self.sums(
            lambda part: (V.double() * HessianOperator(part).matmat(V).double()).sum(1)
        )

    def of_eigenvalues(self, found: Sequence[Estimate], V: Tensor) -> list[Estimate]:
        """Extreme eigenvalues of a Hessian with their errors, where first order says enough.

        Near zero eigenvalues crowd, and a sample mixes their vectors: that error stays unknown.

        Args:
            found: the eigenvalues.
            V: their vectors, ``[k, P]``.
        """
        errors = self.stderr(self.forms(V)).tolist()
        return [apart(e, error, found) for e, error in zip(found, errors, strict=True)]

    def mean(self, sums: Tensor) -> Tensor:
        """``Σ_g s_g / Σ_g ω_g`` for ``sums [G, …]``."""
        return sums.sum(0) / self.weights.sum()

    def residuals(self, sums: Tensor) -> Tensor:
        """``e_g`` for ``sums [G, …]``, shaped alike."""
        weights = self.weights.reshape(-1, *[1] * (sums.dim() - 1))
        return sums - weights * self.mean(sums)

    def stderr(self, sums: Tensor) -> Tensor:
        """Standard error of :meth:`mean`."""
        return self.variance(self.residuals(sums).square().sum(0)).sqrt()

    def variance(self, squares: Tensor) -> Tensor:
        """The variance of a mean from the sum of the squares of its residuals."""
        count = len(self.members)
        scale = self.risk.data.unseen * count / (count - 1)
        variance: Tensor = scale * squares / self.weights.sum().square()
        return variance


def norm_errors(
    groups: DataGroups,
    vector: Tensor,
    mean: Tensor,
    of: Callable[[EmpiricalRisk], Tensor],
    blocks: Callable[[Tensor], Tensor],
) -> Tensor:
    """Root mean square errors of the norms of a vector's blocks.

    The spread along the vector to first order, and what the spread across it adds to a norm, since
    noise has one: ``E ‖m + e‖² = ‖m‖² + E ‖e‖²``.

    Args:
        groups: of the samples.
        vector: ``[P]``, the vector whose norms are wanted.
        mean: ``[P]``, the part of it that is a mean over the data (all but the weight decay).
        of: the same as a sum over a part, ``[P]``.
        blocks: sums of ``[P]`` over every block, ``[B]``.

    Returns:
        ``[B]`` float64, on the CPU.
    """
    norm = blocks(vector.double().square()).sqrt().cpu()
    along, squares = torch.zeros_like(norm), torch.zeros_like(norm)
    weights = [groups.weights[i].item() for i in groups.own]
    for part, weight in zip(groups.parts(groups.own), weights, strict=True):
        residual = of(part).double() - weight * mean.double()
        along += (blocks(residual * vector.double()).cpu() / norm.clamp_min(1e-300)).square()
        squares += blocks(residual.square()).cpu()
    groups.risk.ranks.sum(along, squares)
    total, first = groups.variance(squares), groups.variance(along)
    across = (total - first).clamp_min(0)
    bias = norm - (norm.square() - across).clamp_min(0).sqrt()
    return torch.where(norm > 0, (first + bias.square()).sqrt(), total.sqrt())
