"""The next-token loss against PyTorch's own on sequences shifted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flatmeter.errors import DataError
from flatmeter.risk.causal_lm import CausalLM


def sequences(n=5, length=6, tokens=7):
    torch.manual_seed(0)
    z = torch.randn(n, length, tokens, dtype=torch.float64)
    return z, torch.randint(tokens, (n, length))


def by_hand(z, y):
    pairs = [
        (z[i, t], y[i, t + 1])
        for i in range(len(z))
        for t in range(z.shape[1] - 1)
        if y[i, t + 1] != -100
    ]
    logits, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
    return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum(), len(pairs)


@pytest.mark.parametrize("ignored", [False, True])
def test_it_is_the_mean_over_predicted_tokens(ignored):
    z, y = sequences()
    if ignored:
        y[0, 3:] = y[2, :] = y[4, 1] = -100
    loss, (mean, hits, count) = CausalLM(), by_hand(z, y)
    assert loss.count(y) == count
    assert float(loss.total(z, y)) / count == pytest.approx(float(mean), rel=1e-12)
    assert loss.correct(z, y) == (hits, count)
    # However sequences of unequal counts are put into batches.
    parts = [
        (float(loss.total(a, b)), loss.count(b))
        for a, b in zip(z.split(2), y.split(2), strict=True)
    ]
    assert sum(t for t, _ in parts) / sum(c for _, c in parts) == pytest.approx(float(mean))
    (remark,) = loss.remarks(z[:2], y)
    assert f"{count} predicted tokens of 5 sequences" in remark
    assert ("labelled -100 do not count" in remark) == ignored


def test_the_first_label_and_the_last_logits_do_not_count():
    z, y = sequences()
    loss = CausalLM()
    before = loss.total(z, y)
    z[:, -1], y[:, 0] = 99.0, 0
    assert torch.equal(loss.total(z, y), before)
    assert not loss.probe(z, y, torch.ones_like(z))[:, -1].any()


@pytest.mark.parametrize(
    ("z", "y", "words"),
    [
        (torch.zeros(2, 7), torch.zeros(2).long(), r"takes logits \[n, T, K\]"),
        (torch.zeros(2, 7, 5), torch.zeros(2, 5).long(), r"targets are \[n, 5\]"),
        (torch.zeros(2, 1, 5), torch.zeros(2, 1).long(), "no next token"),
        (torch.zeros(2, 3, 5), torch.full((2, 3), 5), "labels run from 5 to 5"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 3), "integer labels"),
    ],
)
def test_what_is_no_language_model_is_refused(z, y, words):
    with pytest.raises(DataError, match=words):
        CausalLM().check(z, y)
