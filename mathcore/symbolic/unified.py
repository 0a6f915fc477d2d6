"""Chapter 6 derived in sympy: predictions, losses, clocks and the family of reverse-time processes, for a schedule about which nothing is known.

``alpha`` and ``sigma`` are undefined positive functions of ``t``. The twelve changes of prediction are solved from their definitions by
`mathcore.symbolic.solvers.conversion`; here they become functions of time. What is called a gap vanishes where the statement holds.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Function, Symbol

from mathcore.symbolic.density import gradient, plane, rate, t
from mathcore.symbolic.ito import coefficients_from_kernel
from mathcore.symbolic.solvers import conversion, scales
from mathcore.symbolic.variational import kl_between, log_normal, normal_expectation

h = Symbol("h", real=True)
x, x_0, noise, clean = sp.symbols("x x_0 noise clean", real=True)
mean = Symbol("mean", real=True)
std, gamma = sp.symbols("std gamma", positive=True)
r = Symbol("r", nonnegative=True)

alpha, sigma = (Function(name, positive=True)(t) for name in ("alpha", "sigma"))
wronskian = alpha * sigma.diff(t) - alpha.diff(t) * sigma
"""Delta = alpha sigma' - alpha' sigma, positive where the signal-to-noise ratio falls."""


# --- targets, conversions, losses (sections 6.2 and 6.3.1, Eq. 6.3.6) ------------------------------------------------------------------------


@cache
def target_coefficients(prediction: str) -> tuple[Expr, Expr]:
    """(A, B): the conditional target as A x_0 + B eps, from its definition (Table 6.1); the score is that of N(alpha x_0, sigma^2) at the noisy point."""
    point = alpha * x_0 + sigma * noise
    score = log_normal(x, alpha * x_0, sigma**2).diff(x).subs(x, point)
    value = {"clean": x_0, "noise": noise, "score": score, "velocity": point.diff(t)}[prediction]
    value = sp.expand(sp.simplify(value))
    return value.coeff(x_0, 1), value.coeff(noise, 1)


@cache
def conversion_in_time(src: str, dst: str) -> tuple[Expr, Expr]:
    """(A, B) with dst = A x_t + B src, as functions of time (Prop. 6.3.1): (0, 1) for equal names."""
    node = scales("t")
    places = {node.alpha: alpha, node.sigma: sigma, node.dalpha: alpha.diff(t), node.dsigma: sigma.diff(t)}
    a, b = conversion(src, dst, "t")
    return a.subs(places), b.subs(places)


def conversion_gap(src: str, dst: str) -> Expr:
    """The converted conditional target less the target itself, x_t = alpha x_0 + sigma eps put in: zero for each of the twelve."""
    a, b = conversion_in_time(src, dst)
    (src_clean, src_noise), (dst_clean, dst_noise) = target_coefficients(src), target_coefficients(dst)
    value = a * (alpha * x_0 + sigma * noise) + b * (src_clean * x_0 + src_noise * noise)
    return sp.simplify(value - dst_clean * x_0 - dst_noise * noise)


@cache
def loss_factor(src: str, dst: str) -> Expr:
    """k with |dst error|^2 = k |src error|^2 at one x_t (Eq. 6.3.6): the square of what the conversion does to an error."""
    error, given = sp.symbols("error given")
    a, b = conversion_in_time(src, dst)
    difference = (a * x + b * (given + error)) - (a * x + b * given)
    return sp.factor(sp.simplify(difference / error) ** 2)


def likelihood_weight_gap() -> Expr:
    """g^2 / sigma^2 + 2 lambda', lambda = log(alpha / sigma): on the noise prediction the likelihood weighting is uniform in lambda (section 6.2.2)."""
    _, g2 = coefficients_from_kernel(alpha, sigma, t)
    return sp.simplify(g2 / sigma**2 + 2 * sp.log(alpha / sigma).diff(t))


@cache
def conditioning_gap(objective: str) -> tuple[Expr, Expr]:
    """(conditional loss less marginal loss, the part of it that depends on the model) for data N(mean, std^2) (section 6.1).

    ``objective``: ``"score"`` and ``"velocity"`` for a linear model a x + b of the field; ``"kl"`` for a Gaussian model N(a x + b, w) of the reverse step
    of the chain x_s, x_t = step x_s + noise. The trick is that the second is zero.
    """
    a, b = sp.symbols("a b", real=True)
    width = Symbol("w", positive=True)
    difference = _kl_difference(a, b, width) if objective == "kl" else _squared_difference(objective, a, b)
    unknown = [p for p in (a, b, width) if difference.has(p)]
    return difference, sum((difference.diff(p) ** 2 for p in unknown), sp.Integer(0))


def _squared_difference(objective: str, a: Expr, b: Expr) -> Expr:
    """E |m - target|^2 - E |m - E[target | x_t]|^2, all Gaussian: the conditional mean by regression on x_t."""
    u, v = sp.symbols("u v", real=True)
    of_clean, of_noise = target_coefficients(objective)
    point, target = alpha * (mean + std * u) + sigma * v, of_clean * (mean + std * u) + of_noise * v
    gain = (of_clean * alpha * std**2 + of_noise * sigma) / (alpha**2 * std**2 + sigma**2)
    marginal = of_clean * mean + gain * (point - alpha * mean)
    model = a * point + b
    return sp.simplify(normal_expectation(sp.expand((model - target) ** 2 - (model - marginal) ** 2), u, v))


def _kl_difference(a: Expr, b: Expr, width: Expr) -> Expr:
    """E KL(p(x_s | x_t, x_0) || model) - E KL(p(x_s | x_t) || model) for x_s = alpha_s x_0 + sigma_s eps, x_t = step x_s + grow eps'."""
    u, v, e = sp.symbols("u v e", real=True)
    step, grow, scale, level = sp.symbols("step grow alpha_s sigma_s", positive=True)

    def reverse(centre: Expr, var: Expr, point: Expr) -> tuple[Expr, Expr]:
        """Mean and variance of x_s ~ N(centre, var) given x_t = point."""
        gain = step * var / (step**2 * var + grow**2)
        return centre + gain * (point - step * centre), var * grow**2 / (step**2 * var + grow**2)

    data = mean + std * u
    point = step * (scale * data + level * v) + grow * e
    model = a * point + b, width
    conditional = kl_between(*reverse(scale * data, level**2, point), *model)
    marginal = kl_between(*reverse(scale * mean, scale**2 * std**2 + level**2, point), *model)
    return sp.simplify(normal_expectation(sp.expand(sp.expand_log(conditional - marginal, force=True)), u, v, e))


# --- the ODE in five forms (Eq. 6.3.2) and one step of it (section 6.3.4) --------------------------------------------------------------------


@cache
def pf_ode_forms() -> dict[str, Expr]:
    """The five right-hand sides as they stand in Eq. 6.3.2, with the heads replaced by what they estimate at x = alpha clean + sigma noise."""
    state = alpha * clean + sigma * noise
    fall = alpha.diff(t) / alpha - sigma.diff(t) / sigma
    return {
        "noise": alpha.diff(t) / alpha * state - sigma * fall * noise,
        "clean": sigma.diff(t) / sigma * state + alpha * fall * clean,
        "score": alpha.diff(t) / alpha * state + sigma**2 * fall * (-noise / sigma),
        "clean_noise": alpha.diff(t) * clean + sigma.diff(t) * noise,
        "velocity": state.diff(t),  # clean and noise are held, which is the conditional velocity of Eq. 6.2.4
    }


def pf_ode_gap(form: str) -> Expr:
    """A form of Eq. 6.3.2 less f x - g^2 s / 2, with f and g^2 from the moments of the SDE (Lemma 4.4.1)."""
    f, g2 = coefficients_from_kernel(alpha, sigma, t)
    return sp.simplify(pf_ode_forms()[form] - f * (alpha * clean + sigma * noise) + g2 / 2 * (-noise / sigma))


def _moved(scale: Expr) -> Expr:
    """A schedule function at t + h to second order in h."""
    return sum((scale.diff(t, k) * h**k / sp.factorial(k) for k in range(1, 3)), scale)


@cache
def euler_minus_ddim(prediction: str) -> tuple[Expr, Expr]:
    """h^2 coefficients of clean and noise in one plain Euler step less one DDIM step, the head ``prediction`` held (section 6.3.4).

    Zero for all data only where alpha'' = sigma'' = 0, and the same for every head: at its start a plain Euler step does not see the form.
    """
    a, b = conversion_in_time(prediction, "velocity")
    of_clean, of_noise = target_coefficients(prediction)
    state = alpha * clean + sigma * noise
    euler = state + h * (a * state + b * (of_clean * clean + of_noise * noise))
    gap = sp.expand(sp.simplify(euler - _moved(alpha) * clean - _moved(sigma) * noise))
    assert sp.simplify(gap.coeff(h, 0)) == 0 == sp.simplify(gap.coeff(h, 1))
    return sp.simplify(gap.coeff(h, 2).coeff(clean, 1)), sp.simplify(gap.coeff(h, 2).coeff(noise, 1))


@cache
def exponential_euler(form: str) -> tuple[Expr, Expr]:
    """(of clean, of noise) at time s after one step from t with the linear part exact and the head ``"noise"`` or ``"clean"`` held (section 6.3.4).

    x_s / scale_s = x_t / scale_t + head times the integral of (ratio)', scale alpha for the noise and sigma for the clean head: DDIM is (alpha_s, sigma_s).
    """
    s = Symbol("s", positive=True)
    scale, other = (alpha, sigma) if form == "noise" else (sigma, alpha)
    a, b = conversion_in_time(form, "velocity")
    # the integrating factor removes the linear part, and what is left is an exact derivative
    assert sp.simplify(a - scale.diff(t) / scale) == 0 == sp.simplify(b / scale - (other / scale).diff(t))
    held = noise if form == "noise" else clean
    at_s = {t: s}
    moved = scale.subs(at_s) * ((alpha * clean + sigma * noise) / scale + held * ((other / scale).subs(at_s) - other / scale))
    moved = sp.expand(moved)
    return sp.simplify(moved.coeff(clean, 1)), sp.simplify(moved.coeff(noise, 1))


@cache
def gaussian_jacobian() -> dict[str, tuple[Expr, Expr]]:
    """{head: (L, dN/dx)} of dx/dt = L x + N for data of variance std^2 along the direction, and the slope of the velocity, their sum (section 6.3.4)."""
    total = alpha**2 * std**2 + sigma**2
    slopes = {"clean": alpha * std**2 / total, "noise": sigma / total, "score": -1 / total}  # of the conditional means, by regression
    out = {}
    for head, slope in slopes.items():
        a, b = conversion_in_time(head, "velocity")
        out[head] = sp.simplify(a), sp.factor(sp.simplify(b * slope))
    velocity = alpha.diff(t) * slopes["clean"] + sigma.diff(t) * slopes["noise"]
    out["velocity"] = sp.Integer(0), sp.factor(sp.simplify(velocity))
    return out


def curvature_gap() -> Expr:
    """dv/dt at fixed x less alpha'' clean + sigma'' noise + alpha' dclean/dt + sigma' dnoise/dt, for any clean and noise fields (section 6.3.4)."""
    fields = [Function(name)(x, t) for name in ("clean", "noise")]
    velocity = alpha.diff(t) * fields[0] + sigma.diff(t) * fields[1]
    schedule = alpha.diff(t, 2) * fields[0] + sigma.diff(t, 2) * fields[1]
    return sp.expand(velocity.diff(t) - schedule - alpha.diff(t) * fields[0].diff(t) - sigma.diff(t) * fields[1].diff(t))


# --- clocks (Prop. 6.3.3, Eq. 6.3.4 and 6.3.5) ----------------------------------------------------------------------------------------------


@cache
def clock(path: str) -> tuple[Expr, Expr, Expr, Expr]:
    """(scale, its rate, tau, its rate) that carry the schedule onto the path ``"linear"`` or ``"trig"``, rates simplified."""
    scale = alpha + sigma if path == "linear" else sp.sqrt(alpha**2 + sigma**2)
    tau = sigma / scale if path == "linear" else sp.atan(sigma / alpha)
    return scale, sp.simplify(scale.diff(t)), tau, sp.simplify(tau.diff(t))


@cache
def transfer_gaps(path: str) -> tuple[Expr, Expr]:
    """(x_t - scale x_tau, v_t - scale' x_tau - scale tau' v_tau) for the conditional path and velocity: Eq. 6.3.3, or Eq. 6.3.4 and 6.3.5."""
    scale, dscale, tau, dtau = clock(path)
    u = Symbol("u", positive=True)
    pair = (1 - u, u) if path == "linear" else (sp.cos(u), sp.sin(u))
    point = pair[0] * x_0 + pair[1] * noise
    state = alpha * x_0 + sigma * noise
    at_tau, velocity = point.subs(u, tau), point.diff(u).subs(u, tau)
    return sp.simplify(state - scale * at_tau), sp.simplify(state.diff(t) - dscale * at_tau - scale * dtau * velocity)


@cache
def transferred_continuity() -> Expr:
    """Residual of the continuity equation for p(x, t) = q(x / c, tau) / c and the velocity of Eq. 6.3.3, less tau' / c times the residual of (q, w) itself.

    Zero for any density q, field w, scale c(t) and clock tau(t): the marginal statement of Prop. 6.3.3.
    """
    y, u = sp.symbols("y u", real=True)
    c, tau = Function("c", positive=True)(t), Function("tau", positive=True)(t)
    q, w = (Function(name)(y, u) for name in ("q", "w"))
    base = q.diff(u) + (w * q).diff(y)

    def here(expr: Expr) -> Expr:
        return expr.subs({y: x / c, u: tau}, simultaneous=True)

    p, v = here(q) / c, c.diff(t) * x / c + c * tau.diff(t) * here(w)
    residual = p.diff(t) + (v * p).diff(x)
    return sp.simplify((residual - tau.diff(t) / c * here(base)).doit())


# --- the price of a clock (Eq. 6.3.7, section 6.3.4) -------------------------------------------------------------------------------------------


@cache
def target_power() -> Expr:
    """E (alpha' x_0 + sigma' eps)^2 for one coordinate with mean ``mean`` and standard deviation ``std`` (Eq. 6.3.7): only two moments enter."""
    u, v = sp.symbols("u v", real=True)
    a, b = target_coefficients("velocity")
    return sp.expand(normal_expectation((a * (mean + std * u) + b * v) ** 2, u, v))


@cache
def marginal_power() -> Expr:
    """K(r) = E (E[eps - x_0 | (1 - r) x_0 + r eps])^2 for x_0 ~ N(mean, std^2), as a function of `r`: regression on a Gaussian."""
    u, v = sp.symbols("u v", real=True)
    point, target = (1 - r) * std * u + r * v, v - std * u  # about their means
    covariance, variance = (normal_expectation(sp.expand(e), u, v) for e in (point * target, point**2))
    return mean**2 + sp.factor(covariance**2 / variance)


def euler_lagrange(kind: str) -> Expr:
    """Euler-Lagrange expression of int L dt in rho(t), zero on extremals (section 6.3.4).

    ``kind``: ``"conditional"``, L = rho'^2; ``"marginal"``, L = K(rho) rho'^2; ``"frozen"``, L = kappa(t) rho'^2, as if K were a function of time.
    """
    from sympy.calculus.euler import euler_equations

    rho = Function("rho")(t)
    weight = {"conditional": sp.Integer(1), "marginal": Function("K", positive=True)(rho), "frozen": Function("kappa", positive=True)(t)}[
        kind
    ]
    (equation,) = euler_equations(weight * rho.diff(t) ** 2, rho, t)
    return sp.expand((equation.lhs - equation.rhs).doit())


def first_integral_gap() -> Expr:
    """d/dt [K(rho) rho'^2] + rho' times the marginal Euler-Lagrange expression: zero, so that K(rho) rho'^2 is constant on extremals."""
    rho = Function("rho")(t)
    speed = Function("K", positive=True)(rho) * rho.diff(t) ** 2
    return sp.simplify((speed.diff(t) + rho.diff(t) * euler_lagrange("marginal")).doit())


# --- Fokker-Planck (section 6.4) -----------------------------------------------------------------------------------------------------------


@cache
def reverse_family_gap(printed: bool = False) -> Expr:
    """dp/du less what the velocity alone gives, in u = T - t, for the drift -(v - gamma^2 / 2 grad log p) and noise gamma (Prop. 6.4.1).

    p and v are any density and field in the plane, gamma any function of time; zero makes every member carry the marginals of v. ``printed``: with
    the signs -div([v - gamma^2 / 2 s] p) + gamma^2 / 2 Laplacian p against -div(v p), where the second-order terms add up instead.
    """
    p, v, level = plane()
    corrected = v - level**2 / 2 * gradient(p) / p
    if printed:
        return sp.simplify(rate(p, corrected, level**2) - rate(p, v, sp.Integer(0)))
    return sp.simplify(rate(p, -corrected, level**2) - rate(p, -v, sp.Integer(0)))


@cache
def forward_family_gap() -> Expr:
    """The same for the forward SDE dx = [v + gamma^2 / 2 grad log p] dt + gamma dw: zero."""
    p, v, level = plane()
    return sp.simplify(rate(p, v + level**2 / 2 * gradient(p) / p, level**2) - rate(p, v, sp.Integer(0)))


@cache
def family_drift(level: Expr) -> Expr:
    """v - level^2 / 2 s in terms of x and the score s, v = f x - g^2 / 2 s with symbols f and g: at level = g the drift of Eq. 4.1.6."""
    f, g, s = sp.symbols("f g s", real=True)
    return sp.collect(sp.expand(f * x - g**2 / 2 * s - level**2 / 2 * s), s)


@cache
def shifted_mean() -> Expr:
    """Mean of the samples after the horizon T for data N(0, 1), vp with beta = 1 and the wrong score -x + delta (section 6.4): the mean ODE solved."""
    u, horizon = sp.symbols("u T", positive=True)
    delta = Symbol("delta", real=True)
    m = Function("m")
    score = -x + delta
    drift = -(-x / 2 - score / 2 - gamma**2 / 2 * score)  # in u = T - t; f = -1/2, g = 1, and the velocity made from the same score
    equation = sp.Eq(m(u).diff(u), sp.expand(drift).subs(x, m(u)))  # linear: the mean obeys the drift at the mean
    return sp.simplify(sp.dsolve(equation, m(u), ics={m(0): 0}).rhs.subs(u, horizon))


@cache
def girsanov_optimum() -> tuple[Expr, list[Expr]]:
    """Integrand (g^2 + gamma^2)^2 / (4 gamma^2) of twice the Girsanov bound per squared score error, and its stationary gamma > 0 (section 6.4)."""
    g = Symbol("g", positive=True)
    f_x, s, delta = sp.symbols("f_x s delta", real=True)

    def drift(score: Expr) -> Expr:
        return f_x - g**2 / 2 * score - gamma**2 / 2 * score

    bound = sp.factor((drift(s + delta) - drift(s)) ** 2 / gamma**2 / delta**2)
    return bound, sp.solve(sp.numer(sp.together(bound.diff(gamma))), gamma)


@cache
def variance_step() -> Expr:
    """Variance after one Euler-Maruyama step of size h < 0 of the family with the linear fields v = slope x, s = -x / V_t, from variance V."""
    V, V_t = sp.symbols("V V_t", positive=True)
    slope = Symbol("slope", real=True)
    u, v = sp.symbols("u v", real=True)
    start = sp.sqrt(V) * u
    moved = start + h * (slope * start - gamma**2 / 2 * (-start / V_t)) + gamma * sp.sqrt(-h) * v
    return sp.simplify(normal_expectation(sp.expand(moved**2), u, v))
