"""Claims: a statement of the book, checked where it is taught, by a check that is shown to be able to fail.

    with claim("thm-2-1-1") as c:
        c.close(elbo + kl, log_likelihood, rtol=1e-12)
        c.rejects(lambda c: c.close(elbo, log_likelihood, rtol=1e-12))

Each check raises :class:`ClaimError` when its statement is wrong. ``rejects`` runs the same check on a plausible mistake and raises when that passes. A block without a
check, or without a control, fails. Inside a notebook the block leaves one line under its cell; the book's Ledger page is made from those lines.
"""

import ast
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch

from mathcore.ledger import ledger

MIME = "application/vnd.mathcore.claim+json"


class ClaimError(AssertionError):
    """A check found its statement wrong, or a control found its check unable to fail."""


def _array(value: Any, name: str) -> np.ndarray:
    """Return ``value`` as float64. Not-a-number is bad input and no verdict: a control must not be "rejected" by it."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    out = np.asarray(value if not hasattr(value, "evalf") else float(value), dtype=np.float64)
    if out.size == 0:
        raise ValueError(f"{name} is empty")
    if not np.isfinite(out).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return out


class Checks:
    """The checks that a claim block offers; each returns nothing, records what it measured, and raises :class:`ClaimError` on failure."""

    def __init__(self) -> None:
        self.records: list[dict[str, str]] = []

    def _verdict(self, ok: bool, kind: str, text: str, detail: str = "") -> None:
        what = _what(kind)
        self.records.append({"kind": kind, "what": what, "text": text})
        if not ok:
            raise ClaimError(f"{kind}: {what + ': ' if what else ''}{text}{detail}")

    def zero(self, expr: Any) -> None:
        """Check that a sympy expression, or each entry of a sympy matrix, is identically zero.

        The expression is tried at random points first, so that a wrong one fails at once; then it has to simplify to 0 symbolically.

        Raises:
            ClaimError: it is not zero, or sympy cannot show that it is.
        """
        import sympy as sp

        entries = list(expr) if isinstance(expr, sp.MatrixBase) else [expr]
        for entry in map(sp.sympify, entries):
            value = _at_random_point(entry)
            if value is not None and abs(value) > 1e-20:
                self._verdict(False, "zero", f"it is {sp.N(value, 3)} at a random point", f": {sp.sstr(entry)[:200]}")
            if entry != 0 and sp.simplify(entry) != 0 and entry.equals(0) is not True:
                self._verdict(False, "zero", "sympy does not reduce it to 0", f": {sp.sstr(entry)[:200]}")
        self._verdict(True, "zero", "exactly" if len(entries) == 1 else f"exactly, all {len(entries)} entries")

    def close(self, got: Any, want: Any, rtol: float = 1e-10, atol: float = 0.0) -> None:
        """Check ``|got - want| <= atol + rtol * |want|`` entrywise. Shapes must agree, except that ``want`` may be one number.

        Raises:
            ClaimError: some entry is further away.
            ValueError: shapes differ, or a value is not finite.
        """
        g, w = _array(got, "got"), _array(want, "want")
        if w.ndim and g.shape != w.shape:
            raise ValueError(f"close compares equal shapes; got {g.shape} and {w.shape}")
        error, allowed = np.abs(g - w), atol + rtol * np.abs(w)
        ok = bool((error <= allowed).all())
        if atol == 0.0 and (w != 0).all():
            self._verdict(ok, "close", f"relative error {float((error / np.abs(w)).max()):.1e}, allowed {rtol:.1e}")
        else:
            self._verdict(ok, "close", f"error {float(error.max()):.1e}, allowed {float(allowed.max()):.1e}")

    def at_most(self, got: Any, bound: Any, slack: float = 0.0) -> None:
        """Check the inequality ``got <= bound + slack`` entrywise; ``bound`` may be one number.

        Raises:
            ClaimError: some entry exceeds its bound.
            ValueError: shapes differ, or a value is not finite.
        """
        g, b = _array(got, "got"), _array(bound, "bound")
        if b.ndim and g.shape != b.shape:
            raise ValueError(f"at_most compares equal shapes; got {g.shape} and {b.shape}")
        self._verdict(bool((g <= b + slack).all()), "at most", _margin(g, b, np.asarray(g - b), slack))

    def at_least(self, got: Any, bound: Any, slack: float = 0.0) -> None:
        """Check the inequality ``got >= bound - slack`` entrywise; see :meth:`at_most`."""
        g, b = _array(got, "got"), _array(bound, "bound")
        if b.ndim and g.shape != b.shape:
            raise ValueError(f"at_least compares equal shapes; got {g.shape} and {b.shape}")
        self._verdict(bool((g >= b - slack).all()), "at least", _margin(g, b, np.asarray(b - g), slack))

    def order(self, step_sizes: Any, errors: Any, expected: float, tol: float = 0.15) -> None:
        """Check that errors fall as ``step_size ** expected``: the least-squares slope on log-log axes lies within ``tol``.

        Raises:
            ClaimError: another slope.
            ValueError: fewer than four points, or a non-positive value.
        """
        h, e = _array(step_sizes, "step_sizes"), _array(errors, "errors")
        if h.shape != e.shape or h.ndim != 1 or h.size < 4:
            raise ValueError(f"order needs at least 4 step sizes and as many errors; got shapes {h.shape} and {e.shape}")
        if (h <= 0).any() or (e <= 0).any():
            raise ValueError("order needs positive step sizes and errors")
        slope = float(np.polyfit(np.log(h), np.log(e), 1)[0])
        self._verdict(abs(slope - expected) <= tol, "order", f"slope {slope:.2f}, expected {expected:g} ± {tol:g}")

    def z(self, samples: Any, want: Any, n_sigma: float = 5.0) -> None:
        """Check that the mean of ``samples`` ``(N, ...)`` over its first axis is ``want`` within ``n_sigma`` standard errors.

        Raises:
            ClaimError: some component is further away.
            ValueError: fewer than 30 samples, no spread, shapes differ, or a value is not finite.
        """
        s, w = _array(samples, "samples"), _array(want, "want")
        if s.ndim == 0 or s.shape[0] < 30:
            raise ValueError(f"z needs at least 30 samples along the first axis; got shape {s.shape}")
        if w.ndim and w.shape != s.shape[1:]:
            raise ValueError(f"z compares a mean of shape {s.shape[1:]} with a value of shape {w.shape}")
        std_error = s.std(axis=0, ddof=1) / np.sqrt(s.shape[0])
        if (std_error == 0).any():
            raise ValueError("z needs samples that vary")
        score = float(np.abs((s.mean(axis=0) - w) / std_error).max())
        self._verdict(score < n_sigma, "z", f"{score:.1f} standard errors, allowed {n_sigma:g} ({s.shape[0]:,} samples)")


class Claim(Checks):
    """One claim block; made by :func:`claim`."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        super().__init__()
        self.ids = ids
        self.controls: list[dict[str, str]] = []

    def rejects(self, check: Callable[[Checks], Any]) -> None:
        """Negative control: run ``check`` on a wrong statement and require that it fails.

        Only a verdict counts: bad input (NaN, shapes that do not match) raises its own error and is no rejection.

        Raises:
            ClaimError: the wrong statement passed, or ``check`` checked nothing.
        """
        trial = Checks()
        try:
            check(trial)
        except ClaimError:
            self.controls.append(trial.records[-1])
            return
        if not trial.records:
            raise ClaimError(f"{', '.join(self.ids)}: the control checked nothing")
        raise ClaimError(f"{', '.join(self.ids)}: the control was not rejected ({trial.records[-1]['kind']}: {trial.records[-1]['text']})")

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if not self.records:
            raise ClaimError(f"{', '.join(self.ids)}: the block checks nothing")
        if not self.controls:
            raise ClaimError(f"{', '.join(self.ids)}: the block has no negative control; add c.rejects(...) with a plausible mistake")
        self._show()

    def _show(self) -> None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None:
            return
        from html import escape

        from IPython.display import publish_display_data

        rows = [ledger().row(id) for id in self.ids]
        names = ", ".join(row.number for row in rows)
        text = f"✓ {names} | {describe(self.records)} | rejected control: {describe(self.controls)}"

        def code(what: str) -> str:
            return f"<code>{escape(what)}</code>"

        html = (
            f'<div class="claim"><span class="claim-name">✓ {escape(names)}</span> {describe(self.records, code)}'
            f'<span class="claim-control">Rejected: {describe(self.controls, code)}</span></div>'
        )
        record = {"ids": list(self.ids), "checks": self.records, "controls": self.controls}
        publish_display_data({"text/plain": text, "text/html": html, MIME: record})


def _margin(got: np.ndarray, bound: np.ndarray, excess: np.ndarray, slack: float) -> str:
    """Say how two sides of an inequality compare: both numbers, or for arrays the pair that comes closest to failing, or fails worst."""
    closest = np.unravel_index(int(np.argmax(excess)), excess.shape)
    left, right = np.broadcast_arrays(got, bound)
    pair = f"{left[closest]:.3g} against {right[closest]:.3g}" + (f", slack {slack:.1e}" if slack else "")
    return pair if left.size == 1 else f"closest {pair}"


SIGNS = {"zero": " = 0", "close": " = ", "at most": " ≤ ", "at least": " ≥ ", "z": " = ", "order": ""}


def _what(kind: str) -> str:
    """Return the statement as the caller wrote it, ``kl = weighted``, read off the source of the nearest call from outside; "" where there is none."""
    from executing import Source

    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("mathcore", "jaxtyping", "beartype"):
        frame = frame.f_back  # our own frames, and those of a run-time type checker around them
    node = Source.executing(frame).node if frame is not None else None
    if not isinstance(node, ast.Call):
        return ""
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    args = [*node.args, *(named[name] for name in ("got", "want", "bound", "samples", "expr", "errors") if name in named)]
    texts = [" ".join(ast.unparse(arg).split()) for arg in args]
    if kind == "order":
        texts = texts[1:2] or texts
    elif kind == "zero":
        texts = [*texts[:1], ""]
    elif kind == "z":
        texts = [f"mean of {text}" for text in texts[:1]] + texts[1:]
    return SIGNS[kind].join(text if len(text) <= 48 else text[:47] + "…" for text in texts[:2])


def describe(records: list[dict[str, str]], mark: Callable[[str], str] = str) -> str:
    """Return what was measured in one line; ``mark`` sets the code in it apart. What repeats is counted."""
    counts = Counter(f"{mark(r['what']) + ' ' if r['what'] else ''}({r['text']})" for r in records)
    return "; ".join(text if n == 1 else f"{n} × {text}" for text, n in counts.items())


def claim(*ids: str) -> Claim:
    """Open a claim block for one or more statements of the ledger.

    Args:
        ids: ids of rows in ``claims.toml``, such as ``"thm-2-1-1"``. Several only where one check really covers them all.

    Raises:
        KeyError: unknown id; the message lists near matches.
        ValueError: no id at all, or one id twice.
    """
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"claim needs one or more different ids, got {ids}")
    for id in ids:
        ledger().row(id)
    return Claim(ids)


def _at_random_point(expr: Any) -> Any:
    """Evaluate ``expr`` with 40 digits at one point that respects the assumptions of its symbols; None where that is not a finite number."""
    import random

    import sympy as sp

    rng = random.Random(0)
    values = {}
    for symbol in sorted(expr.free_symbols, key=str):
        number = sp.Rational(rng.randint(1, 999), 1000)
        if symbol.is_integer:
            number = sp.Integer(rng.randint(2, 9))
        values[symbol] = -number if symbol.is_negative else number
    value = expr.subs(values).evalf(40)
    return value if value.is_number and value.is_finite else None
