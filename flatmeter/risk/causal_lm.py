"""Next-token cross-entropy of language models: every position predicts the token after it."""

from __future__ import annotations

import torch
from torch import Tensor

from flatmeter.data.tokens import IGNORED
from flatmeter.errors import DataError
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.losses import Loss, in_words


class CausalLM(Loss):
    """Next-token cross-entropy of logits ``[n, T, K]`` and tokens ``[n, T]``, the mean per token.

    A sample is a sequence (a window of text). Its logits at position t are compared with its label
    at t + 1, so that T − 1 positions of it count, less those that are labelled −100. The mean is
    over all tokens that count, whichever sequence they are in.
    """

    name = "causal_lm"

    def __init__(self) -> None:
        self._next = CrossEntropy(ignore_index=IGNORED)

    def per_sample(self, z: Tensor, y: Tensor) -> Tensor:
        """Loss of every predicted token, ``[n, T - 1]``; zero where it does not count."""
        return self._next.per_sample(_predicting(z), y[:, 1:])

    def count(self, y: Tensor) -> float:
        """Number of predicted tokens that count."""
        return self._next.count(y[:, 1:])

    def columns(self, z: Tensor, y: Tensor) -> int:
        """``K − 1`` for each predicted token of a sequence."""
        return self._next.columns(_predicting(z), y[:, 1:])

    def factor(self, z: Tensor, y: Tensor, columns: range) -> Tensor:
        """Cross-entropy's columns; the last position, which predicts nothing, has zeros."""
        return _as_outputs(self._next.factor(_predicting(z), y[:, 1:], columns))

    def probe(self, z: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        """Cross-entropy's random column at every position that predicts."""
        return _as_outputs(self._next.probe(_predicting(z), y[:, 1:], _predicting(signs)))

    def curvature_product(self, z: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """``Λ v`` in closed form: ``z`` and ``v`` shaped alike, as is the result."""
        product = self._next.curvature_product(_predicting(z), y[:, 1:], _predicting(v))
        return _as_outputs(product)

    def correct(self, z: Tensor, y: Tensor) -> tuple[int, int]:
        """How often the most likely token is the one that follows, among those that count."""
        return self._next.correct(_predicting(z), y[:, 1:])

    def remarks(self, z: Tensor, y: Tensor) -> tuple[str, ...]:
        """How many tokens the mean is over, and how many are left out."""
        counted, there = round(self.count(y)), y[:, 1:].numel()
        left_out = f"; {there - counted:,} labelled {IGNORED} do not count"
        return (
            f"the loss is the mean over {counted:,} predicted tokens of {len(y):,} sequences"
            f"{left_out if counted < there else ''}",
        )

    def check(self, z: Tensor, y: Tensor) -> None:
        """Outputs must be ``[n, T, K]``, and targets tokens ``[n, T]`` with T of two or more."""
        if z.dim() != 3 or y.shape[1:] != z.shape[1:2]:
            raise DataError(
                f"--loss causal_lm takes logits [n, T, K] and tokens [n, T], but the network gives "
                f"{in_words(z)} and the targets are {in_words(y)}",
                hint="it is the loss of networks that predict the next token at every position; "
                "others are trained with --loss cross_entropy, mse or bce",
            )
        if z.shape[1] < 2:
            raise DataError(
                "sequences of one token have no next token to predict", hint="give longer ones"
            )
        self._next.check(_predicting(z), y[:, 1:])


def _predicting(z: Tensor) -> Tensor:
    """``[n, T, K]`` without the last position, classes second: ``[n, K, T - 1]``."""
    return z[:, :-1].movedim(-1, 1)


def _as_outputs(part: Tensor) -> Tensor:
    """``[…, n, K, T - 1]`` as ``[…, n, T, K]`` with zeros at the last position."""
    rows = part.movedim(-1, -2)
    return torch.cat([rows, torch.zeros_like(rows[..., :1, :])], dim=-2)
