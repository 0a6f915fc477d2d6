"""Predictor-corrector: without corrector the predictor itself, the exact stationary law of the corrector, costs, refusals."""

import pytest
import torch
from problems import F64, KINDS, SCHEDULES, Problem

from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import ancestral, ddim, euler_maruyama, grids, predictor_corrector
from mathcore.solvers.diagnostics import exact_variance, linear_model

VP = AffineSchedule.vp()
PREDICTORS = {"ancestral": ancestral, "euler_maruyama": euler_maruyama, "ddim": ddim}
everywhere = pytest.mark.parametrize("name", SCHEDULES)


def marginal(t, std=0.5):
    """Variance of x_t for data N(0, std^2)."""
    return float(VP.alpha(t)) ** 2 * std**2 + float(VP.sigma(t)) ** 2


@everywhere
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_without_corrector_it_is_the_predictor(name, predictor):
    p = Problem(name)
    times = p.grid(6)
    z = torch.randn(6, 4, 1, generator=torch.Generator().manual_seed(2), dtype=F64)
    tables = predictor_corrector(p.schedule, times, predictor=predictor, n_corrector=0), PREDICTORS[predictor](p.schedule, times)
    got, want = (table.run(p.model(), p.x, noise=lambda k: z[k]) for table in tables)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.4])
def test_the_corrector_has_the_stationary_law_of_a_langevin_step(snr):
    # x <- (1 - d / v) x + sqrt(2 d) z is an autoregression; its stationary variance is 2 d / (1 - (1 - d / v)^2)
    times = torch.tensor([0.5, 0.3], dtype=F64)
    v, d = marginal(0.3), 2 * (snr * float(VP.sigma(0.3))) ** 2
    stationary = 2 * d / (1 - (1 - d / v) ** 2)
    table = predictor_corrector(VP, times, predictor="ddim", n_corrector=int(6 / snr**2), snr=snr)
    got = exact_variance(table, linear_model(VP, 0.5), start_var=9.0 * marginal(0.5))  # a start far too wide is forgotten
    assert got == pytest.approx(stationary, rel=1e-4)  # (1 - d / v)^{2 n} < e^{-24} v / sigma^2


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_correctors_repair_what_few_predictor_steps_do_wrong(predictor):
    times = grids.uniform_t(VP, 10, t_start=1.0, t_end=0.05)

    def error(n):
        table = predictor_corrector(VP, times, predictor=predictor, n_corrector=n, snr=0.1)
        return abs(exact_variance(table, linear_model(VP, 0.5), marginal(1.0)) / marginal(0.05) - 1)

    errors = [error(n) for n in (0, 4, 16, 64)]
    assert errors[0] > 0.02
    assert errors[3] < errors[2] < errors[1] < errors[0]


def test_the_law_is_right_to_second_order_in_snr():
    # many small steps: what remains is d / (2 v), with d proportional to snr^2
    times = grids.uniform_t(VP, 8, t_start=1.0, t_end=0.2)
    errors = []
    for snr in (0.4, 0.2, 0.1):
        table = predictor_corrector(VP, times, n_corrector=int(6 / snr**2), snr=snr)
        errors.append(exact_variance(table, linear_model(VP, 0.5), marginal(1.0)) / marginal(0.2) - 1)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)
    assert errors[2] == pytest.approx((0.1 * float(VP.sigma(0.2))) ** 2 / marginal(0.2), rel=0.05)


def test_the_law_of_a_mixture(generator):
    # 4000 samples of the two-component test mixture: mean and weight of the right mode within 5 standard errors
    p = Problem("vp")
    times = p.grid(60)
    start = p.oracle.marginal(p.t_start).sample(4000, generator=generator)
    out = predictor_corrector(VP, times, n_corrector=2, snr=0.1).run(p.model(), start, generator=generator)
    law = p.oracle.marginal(p.t_end)
    assert abs(float(out.mean() - law.mean())) < 5 * float(law.cov().sqrt()) / 4000**0.5
    boundary = torch.zeros(1, 1, dtype=F64)
    share = float(1 - law.cdf(boundary))
    assert abs(float((out > 0).double().mean()) - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_cost_and_the_clean_end():
    times = grids.uniform_lambda(VP, 5, to_clean=True)
    table = predictor_corrector(VP, times, n_corrector=3)
    assert table.nfe == 5 + 4 * 3  # no corrector at sigma = 0
    assert table.times[-1] == 0
    chain = DiscreteSchedule.linear(50)
    assert predictor_corrector(chain, grids.discrete(chain, 10), n_corrector=1).nfe == 19


@pytest.mark.parametrize("kind", KINDS)
def test_the_four_predictions_are_one_method(kind):
    p = Problem("linear")
    z = torch.randn(30, 4, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    runs = [predictor_corrector(p.schedule, p.grid(5), k).run(p.model(k), p.x, noise=lambda i: z[i]) for k in ("noise", kind)]
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-11, atol=1e-11)


def test_refusals(user_errors):
    times = grids.uniform_t(VP, 4)
    with pytest.raises(ValueError, match="predictor must be one of ancestral"):
        predictor_corrector(VP, times, predictor="heun")
    for n in (-1, 1.5, True):
        with pytest.raises(ValueError, match="n_corrector must be an integer"):
            predictor_corrector(VP, times, n_corrector=n)
    for snr in (0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="snr must be a positive"):
            predictor_corrector(VP, times, snr=snr)
    chain = DiscreteSchedule.linear(50)
    with pytest.raises(ValueError, match="time derivative"):
        predictor_corrector(chain, grids.discrete(chain, 10), predictor="euler_maruyama")
