"""What the exponential integrators in lambda share: phi-functions, the noise and the data form of the exact solution, Adams weights.

The PF-ODE in half-log-SNR has two exact solutions over a step of length h = lambda_t - lambda_s (Prop. 9.4.1 and section 9.5.2):

    noise form   x_t = alpha_t / alpha_s x_s - alpha_t int e^{-lambda} eps d lambda
    data form    x_t = sigma_t / sigma_s x_s + sigma_t int e^{lambda} clean d lambda

They are one formula with z = h, c = sigma_t or z = -h, c = alpha_t: a prediction frozen at s contributes -c (e^z - 1), its k-th derivative
-c z h^k phi_{k+1}(z).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mathcore.solvers.builder import Combination, Node, Output

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(32)
"""Gauss-Legendre rule on [-1, 1]: exact to rounding for the integrands here, steps of several units of lambda included."""


def phi(m: int, z: float) -> float:
    """phi_m(z) = (e^z - sum_{j<m} z^j / j!) / z^m, by its series below |z| = 1, where the quotient cancels."""
    if abs(z) < 1.0:
        term, total = 1 / math.factorial(m), 0.0
        for n in range(1, 22):
            total, term = total + term, term * z / (m + n)
        return total
    value = math.exp(z)
    for j in range(m):
        value = (value - 1 / math.factorial(j)) / z
    return value


@dataclass(frozen=True)
class Form:
    """``noise`` (sign +1) or ``clean`` (sign -1): which prediction the integrator is made for."""

    kind: str

    @property
    def sign(self) -> float:
        """The sign of z = sign h."""
        return 1.0 if self.kind == "noise" else -1.0

    def of(self, m: Output) -> Combination:
        """The prediction of this form."""
        return m.of(self.kind)

    def c(self, t: Node) -> float:
        """Weight of the integral: sigma_t or alpha_t."""
        return t.sigma if self.kind == "noise" else t.alpha

    def z(self, s: Node, t: Node) -> float:
        """The signed step."""
        return self.sign * (t.lam - s.lam)

    def frozen(self, x: Combination, m: Combination, s: Node, t: Node) -> Combination:
        """The step with the prediction frozen at s, which is DDIM in either form; the data form may end at sigma_t = 0."""
        if self.kind == "clean":
            return x * (t.sigma / s.sigma) - self.c(t) * math.expm1(self.z(s, t)) * m
        return t.alpha * (x / s.alpha) - self.c(t) * math.expm1(self.z(s, t)) * m

    def adams(self, nodes: Sequence[Node], t: Node) -> list[float]:
        """Weights of the predictions at ``nodes`` (newest first) for their polynomial in lambda, integrated exactly up to t."""
        s = nodes[0]
        h = t.lam - s.lam
        lam = s.lam + h * (POINTS + 1) / 2
        density = -self.sign * self.c(t) * np.exp(self.sign * (t.lam - lam)) * WEIGHTS * h / 2
        return lagrange_integrals([n.lam for n in nodes], lam, density)


def lagrange_integrals(nodes: Sequence[float], points: np.ndarray, density: np.ndarray) -> list[float]:
    """Integrals of the Lagrange polynomials on ``nodes`` against a density given at quadrature points."""
    return [float((density * basis).sum()) for basis in lagrange_basis(nodes, points)]


def lagrange_basis(nodes: Sequence[float], points: np.ndarray) -> list[np.ndarray]:
    """The Lagrange polynomials on ``nodes``, at ``points``."""
    out = []
    for j, node in enumerate(nodes):
        basis = np.ones_like(points)
        for i, other in enumerate(nodes):
            if i != j:
                basis = basis * (points - other) / (node - other)
        out.append(basis)
    return out
