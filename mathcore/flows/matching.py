"""Flow matching: regression of a velocity on conditional velocities (sections 5.2.2 and 5.3), source at t = 0 and target at t = 1."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars, Time
from mathcore._validate import floating, like_input, nonnegative, one_of, per_sample
from mathcore.interpolation import Interpolation, check_pair, interpolate, on_path

Batch = Float[Tensor, "n *shape"]
Points = Float[Tensor, "n d"]
Model = Callable[[Tensor, Any], Tensor]
Weight = Callable[[Tensor], Any]
FORMS = ("two_sided", "one_sided")


# --- conditional velocities ---------------------------------------------------------------------------------------------------------------


def conditional_velocity(x_t: Batch, x0: Batch | None, x1: Batch, t: Time, path: Interpolation, form: str = "two_sided") -> Batch:
    """Return the velocity at ``x_t`` given the ends, or the target end alone (section 5.3.2): ``(N, *shape)``.

    | form | condition | value |
    | two_sided | x_0 and x_1 | a' x_0 + b' x_1, the same at every x_t |
    | one_sided | x_1; the source is N(0, I) | b' x_1 + (a' / a) (x_t - b x_1), needs a_t > 0 |

    On the path, x_t = a x_0 + b x_1, the two are one number; the second loses digits as a_t goes to zero, about 1e-16 / a_t in float64.

    Args:
        x_t, x1: ``(N, *shape)``. x0: likewise, or None for ``"one_sided"``, which does not look at it. t: a number, 0-d, or one time per row.

    Raises:
        TypeError: not floating tensors of one dtype. ValueError: unknown form, different shapes, NaN, ``x0`` missing, ``t`` outside [0, 1] or where a
            derivative is infinite, or a_t = 0 for ``"one_sided"``.
    """
    one_of(form, FORMS, "form")
    _same(x_t, x1, "x1")
    if form == "two_sided":
        if x0 is None:
            raise ValueError("x0 must be given for the two_sided form; one_sided does without")
        _same(x_t, x0, "x0")
        return interpolate(x0, x1, t, path)[1]
    time = path.as_time(t)
    a, b, da, db = (per_sample(c(time), x_t) for c in (path.a, path.b, path.da, path.db))
    if bool((a == 0).any()):
        raise ValueError("the one_sided velocity divides by a_t, which is 0 at some t; use two_sided there")
    return db * x1 + da / a * (x_t - b * x1)


def affine_conditional_flow(mu: Callable[[Tensor], Tensor], A: Callable[[Tensor], Tensor], x0: Points, t: Time) -> tuple[Points, Points]:
    """Return Psi_t(x_0) = mu_t + A_t x_0 and its time derivative with x_0 held fixed (flow-first, section 5.3.3): two of ``(N, D)``.

    The second is the conditional velocity at the first; the derivative is by forward-mode automatic differentiation.

    Args:
        mu: offset, a function of t, to ``(D,)`` or ``(N, D)``. A: linear part, a function of t: 0-d or ``(N,)``, a multiple of the identity; ``(D, D)``; or
            ``(N, D, D)``. x0: ``(N, D)``. t: a number, 0-d, or ``(N,)``; the functions receive it as a tensor, 0-d or ``(N,)``, in the dtype of ``x0``.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN.
    """
    time = _time(floating(x0, "x0", ndim=2), t)

    def flow(u: Tensor) -> Tensor:
        return _offset(mu(u), x0) + _times(A(u), x0)

    x_t, rate = torch.func.jvp(flow, (time,), (torch.ones_like(time),))[:2]
    return x_t, rate


def affine_conditional_velocity(mu: Callable[[Tensor], Tensor], A: Callable[[Tensor], Tensor], x: Points, t: Time) -> Points:
    """Return mu' + A' A^{-1} (x - mu), the velocity at ``x`` of :func:`affine_conditional_flow` (section 5.3.3): ``(N, D)``.

    Args:
        mu, A, t: as there. x: ``(N, D)``.

    Raises:
        TypeError: not floating tensors. ValueError: as there; A_t singular, so that no start leads to ``x``.
    """
    time = _time(floating(x, "x", ndim=2), t)
    matrix, offset = _matrix(A(time), x), x - _offset(mu(time), x)
    if matrix.ndim < 2:
        singular = bool((matrix == 0).any())
    else:
        singular = bool((torch.linalg.lu_factor_ex(matrix.detach()).info > 0).any())
    if singular:
        raise ValueError("A is singular at some t: its flow has no unique start there")
    if matrix.ndim < 2:
        start = offset / (matrix[:, None] if matrix.ndim else matrix)
    else:
        start = torch.linalg.solve(matrix, offset[..., None])[..., 0]
    return affine_conditional_flow(mu, A, start, time)[1]


# --- losses -------------------------------------------------------------------------------------------------------------------------------


def cfm_loss(
    model: Model,
    x0: Batch,
    x1: Batch,
    t: Time | None,
    path: Interpolation,
    sigma: float | int = 0.0,
    form: str = "two_sided",
    weight: Weight | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Estimate E w |model(x_t, t) - v_t(x_t | z)|^2 with one time and one point of the path per pair (Eq. 5.2.9): 0-d.

    Its minimiser is the marginal velocity, and its minimum the variance of the target, not zero (Theorem 5.2.1). Squared norms are summed over ``shape``.

    Args:
        model: ``model(x_t, t)``, ``t`` ``(N,)``. x0, x1: pairs, ``(N, *shape)``; their order is the coupling.
        t: times; None draws one for each pair, uniform on [0, 1).
        sigma: x_t = a x_0 + b x_1 + sigma eta with a standard normal eta. With sigma > 0 the law at t = 0 is the source blurred by it, not the source.
        form: of :func:`conditional_velocity`. weight: w, a function of float64 times ``(N,) -> (N,)``; by default 1.

    Raises:
        TypeError: not floating tensors of one dtype, ``path`` no ``Interpolation``. ValueError: unknown form, different shapes, NaN, sigma negative, a time
            outside [0, 1] or with an infinite target, a weight that is negative or not finite, a model that changes the shape.
    """
    _alike(x0, x1)
    time = _drawn(x0, generator) if t is None else _label(x0, t)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device) if sigma else None
    errors = _errors(model, x0, x1, time, path, sigma, noise, form)
    if weight is None:
        loss = errors.square().sum() / len(x0)
    else:
        loss = (nonnegative(weight(time.double()), time).to(time.dtype) * _row_squares(errors)).mean()
    _looked_at(loss, x0, x1, time, path)
    return loss


def cfm_terms(
    model: Model,
    x0: Batch,
    x1: Batch,
    t: Time,
    path: Interpolation,
    sigma: float | int = 0.0,
    noise: Batch | None = None,
    form: str = "two_sided",
    weight: Weight | None = None,
) -> Scalars:
    """Return the summands of :func:`cfm_loss` for given times and, with sigma > 0, given noise: ``(N,)``, no randomness.

    Raises:
        TypeError, ValueError: as there; ValueError also for sigma without ``noise``.
    """
    _alike(x0, x1)
    label = _label(x0, t)
    terms = _row_squares(_errors(model, x0, x1, label, path, sigma, noise, form))
    _looked_at(terms.sum(), x0, x1, label, path)
    return terms if weight is None else nonnegative(weight(label.double()), label).to(label.dtype) * terms


def _errors(
    model: Model,
    x0: Tensor,
    x1: Tensor,
    label: Tensor,
    path: Interpolation,
    sigma: float | int,
    noise: Tensor | None,
    form: str,
) -> Tensor:
    """model(x_t, t) - v_t(x_t | z) for a pair of one shape and dtype and times that have been checked."""
    one_of(form, FORMS, "form")
    if not isinstance(path, Interpolation):
        raise TypeError(f"path must be an Interpolation, got {type(path).__name__}")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma must be a non-negative finite number, got {sigma}")
    x_t, target = on_path(x0, x1, label.double(), path)
    if sigma:
        if noise is None:
            raise ValueError("noise must be given with sigma > 0")
        _same(x0, noise, "noise")
        x_t = x_t + sigma * noise
    if form == "one_sided":
        target = conditional_velocity(x_t, None, x1, label, path, form)
    return like_input(model(x_t, label), x_t, "model") - target


def _looked_at(total: Tensor, x0: Tensor, x1: Tensor, label: Tensor, path: Interpolation) -> None:
    """One look at the result, and only if it is bad at what it was made of; a model's own NaN passes, for the training loop to report."""
    if not math.isfinite(float(total.detach())):
        check_pair(x0, x1)
        path.coefficients(label.double())


def general_path_loss(
    model: Model,
    path_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
    x0: Batch,
    x1: Batch,
    t: Time | None = None,
    weight: Weight | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Estimate E w |model(x_t, t) - dx_t/dt|^2 for any differentiable path x_t between the ends (section 5.3.3; Algorithm 2): 0-d.

    Args:
        path_fn: ``(x0, x1, t) -> x_t``, each ``(N, *shape)`` and ``t`` broadcasting over it, ``(N, 1, ..)``; its derivative in t is by forward-mode automatic
            differentiation. Other arguments and errors as :func:`cfm_loss`.

    Raises:
        TypeError: ``path_fn`` returns no floating tensor. ValueError: it changes the shape; and as :func:`cfm_loss`.
    """
    check_pair(x0, x1)
    label = _label(x0, _drawn(x0, generator) if t is None else t)
    time = label.reshape(-1, *[1] * (x0.ndim - 1))
    x_t, target = torch.func.jvp(lambda u: like_input(path_fn(x0, x1, u), x0, "path_fn"), (time,), (torch.ones_like(time),))[:2]
    terms = _row_squares(like_input(model(x_t, label), x_t, "model") - target)
    return (terms if weight is None else nonnegative(weight(label.double()), label).to(label.dtype) * terms).mean()


# --- helpers ------------------------------------------------------------------------------------------------------------------------------


def _alike(x0: Tensor, x1: Tensor) -> None:
    """What ``check_pair`` asks, apart from the values: NaN shows in the loss."""
    if not (
        isinstance(x0, Tensor)
        and isinstance(x1, Tensor)
        and x0.is_floating_point()
        and x0.dtype == x1.dtype
        and x0.shape == x1.shape
        and x0.ndim
    ):
        check_pair(x0, x1)


def _same(x: Tensor, other: Tensor, name: str) -> None:
    """``check_pair`` with the names of the caller."""
    floating(x, "x_t"), floating(other, name)
    if x.ndim == 0 or x.shape != other.shape:
        raise ValueError(f"{name} must have shape (N, *shape) like its partner, {tuple(x.shape)}; got {tuple(other.shape)}")
    if x.dtype != other.dtype:
        raise TypeError(f"{name} must be {x.dtype} like its partner, got {other.dtype}")


def _drawn(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """One uniform time per row, in the dtype of the data: never 1, where some derivatives are infinite, not even by rounding."""
    return torch.rand(x.shape[:1], generator=generator, dtype=x.dtype, device=x.device)


def _label(x: Tensor, t: Time) -> Tensor:
    """The times that the model is told, ``(N,)`` in the dtype of the data; the path is evaluated at these."""
    label = per_sample(t, x.reshape(len(x), -1)[:, 0]).expand(len(x)).clone()  # forward mode refuses expanded memory
    if bool(((label < 0) | (label > 1)).any()):
        raise ValueError(f"t must lie in [0, 1], got values between {float(label.min())} and {float(label.max())}")
    return label


def _time(x: Tensor, t: Time) -> Tensor:
    out = per_sample(t, x)
    return out if out.ndim == 0 else out[:, 0].clone()  # forward mode refuses expanded memory


def _offset(value: Any, x: Tensor) -> Tensor:
    """``value`` if it is ``(D,)`` or ``(N, D)`` for ``x`` ``(N, D)``."""
    return _shaped(value, "mu", {x.shape[1:], x.shape})


def _matrix(value: Any, x: Tensor) -> Tensor:
    """``value`` if it is 0-d, ``(N,)``, ``(D, D)`` or ``(N, D, D)`` for ``x`` ``(N, D)``."""
    n, d = x.shape
    return _shaped(value, "A", {(), (n,), (d, d), (n, d, d)})


def _shaped(value: Any, name: str, allowed: set[Any]) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(
            f"{name} must return a floating-point tensor, got {value.dtype if isinstance(value, Tensor) else type(value).__name__}"
        )
    if tuple(value.shape) not in {tuple(shape) for shape in allowed}:
        raise ValueError(f"{name} must return one of the shapes {sorted(map(tuple, allowed))}, got {tuple(value.shape)}")
    return value


def _times(value: Any, x: Tensor) -> Tensor:
    matrix = _matrix(value, x)
    if matrix.ndim < 2:
        return (matrix[:, None] if matrix.ndim else matrix) * x
    return (matrix @ x[..., None])[..., 0]


def _row_squares(errors: Tensor) -> Tensor:
    return errors.square().reshape(len(errors), -1).sum(1)
