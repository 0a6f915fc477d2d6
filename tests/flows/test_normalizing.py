"""Flows against Jacobians by automatic differentiation, quadrature of the density, root finding and finite differences."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from mathcore.distributions import GaussianMixture
from mathcore.divergences import quadrature_nodes
from mathcore.dynamics import log_likelihood_ode
from mathcore.flows import ComposeFlow, ContractiveMLP, PlanarFlow, ResidualFlow, flow_log_prob, log_det_series

f64 = torch.float64


def normal_log_prob(z):
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1)


def planar(dim, seed, scale=2.0):
    """A layer with parameters large enough to bend space."""
    layer = PlanarFlow(dim, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        layer.u.mul_(scale)
        layer.w.mul_(scale)
        layer.b.fill_(0.3)
    return layer


def residual(dim, seed, kappa=0.8):
    return ResidualFlow(ContractiveMLP(dim, 16, 2, kappa, torch.Generator().manual_seed(seed)).double(), kappa)


def chain(dim, seed):
    return ComposeFlow([planar(dim, seed), residual(dim, seed), planar(dim, seed + 1), residual(dim, seed + 1)])


FLOWS = [planar, residual, chain]


@pytest.mark.parametrize("make", FLOWS)
@given(seed=st.integers(0, 1000), dim=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_round_trip_and_determinant(make, seed, dim):
    flow = make(dim, seed)
    z = 2 * torch.randn(7, dim, generator=torch.Generator().manual_seed(seed), dtype=f64)
    x = flow(z)
    # conditioning of the inverse: 1 + w.u' may be small, kappa / (1 - kappa) is 4 a layer
    rows = [torch.autograd.functional.jacobian(lambda y: flow(y[None])[0], row) for row in z]
    stretch = max(float(torch.linalg.inv(J).norm()) for J in rows)
    torch.testing.assert_close(flow.inverse(x), z, rtol=0, atol=1e-12 * max(stretch, 1))
    torch.testing.assert_close(flow.log_abs_det(z), torch.stack([torch.linalg.slogdet(J).logabsdet for J in rows]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("make", FLOWS)
def test_the_density_integrates_to_one(make):
    points, weights = quadrature_nodes(torch.linspace(-15, 15, 6001, dtype=f64))
    with torch.no_grad():
        mass = float((weights * flow_log_prob(make(1, 5), normal_log_prob, points).exp()).sum())
    assert mass == pytest.approx(1, abs=1e-8)  # trapezium rule, mesh 0.005, on a smooth density whose features are a tenth wide


@pytest.mark.parametrize("make", FLOWS)
def test_gradients_of_the_likelihood(make, generator):
    """Implicit differentiation of the inverse against central differences in points and in every kind of parameter."""
    flow = make(2, 3)
    x = torch.randn(4, 2, generator=generator, dtype=f64, requires_grad=True)
    value = flow_log_prob(flow, normal_log_prob, x).sum()
    parameters = list(flow.parameters())
    slopes = torch.autograd.grad(value, [x, *parameters])
    h = 1e-5
    for tensor, slope in zip([x, *parameters], slopes):
        direction = torch.randn(tensor.shape, generator=generator, dtype=f64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(sign * h * direction)
                ends.append(float(flow_log_prob(flow, normal_log_prob, x).sum()))
                tensor.sub_(sign * h * direction)
        # error of the difference h^2 f''' / 6, and 1e-13 / h from the inverse
        assert float((slope * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-6)


def test_a_planar_layer_by_hand():
    layer = PlanarFlow(1).double()
    with torch.no_grad():
        layer.u.fill_(0.7), layer.w.fill_(2.0), layer.b.fill_(-0.4)
    slope = math.log(1 + math.exp(1.4)) - 1  # w u'
    z = torch.tensor([[0.3]], dtype=f64)
    assert float(layer(z).detach()) == pytest.approx(0.3 + slope / 2 * math.tanh(0.2), rel=1e-14)
    assert float(layer.log_abs_det(z).detach()) == pytest.approx(math.log(1 + slope / math.cosh(0.2) ** 2), rel=1e-13)


def test_the_constraint_is_needed():
    """u tanh(w z) with w.u = -3 and without the constraint takes one value at two points; the layer with the same u does not."""
    fold = lambda z: z - 3 * math.tanh(z)  # noqa: E731
    left, right = brentq(lambda z: fold(z) - 0.5, -20, -1.5), brentq(lambda z: fold(z) - 0.5, -1, 0)
    assert left < right
    assert fold(left) == pytest.approx(fold(right), abs=1e-10)
    layer = PlanarFlow(1).double()
    with torch.no_grad():
        layer.u.fill_(-3.0), layer.w.fill_(1.0), layer.b.zero_()
    z = torch.linspace(-5, 5, 401, dtype=f64)[:, None]
    assert bool((layer(z).diff(dim=0) > 0).all())


def test_banach_error_bound(generator):
    """|z_n - z| <= kappa^n / (1 - kappa) |z_1 - z_0|, and steps shrink at least as fast as kappa."""
    kappa = 0.7
    flow = residual(3, 1, kappa)
    x = torch.randn(20, 3, generator=generator, dtype=f64)
    with torch.no_grad():
        z, root = x, flow.inverse(x)
        first = (flow.net(x)).norm(dim=1)
        for n in range(1, 20):
            z = x - flow.net(z)
            assert bool(((z - root).norm(dim=1) <= kappa**n / (1 - kappa) * first + 1e-14).all())


def test_a_contraction_is_one(generator):
    net = ContractiveMLP(4, 32, 3, 0.9, generator).double()
    with torch.no_grad():
        for weight in net.weights:
            weight.mul_(5)
    x, y = (torch.randn(500, 4, generator=generator, dtype=f64) for _ in range(2))
    ratio = ((net(x) - net(y)).norm(dim=1) / (x - y).norm(dim=1)).detach()
    assert float(ratio.max()) < 0.9
    assert float(ratio.max()) > 0.1  # a bound, not zero


def test_log_det_series(generator):
    """Eq. 5.1.6: the truncation error is bounded by D kappa^{n+1} / ((n+1)(1-kappa)) and falls at the rate kappa."""
    matrix = torch.randn(3, 3, generator=generator, dtype=f64)
    kappa = 0.6
    matrix = matrix * kappa / torch.linalg.matrix_norm(matrix, 2)
    z, want = torch.zeros(2, 3, dtype=f64), torch.linalg.slogdet(torch.eye(3, dtype=f64) + matrix).logabsdet
    for n in (1, 2, 5, 10, 40):
        error = float((log_det_series(lambda y: y @ matrix.T, z, n) - want).abs().max())
        assert error <= 3 * kappa ** (n + 1) / ((n + 1) * (1 - kappa)) + 1e-14
    assert error < 1e-9
    flow = residual(3, 2, 0.5)
    z = torch.randn(6, 3, generator=generator, dtype=f64)
    torch.testing.assert_close(log_det_series(flow.net, z, 60), flow.log_abs_det(z), rtol=1e-10, atol=1e-13)


def test_hutchinson_series_is_unbiased():
    g = torch.Generator().manual_seed(4)
    matrix = torch.randn(3, 3, generator=g, dtype=f64)
    matrix = 0.6 * matrix / torch.linalg.matrix_norm(matrix, 2)
    fn = lambda y: y @ matrix.T  # noqa: E731
    one = torch.zeros(1, 3, dtype=f64)
    want = float(log_det_series(fn, one, 6))
    draws = log_det_series(fn, one.expand(20_000, 3), 6, "hutchinson", 1, g)
    assert abs(float(draws.mean()) - want) < 5 * float(draws.std()) / math.sqrt(20_000)
    fewer = log_det_series(fn, one.expand(5000, 3), 6, "hutchinson", 16, g)
    assert float(draws.var() / fewer.var()) == pytest.approx(16, rel=0.15)  # relative error of a variance of 5000 draws: 3%
    assert torch.equal(log_det_series(lambda y: torch.ones_like(y), one, 4), torch.zeros(1, dtype=f64))


def test_residual_layers_are_euler_steps():
    """Section 5.1.2: L layers z + (T/L) v have the log-likelihood of dx/dt = v up to an error that halves with T/L."""
    matrix = torch.tensor([[0.2, -0.6], [0.4, 0.1]], dtype=f64)
    field = lambda x: torch.tanh(x @ matrix.T)  # noqa: E731
    x = torch.tensor([[0.5, -1.0], [1.5, 0.3]], dtype=f64)
    data = GaussianMixture(torch.ones(1, dtype=f64), torch.zeros(1, 2, dtype=f64), torch.ones(1, dtype=f64))
    want = log_likelihood_ode(lambda y, t: field(y), data.log_prob, x, torch.linspace(1, 0, 65, dtype=f64))
    errors = []
    for layers in (8, 16, 32, 64):
        step = 1 / layers
        flow = ComposeFlow([ResidualFlow(lambda z, h=step: h * field(z), 0.9 * step) for _ in range(layers)])
        with torch.no_grad():
            errors.append(float((flow_log_prob(flow, data.log_prob, x) - want).abs().max()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(0.9 < s < 1.1 for s in slopes), slopes


def test_maximum_likelihood_trains(generator):
    """Three planar layers on a Gaussian in the plane: the likelihood rises towards minus the entropy and never beyond."""
    data = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.6], [0.6, 1.0]]]))
    flow = ComposeFlow([PlanarFlow(2, generator) for _ in range(3)])
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.03)
    losses = []
    for _ in range(100):
        loss = -flow_log_prob(flow, normal_log_prob, data.sample(128, generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    entropy = math.log(2 * math.pi * math.e) + 0.5 * math.log(0.64)
    last = sum(losses[-20:]) / 20
    assert losses[0] - last > 0.03
    assert last > entropy - 5 * 1.0 / math.sqrt(20 * 128)  # std of log p of a Gaussian in the plane is 1


@pytest.mark.parametrize("name", ["forward", "inverse", "log_abs_det"])
@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(3, dtype=f64), ValueError, "must have 2 axes"),
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "must be a floating"),
        (torch.full((3, 2), math.nan, dtype=f64), ValueError, "contains NaN"),
    ],
)
def test_point_refusals(name, x, error, match, user_errors):
    for flow in (planar(2, 0), residual(2, 0), chain(2, 0)):
        with pytest.raises(error, match=match):
            getattr(flow, name)(x)


def test_refusals(user_errors):
    z = torch.zeros(3, 2)
    with pytest.raises(TypeError, match=r"z must be torch\.float64"):
        planar(2, 0)(z)
    with pytest.raises(ValueError, match="z must have last dimension 2"):
        PlanarFlow(2)(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="dim must be an integer"):
        PlanarFlow(0)
    flat = PlanarFlow(2)
    with torch.no_grad():
        flat.w.zero_()
    with pytest.raises(ValueError, match="w must not be zero"):
        flat(z)
    with pytest.raises(TypeError, match="net must be"):
        ResidualFlow(1.0, 0.5)
    for kappa in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="lipschitz must lie strictly"):
            ResidualFlow(torch.tanh, kappa)
    with pytest.raises(ValueError, match="net must return the shape"):
        ResidualFlow(lambda z: z[:1], 0.5)(z)
    with pytest.raises(RuntimeError, match=r"lipschitz=0.5 is no bound on net"):
        ResidualFlow(lambda z: -1.5 * z, 0.5).inverse(torch.ones(3, 2))
    with pytest.raises(RuntimeError, match="too close to 1"):
        ResidualFlow(lambda z: -0.9999 * z, 0.99999).inverse(torch.ones(3, 2, dtype=f64))
    with pytest.raises(ValueError, match="lipschitz must be a positive"):
        ContractiveMLP(2, lipschitz=-1.0)
    with pytest.raises(ValueError, match="at least one flow"):
        ComposeFlow([])
    with pytest.raises(TypeError, match=r"layers\[1\] must be a module"):
        ComposeFlow([PlanarFlow(2), torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="prior_log_prob must return"):
        flow_log_prob(PlanarFlow(2), lambda z: z, z)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
        flow_log_prob(PlanarFlow(2), normal_log_prob, [0.0])
    with pytest.raises(ValueError, match="method must be one of"):
        log_det_series(torch.tanh, z, 3, "exactly")
    with pytest.raises(ValueError, match="n_terms must be"):
        log_det_series(torch.tanh, z, 0)
    with pytest.raises(ValueError, match="n_probes must be"):
        log_det_series(torch.tanh, z, 3, "hutchinson", 0)
    with pytest.raises(ValueError, match="z must have 2 axes"):
        log_det_series(torch.tanh, torch.zeros(3), 3)
    with pytest.raises(ValueError, match="fn must return the shape"):
        log_det_series(lambda y: y[:1], z, 3, "hutchinson")
