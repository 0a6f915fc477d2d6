"""The identities of section 2.1 on random tables; all sums are finite, so rounding (1e-12) is the only tolerance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.variational.discrete import DiscreteLatentModel, kl

F = torch.float64


def table(g, *shape):
    return torch.softmax(torch.randn(*shape, generator=g, dtype=F), -1)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_identities(seed):
    g = torch.Generator().manual_seed(seed)
    model, q, data = DiscreteLatentModel(table(g, 4), table(g, 4, 5)), table(g, 5, 4), table(g, 5)
    gap = model.marginal().log() - model.elbo(q)
    torch.testing.assert_close(gap, kl(q, model.posterior()), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.elbo(model.posterior()), model.marginal().log(), rtol=0, atol=1e-12)
    parts = model.joint_kl_terms(data, q)
    assert float(parts["total"] - parts["modelling"] - parts["inference"]) == pytest.approx(0, abs=1e-12)
    assert parts["total"] >= parts["modelling"]
    split = model.expected_elbo_terms(data, q)
    total = split["reconstruction"] - split["mutual_information"] - split["aggregate_kl"]
    assert float(total - data @ model.elbo(q)) == pytest.approx(0, abs=1e-12)


def test_collapsed_encoder_is_optimal_for_a_decoder_that_ignores_z(generator):
    data = table(generator, 5)
    model = DiscreteLatentModel(table(generator, 4), data.expand(4, 5))
    split = model.expected_elbo_terms(data, model.prior.expand(5, 4))
    assert float(split["mutual_information"]) == pytest.approx(0, abs=1e-15)
    assert float(split["aggregate_kl"]) == pytest.approx(0, abs=1e-15)
    assert float(split["reconstruction"]) == pytest.approx(float(data @ data.log()), abs=1e-14)  # no bound can exceed minus entropy


def test_theorem_2_2_1_on_three_states(generator):
    """x_0 -> x_{i-1} -> x_i on tables: marginal and conditional KL differ by -I(x_{i-1}; x_0 | x_i), whatever p_phi is."""
    p0, step1, step2 = table(generator, 3), table(generator, 3, 3), table(generator, 3, 3)
    joint = p0[:, None, None] * step1[:, :, None] * step2[None]  # (x_0, x_{i-1}, x_i)
    p_i = joint.sum((0, 1))
    marginal = (joint.sum(0) / p_i).T  # rows x_i: p(x_{i-1} | x_i)
    pair = joint.sum(1)  # (x_0, x_i)
    conditional = joint.permute(0, 2, 1) / pair[..., None]  # (x_0, x_i, x_{i-1})
    constants = []
    for _ in range(3):
        model = table(generator, 3, 3)
        left = p_i @ kl(marginal, model)
        right = (pair * kl(conditional.reshape(9, 3), model.repeat(3, 1)).reshape(3, 3)).sum()
        constants.append(float(left - right))
    entropy = lambda p: float(-(p * p.log()).sum())  # noqa: E731
    information = entropy(pair) + entropy(joint.sum(0)) - entropy(joint) - entropy(p_i)
    assert constants == pytest.approx([-information] * 3, abs=1e-13)
    assert information > 1e-3


@pytest.mark.usefixtures("user_errors")
def test_bad_input(generator):
    with pytest.raises(ValueError, match="prior must sum to one"):
        DiscreteLatentModel(torch.tensor([0.5, 0.6], dtype=F), table(generator, 2, 3))
    with pytest.raises(ValueError, match="one row per z"):
        DiscreteLatentModel(table(generator, 2), table(generator, 3, 3))
    with pytest.raises(ValueError, match="likelihood must be positive"):
        DiscreteLatentModel(table(generator, 2), torch.eye(2, dtype=F))
    with pytest.raises(ValueError, match="prior contains NaN"):
        DiscreteLatentModel(torch.tensor([torch.nan, 1.0]), table(generator, 2, 3))
    with pytest.raises(TypeError, match="prior must be a floating-point"):
        DiscreteLatentModel(torch.tensor([1]), table(generator, 1, 3))
    with pytest.raises(ValueError, match=r"encoder must have shape \(3, 2\)"):
        DiscreteLatentModel(table(generator, 2), table(generator, 2, 3)).elbo(table(generator, 2, 3))
