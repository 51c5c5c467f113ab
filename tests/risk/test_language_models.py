"""Risks of transformers' networks against its own losses and their dense derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from flatmeter.curvature.ghost import eligible
from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.data.pairs import as_dataset
from flatmeter.risk.causal_lm import CausalLM
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.evaluation import evaluate
from flatmeter.risk.preflight import preflight
from flatmeter.subject import Loader

tiny = pytest.importorskip("tiny_transformers")

GPT2, LLAMA, BERT, VIT = tiny.GPT2, tiny.LLAMA, tiny.BERT, tiny.VIT
SMALL = {
    GPT2: {"n_embd": 4, "n_layer": 1, "vocab_size": 11, "n_positions": 6},
    LLAMA: {
        "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1, "vocab_size": 11,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    },
    BERT: {
        "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1, "vocab_size": 11,
        "max_position_embeddings": 6, "type_vocab_size": 2,
    },
    VIT: {"hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1},
}  # fmt: skip


class Case:
    """A tiny network as flatmeter reads it from its folder, and as transformers built it."""

    def __init__(self, architecture, folder, n=5, ignored=False):
        # Eager attention, and norms as transformers has them, share no code with ours.
        self.model = tiny.make(architecture, **SMALL[architecture], attn_implementation="eager")
        self.model.save_pretrained(folder)
        self.causal = architecture in (GPT2, LLAMA)
        self.x = torch.randint(11, (n, 5), generator=torch.Generator().manual_seed(3))
        if architecture == VIT:
            self.x = tiny.inputs_of(VIT, n)
        self.y = self.x.clone() if self.causal else torch.arange(n) % 3
        if ignored:
            self.y[0, 2:] = self.y[3, 1] = -100
        self.network = Loader({}).network(folder).model

    def risk(self, dtype=torch.float64, **options):
        data = as_dataset((self.x, self.y), name="test")
        from flatmeter.risk.custom_loss import load_loss

        loss = load_loss("causal_lm" if self.causal else "cross_entropy")
        return EmpiricalRisk(self.network, loss, data, dtype=dtype, **options)

    def loss(self, parameters):
        """By transformers' own network in float64 and PyTorch's loss, shifted by hand."""
        x = self.x.double() if self.x.is_floating_point() else self.x
        z = functional_call(self.model.double(), parameters, (x,)).logits
        if not self.causal:
            return F.cross_entropy(z, self.y)
        return F.cross_entropy(z[:, :-1].flatten(0, 1), self.y[:, 1:].flatten())

    def dense(self, risk):
        """Hessian of :meth:`loss` by reverse over reverse, in flatmeter's order."""
        shapes = dict(zip(risk.space.names, risk.space.shapes, strict=True))

        def of_flat(flat):
            parts = flat.split([s.numel() for s in map(torch.Size, shapes.values())])
            named = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
            return self.loss(named)

        own = dict(self.model.double().named_parameters())
        flat = torch.cat([own[name].detach().flatten() for name in risk.space.names])
        return torch.autograd.functional.hessian(of_flat, flat)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA])
def test_the_loss_is_transformers_own(architecture, tmp_path):
    case = Case(architecture, tmp_path, ignored=True)
    risk = case.risk(torch.float32, batch_size=2)
    with torch.no_grad():
        own = case.model(case.x, labels=case.y).loss
    found = evaluate(risk)
    assert found.loss == pytest.approx(float(own), rel=1e-6)
    assert found.n == 5
    hits = case.model(case.x).logits[:, :-1].argmax(-1) == case.y[:, 1:]
    assert found.accuracy == pytest.approx(float(hits.sum()) / risk.normalizer)
    assert risk.normalizer == 4 * 5 - 3 - 1


@pytest.mark.parametrize("architecture", [GPT2, LLAMA, BERT, VIT])
def test_derivatives_are_those_of_transformers_network(architecture, tmp_path):
    case = Case(architecture, tmp_path, ignored=architecture == GPT2)
    # Sequences of unequal counts in batches of unequal sizes.
    risk = case.risk(batch_size=2)
    assert not any("not" in note and "gradient" in note for note in preflight(risk)[1:2])
    # There eager attention, and the norms of Llama, compute in float32 whatever they are given.
    digits = 1e-5 if architecture in (LLAMA, VIT) else 1e-9
    dense = case.dense(risk)
    scale = float(dense.abs().max())
    products = HessianOperator(risk).matmat(torch.eye(risk.space.dim, dtype=torch.float64))
    assert float((products - dense).abs().max()) < digits * scale
    assert risk.value() == pytest.approx(float(case.loss({}).detach()), rel=digits)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA])
def test_traces_are_those_of_dense_matrices(architecture, tmp_path, dense):
    case = Case(architecture, tmp_path, ignored=True)
    risk = case.risk(batch_size=3)
    gauss_newton = dense.gauss_newton(risk)
    product = GaussNewtonOperator(risk).matmat(torch.eye(risk.space.dim, dtype=torch.float64))
    torch.testing.assert_close(product, gauss_newton, rtol=1e-9, atol=1e-12)
    found = layer_traces(risk, curvature="ggn")
    diagonal = gauss_newton.diagonal()
    for name, estimate in found.estimates.items():
        wanted = float(diagonal[risk.space.slice(name)].sum())
        if name in eligible(risk).names:
            assert estimate.exact, name
        assert estimate.value == pytest.approx(wanted, rel=1e-9, abs=4 * estimate.stderr), name
    # Tied and broadcast tensors take probes; all linear layers are exact.
    rest = set(risk.space.names) - eligible(risk).names
    tables = {"transformer.wte.weight", "transformer.wpe.weight"}
    assert rest == (tables if architecture == GPT2 else set())


def test_many_tokens_take_random_columns(tmp_path, monkeypatch):
    from flatmeter.curvature import layer_traces as module

    case = Case(LLAMA, tmp_path)
    exact = layer_traces(case.risk(), curvature="ggn").values
    monkeypatch.setattr(module, "EXACT_COLUMNS", 5)
    sampled = layer_traces(case.risk(), curvature="ggn", rtol=0.02)
    assert any("random columns" in note for note in sampled.notes)
    total = sampled.total
    assert total.stderr > 0
    assert total.value == pytest.approx(exact.sum(), abs=4 * total.stderr)


def test_what_a_mean_is_over_does_not_follow_the_batches(tmp_path):
    case = Case(GPT2, tmp_path, ignored=True)
    values = [case.risk(batch_size=size).value_and_gradient() for size in (1, 2, 5)]
    for value, gradient in values[1:]:
        assert value == pytest.approx(values[0][0], rel=1e-13)
        torch.testing.assert_close(gradient, values[0][1], rtol=1e-11, atol=1e-14)
    assert CausalLM().count(case.y) == 16
