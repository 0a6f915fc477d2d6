"""Normalizing flows: invertible maps from noise to data, and the log-likelihoods they give (section 5.1.1)."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._types import Points, Scalars
from mathcore._validate import count, floating, like_input, one_of
from mathcore.dynamics.fields import draw_probes, jacobian

Field = Callable[[Tensor], Tensor]
MAX_ITERATIONS = 10_000


class PlanarFlow(nn.Module):
    """The map x = z + u' tanh(w.z + b) of section 5.1.1, made invertible: u' = u + (m(w.u) - w.u) w / |w|^2 with m(s) = log(1 + e^s) - 1.

    It is one to one if and only if w.u' >= -1, which the monograph's layer does not ask; m(s) > -1 sees to it (Rezende & Mohamed 2015, appendix A).

    Args:
        dim: D. generator: of the initial values, normal with standard deviation 1 / sqrt(D). Parameters are ``u`` ``(D,)``, ``w`` ``(D,)`` and ``b`` 0-d, float32;
        ``.double()`` makes them float64.

    Raises:
        ValueError: ``dim`` not a positive integer. All methods: points that are not ``(N, D)``, NaN, w = 0. TypeError: points of another dtype.
    """

    def __init__(self, dim: int, generator: torch.Generator | None = None):
        super().__init__()
        scale = count(dim, "dim") ** -0.5
        self.u = nn.Parameter(scale * torch.randn(dim, generator=generator))
        self.w = nn.Parameter(scale * torch.randn(dim, generator=generator))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, z: Points) -> Points:
        """Return x: ``(N, D)``."""
        _points(z, "z", self.w)
        direction, _ = self._constrained()
        return z + torch.tanh(z @ self.w + self.b)[:, None] * direction

    def inverse(self, x: Points) -> Points:
        """Return z, from the root s of s + w.u' tanh(s + b) = w.x, bracketed, by Newton's method kept inside by bisection: ``(N, D)``.

        The first derivative in point and parameters is exact (implicit function theorem); higher ones are not provided.

        Raises:
            RuntimeError: the search did not end, which the bracket excludes for finite input.
        """
        _points(x, "x", self.w)
        direction, slope = self._constrained()
        target = x @ self.w
        with torch.no_grad():
            root = _planar_root(target, slope, self.b)
            rate = 1 + slope * (1 - torch.tanh(root + self.b).square())
        # zero in value up to rounding: one Newton step that carries the derivative
        s = root - (root + slope * torch.tanh(root + self.b) - target) / rate
        return x - torch.tanh(s + self.b)[:, None] * direction

    def log_abs_det(self, z: Points) -> Scalars:
        """Return log |det df/dz| = log(1 + w.u' tanh'(w.z + b)), by the matrix determinant lemma: ``(N,)``."""
        _points(z, "z", self.w)
        slope = self._constrained()[1]
        return torch.log1p(slope * (1 - torch.tanh(z @ self.w + self.b).square()))

    def _constrained(self) -> tuple[Tensor, Tensor]:
        """Return u' and w.u'."""
        square, product = self.w.square().sum(), self.w @ self.u
        if not bool(square > 0):
            raise ValueError("w must not be zero: the layer then has no direction")
        slope = nn.functional.softplus(product) - 1
        return self.u + (slope - product) / square * self.w, slope


def _planar_root(target: Tensor, slope: Tensor, b: Tensor) -> Tensor:
    low, high = target - slope.abs(), target + slope.abs()  # tanh is between -1 and 1
    s, last = target.clone(), high - low
    eps = torch.finfo(s.dtype).eps
    for _ in range(400):
        hyperbolic = torch.tanh(s + b)
        value = s + slope * hyperbolic - target
        low, high = torch.where(value < 0, s, low), torch.where(value < 0, high, s)
        newton = s - value / (1 + slope * (1 - hyperbolic.square()))
        # Newton only while it stays inside the bracket and halves its step; bisection otherwise
        good = (newton > low) & (newton < high) & ((newton - s).abs() < 0.5 * last)
        following = torch.where(good, newton, 0.5 * (low + high))
        last, s = (following - s).abs(), following
        if bool((last <= 2 * eps * (s.abs() + 1)).all()):
            return s
    raise RuntimeError("the inverse of the planar flow did not converge")


class ResidualFlow(nn.Module):
    """The map x = z + v(z) with Lip(v) <= kappa < 1 (Eq. 5.1.5), inverted by Banach's iteration z <- x - v(z).

    Args:
        net: v, a module or a function ``(N, D) -> (N, D)``, row by row. lipschitz: kappa, in (0, 1), a bound on its Lipschitz constant in the Euclidean norm; it
        is believed (``ContractiveMLP`` keeps one), and :meth:`inverse` reports where the iteration shows that it does not hold.

    Raises:
        TypeError: ``net`` is no function. ValueError: ``lipschitz`` outside (0, 1). All methods: points that are not ``(N, D)``, NaN, a net that changes the shape.
    """

    def __init__(self, net: Field, lipschitz: float | int):
        super().__init__()
        if not callable(net):
            raise TypeError(f"net must be a module or a function, got {type(net).__name__}")
        if not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz must lie strictly between 0 and 1, or the map need not be invertible; got {lipschitz}")
        self.net, self.lipschitz = net, float(lipschitz)

    def forward(self, z: Points) -> Points:
        """Return x: ``(N, D)``."""
        return floating(z, "z", ndim=2) + self._net(z)

    def inverse(self, x: Points) -> Points:
        """Return z: ``(N, D)``. The first derivative in point and parameters is exact (implicit function theorem), at the price of a Jacobian.

        The iteration ends where kappa / (1 - kappa) times the last step, which bounds the error, is at the rounding of the points.

        Raises:
            RuntimeError: steps that shrink more slowly than kappa, beyond rounding: ``lipschitz`` is no bound on the constant of ``net``.
        """
        with torch.no_grad():
            root = self._fixed_point(floating(x, "x", ndim=2))
        if not torch.is_grad_enabled():
            return root
        # zero in value up to rounding: one Newton step that carries the derivative
        with torch.no_grad():
            slope = jacobian(self.forward, root)
        residual = root + self._net(root) - x
        return root - torch.linalg.solve(slope, residual[..., None])[..., 0]

    def _fixed_point(self, x: Tensor) -> Tensor:
        kappa, eps = self.lipschitz, torch.finfo(x.dtype).eps
        z, last = x, None
        for _ in range(MAX_ITERATIONS):
            following = x - self._net(z)
            step, z = (following - z).norm(dim=1), following
            rounding = 8 * eps * (1 + z.norm(dim=1) + x.norm(dim=1))
            if last is not None and bool((step > kappa * last + rounding).any()):
                ratio = float((step / last).max())
                raise RuntimeError(
                    f"lipschitz={kappa} is no bound on net: a step of the inverse grew by the factor {ratio:.3g} over the last"
                )
            if bool((kappa / (1 - kappa) * step <= rounding).all()):
                return z
            last = step
        raise RuntimeError(f"the inverse did not converge in {MAX_ITERATIONS} iterations: lipschitz={kappa} is too close to 1")

    def log_abs_det(self, z: Points) -> Scalars:
        """Return log |det(I + dv/dz)| from the whole Jacobian, D backward passes: ``(N,)``. For large D see :func:`log_det_series`."""
        return torch.linalg.slogdet(jacobian(self.forward, floating(z, "z", ndim=2))).logabsdet

    def _net(self, z: Tensor) -> Tensor:
        return like_input(self.net(z), z, "net")


class ContractiveMLP(nn.Module):
    """Layers of tanh whose Lipschitz constant is at most ``lipschitz``: each weight is divided by its largest singular value where that exceeds its share.

    Args:
        dim: D. hidden: width. depth: number of hidden layers. lipschitz: bound in the Euclidean norm. generator: of the initial values.

    Raises:
        ValueError: sizes that are no positive integers, ``lipschitz`` not positive.
    """

    def __init__(self, dim: int, hidden: int = 64, depth: int = 2, lipschitz: float | int = 0.9, generator: torch.Generator | None = None):
        super().__init__()
        widths = [count(dim, "dim"), *[count(hidden, "hidden")] * count(depth, "depth"), dim]
        if not 0 < lipschitz < float("inf"):
            raise ValueError(f"lipschitz must be a positive finite number, got {lipschitz}")
        self.share = float(lipschitz) ** (1 / (depth + 1))
        shapes = [(b, a) for a, b in pairwise(widths)]
        self.weights = nn.ParameterList(torch.randn(s, generator=generator) * s[1] ** -0.5 for s in shapes)
        self.biases = nn.ParameterList(torch.zeros(s[0]) for s in shapes)

    def forward(self, z: Points) -> Points:
        """Return v(z): ``(N, D)``."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            norm = torch.linalg.matrix_norm(weight, 2)
            scale = torch.where(norm > self.share, self.share / norm, 1.0)
            z = nn.functional.linear(torch.tanh(z) if i else z, scale * weight, bias)
        return z


class ComposeFlow(nn.Module):
    """The composition f = f_{L-1} o ... o f_0 of flows (Eq. 5.1.3); log-determinants add up (Eq. 5.1.4).

    Args:
        layers: f_0, f_1, ..., modules with ``forward``, ``inverse`` and ``log_abs_det``; the first is applied first to z.

    Raises:
        TypeError: a layer is no such module. ValueError: no layers. All methods: what the layers raise.
    """

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        if len(layers) == 0:
            raise ValueError("layers must contain at least one flow")
        for i, layer in enumerate(layers):
            if not isinstance(layer, nn.Module) or not all(callable(getattr(layer, name, None)) for name in ("inverse", "log_abs_det")):
                raise TypeError(f"layers[{i}] must be a module with inverse and log_abs_det, got {type(layer).__name__}")
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Points) -> Points:
        """Return x: ``(N, D)``."""
        for layer in self.layers:
            z = layer(z)
        return z

    def inverse(self, x: Points) -> Points:
        """Return z: ``(N, D)``."""
        for layer in reversed(self.layers):
            x = layer.inverse(x)  # type: ignore[operator]
        return x

    def log_abs_det(self, z: Points) -> Scalars:
        """Return log |det df/dz|, the sum over the layers, each at its own input: ``(N,)``."""
        total = torch.zeros_like(floating(z, "z", ndim=2)[:, 0])
        for layer in self.layers:
            total = total + layer.log_abs_det(z)  # type: ignore[operator]
            z = layer(z)
        return total


def flow_log_prob(flow: nn.Module, prior_log_prob: Callable[[Tensor], Tensor], x: Points) -> Scalars:
    """Return log p(x) = log p_prior(z) - log |det df/dz|, z = f^{-1}(x) (Eq. 5.1.1, Eq. 5.1.4): ``(N,)``.

    Args:
        flow: with ``inverse`` and ``log_abs_det``. prior_log_prob: ``(N, D) -> (N,)``. x: ``(N, D)``.

    Raises:
        TypeError: ``x`` is no floating tensor. ValueError: ``x`` not ``(N, D)``, NaN, ``prior_log_prob`` does not return ``(N,)``; and what the flow raises.
    """
    z = flow.inverse(floating(x, "x", ndim=2))  # type: ignore[operator]
    base = prior_log_prob(z)
    if base.shape != x.shape[:1]:
        raise ValueError(f"prior_log_prob must return one value per row, ({len(x)},); got {tuple(base.shape)}")
    return base - flow.log_abs_det(z)  # type: ignore[operator]


def log_det_series(
    fn: Field,
    z: Points,
    n_terms: int,
    method: str = "exact",
    n_probes: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    """Return the first terms of log det(I + J) = sum_k (-1)^{k+1} Tr(J^k) / k, J the Jacobian of ``fn`` (Eq. 5.1.6): ``(N,)``.

    With |J| <= kappa < 1 the terms left out sum to at most D kappa^{n+1} / ((n + 1) (1 - kappa)). For kappa >= 1 the series need not converge.

    Args:
        fn: v of x = z + v(z), row by row. z: ``(N, D)``. n_terms: n.
        method: ``"exact"``, powers of the whole Jacobian; ``"hutchinson"``, the mean of e.J^k e over ``n_probes`` random signs e, one backward pass a term and
            probe, unbiased for the truncated sum. n_probes, generator: of the second.

    Raises:
        TypeError: ``z``, or what ``fn`` returns, is no floating tensor. ValueError: unknown method, ``n_terms`` or ``n_probes`` not a positive integer, ``z`` not
            ``(N, D)``, NaN, ``fn`` changes the shape.
    """
    one_of(method, ("exact", "hutchinson"), "method")
    count(n_terms, "n_terms")
    floating(z, "z", ndim=2)
    total = torch.zeros_like(z[:, 0])
    if method == "exact":
        matrix = power = jacobian(fn, z)
        for k in range(1, n_terms + 1):
            total = total + (-1) ** (k + 1) / k * power.diagonal(dim1=1, dim2=2).sum(1)
            power = power @ matrix
        return total
    _, pull = torch.func.vjp(lambda y: like_input(fn(y), y, "fn"), z)[:2]
    probes = draw_probes(z, n_probes, "rademacher", generator)
    for probe in probes:
        row = probe
        for k in range(1, n_terms + 1):
            row = pull(row)[0]
            total = total + (-1) ** (k + 1) / k * (row * probe).sum(1) / len(probes)
    return total


def _points(x: Tensor, name: str, like: Tensor) -> None:
    if floating(x, name, ndim=2, dim=len(like)).dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype} like the parameters, got {x.dtype}")
