"""The judgement behind :mod:`mathcore.assess.symbolic`, run in its own limited process: equal or not, and if not, how they differ."""

import itertools
import json
import random
import sys
from collections.abc import Callable
from typing import Any

import sympy
from sympy import Expr, Symbol

from mathcore.assess import tree

DIGITS = 30
POINTS = 8
FACTOR = ": a constant factor is wrong"
AGREE = 1e-12
"""Two values of 30 digits agree if they differ by less than this part of the larger one: far above rounding, far below any other expression."""


def serve(memory: int) -> None:
    """Answer one JSON request per line of standard input until it ends, in at most ``memory`` bytes of address space."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.setrecursionlimit(20_000)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = judge(request)
        except (MemoryError, RecursionError):
            reply = _no("memory", "the expression is too large to be compared")
        except Exception as error:  # whatever sympy raises on a strange expression is the answer's fault, and ends nothing
            reply = _no("type", f"the answer could not be evaluated ({type(error).__name__}: {str(error)[:200]})")
        print(json.dumps(reply), flush=True)


def judge(request: dict) -> dict:
    """Return ``{"equal", "kind", "message"}`` for a request as :func:`symbolic.compare` makes it."""
    return _judge(request["got"], request["expected"], request, "the answer")


def _judge(got: list, expected: list, request: dict, name: str) -> dict:
    if got[0] == "Parts" and len(got) == 2 and expected[0] != "Parts":
        return _no("shape", f"{name} should be one expression, it is a tuple of one: remove the comma behind it")
    if (got[0] == "Parts") != (expected[0] == "Parts") or (got[0] == "Parts" and len(got) != len(expected)):
        return _no("shape", f"{name} should be {_size(expected)}, it is {_size(got)}")
    if got[0] == "Parts":
        for k, (left, right) in enumerate(zip(got[1:], expected[1:]), start=1):
            reply = _judge(left, right, request, f"part {k} of {name}")
            if not reply["equal"]:
                return _no("order", f"the parts of {name} are right, but in another order") if _permuted(got, expected, request) else reply
        return _yes()
    left, right = tree.decode(got), tree.decode(expected)
    for old, new in request["subs"]:
        left = _at(left, old, tree.decode(new))
    if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
        return _matrices(left, right, request, name)
    return _scalars(left, right, request, name)


def _at(expression: Any, name: str, value: Any) -> Any:
    """``expression`` with ``value`` for the symbol called ``name``; where that is 0/0 as it was written, its continuation or its limit."""
    if isinstance(expression, sympy.MatrixBase):
        return expression.applyfunc(lambda entry: _at(entry, name, value))
    same = [s for s in expression.free_symbols if s.name == name]
    if not same:
        return expression
    symbol = same[0]
    expression = expression.xreplace(dict.fromkeys(same, symbol))  # one name is one symbol, whatever was assumed of it
    undefined = [bad for bad in (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) if not expression.has(bad)]  # the end of a sum may be infinite
    for way in (lambda e: e.subs(symbol, value), lambda e: sympy.cancel(sympy.together(e)).subs(symbol, value)):
        found = way(expression)
        if not any(found.has(bad) for bad in undefined):
            return found
    return sympy.limit(expression, symbol, value)


def _permuted(got: list, expected: list, request: dict) -> bool:
    """Whether the parts of ``got`` are those of ``expected`` in another order; more than five are not tried."""
    n, quiet = len(expected) - 1, {**request, "explain": False}
    if n > 5:
        return False
    fits = [[_judge(left, right, quiet, "")["equal"] for right in expected[1:]] for left in got[1:]]
    return any(all(fits[i][j] for i, j in enumerate(places)) for places in itertools.permutations(range(n)))


def _matrices(left: Any, right: Any, request: dict, name: str) -> dict:
    if getattr(left, "shape", None) != getattr(right, "shape", None):
        return _no("shape", f"{name} should have shape {getattr(right, 'shape', ())}, it has {getattr(left, 'shape', ())}")
    for i, j in itertools.product(range(left.rows), range(left.cols)):
        reply = _scalars(left[i, j], right[i, j], request, f"entry ({i}, {j}) of {name}")
        if not reply["equal"]:
            return reply
    return _yes()


def _scalars(left: Any, right: Any, request: dict, name: str) -> dict:
    if not isinstance(left, Expr):
        return _no("type", f"{name} should be an expression, it is a {type(left).__name__}")
    left = left.xreplace({s: own for s in left.free_symbols for own in right.free_symbols if s.name == own.name})
    left, right = _without_functions(left, right)
    if left == right:
        return _yes()
    # numbers before algebra: sympy may need minutes to expand or simplify what takes milliseconds to evaluate
    symbols = sorted(left.free_symbols | right.free_symbols, key=lambda s: s.name)
    points = _points(symbols, request["where"], left, right)
    if not points:
        return _yes() if sympy.simplify(left - right) == 0 else _no("undefined", f"{name} has no finite value where the right one has")
    if all(_same(a, b) for _, a, b in points):
        return _yes()
    kind, text = _difference(left, right, points) if request.get("explain", True) else ("value", "differs")
    case = ", ".join(f"{old} = {tree.decode(new)}" for old, new in request["subs"])
    if case:  # where numbers stand for symbols, a wrong power of one of them looks like a factor
        text = text.removesuffix(FACTOR)
    return _no(kind, f"{name}{f', at {case},' if case else ''} {text}")


def _without_functions(*expressions: Any) -> list[Any]:
    """Replace each undefined function by one random smooth positive function, and carry out the derivatives."""
    applied = set().union(*(e.atoms(sympy.core.function.AppliedUndef) for e in expressions))
    draw = random.Random(7)
    concrete: dict[Any, Any] = {}
    for name, n in sorted({(f.func.__name__, len(f.args)) for f in applied}):
        slots = sympy.symbols(f"slot:{n}")
        body = sympy.Rational(draw.randint(3, 9), 4)
        for slot in slots:
            body = body + sympy.exp(-sympy.Rational(draw.randint(2, 9), 7) * slot) * sympy.Rational(draw.randint(2, 9), 5)
        concrete[sympy.Function(name)] = sympy.Lambda(slots, body)
    return [e.subs(concrete).doit() if concrete else e for e in expressions]


# --- points ------------------------------------------------------------------------------------------------------------------------------


def _points(symbols: list[Symbol], where: dict, *expressions: Any) -> list[tuple]:
    """Up to ``POINTS`` random points at which all expressions are finite: ``(point, value, value, ...)``."""
    draw = random.Random(20)
    found: list[tuple] = []
    for _ in range(4 * POINTS):
        point = {s: _value(s, where.get(s.name), draw) for s in symbols}
        values = [_number(e, point) for e in expressions]
        if all(value is not None for value in values):
            found.append((point, *values))
        if len(found) == POINTS:
            break
    return found if len(found) >= 3 else []


def _value(symbol: Symbol, span: list[float] | None, draw: random.Random) -> Any:
    if span is not None:
        low, high = span
        return sympy.Integer(draw.randint(int(low), int(high))) if symbol.is_integer else _rational(draw.uniform(low, high))
    if symbol.is_integer:
        return sympy.Integer(draw.randint(1, 9) * (-1 if symbol.is_negative else 1))
    size = _rational(draw.uniform(0.2, 2.5))
    return -size if symbol.is_negative or (not symbol.is_nonnegative and draw.random() < 0.5) else size


def _rational(x: float) -> Any:
    return sympy.Rational(round(x * 10**6), 10**6)


def _number(expression: Any, point: dict) -> Any:
    # ``subs`` would simplify the powers of long fractions that it makes; but ``evalf(subs=...)`` loses the free symbols of an integral
    bound = expression.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Derivative, sympy.Subs)
    value = expression.subs(point).evalf(DIGITS) if bound else expression.evalf(DIGITS, subs=point)
    parts = value.as_real_imag() if value.is_number and value.is_finite else ()
    return value if parts and all(part.is_Float or part.is_Integer for part in parts) else None


def _same(a: Any, b: Any) -> bool:
    scale = max(abs(a), abs(b))
    return bool(scale < 1e-20) or bool(abs(a - b) <= AGREE * scale)


# --- what differs ------------------------------------------------------------------------------------------------------------------------


def _difference(left: Any, right: Any, points: list[tuple]) -> tuple[str, str]:
    """Name the difference: one simple operation that turns the student's values into the right ones, else the symbols, else a point."""
    for rule in (_relation, _swapped, _terms, _symbols, _power):
        found = rule(left, right, points)
        if found:
            return found
    point, value, _ = points[0]
    at = ", ".join(f"{s.name} = {float(v):.3g}" for s, v in point.items())
    return "value", f"differs from the right one: {f'at {at} ' if at else ''}it is {_short(value)}, and should be another number"


def _relation(left: Any, right: Any, points: list[tuple]) -> tuple[str, str] | None:
    values = [(a, b) for _, a, b in points]
    if all(_same(a, -b) for a, b in values):
        return "sign", "has the wrong sign"
    if any(abs(a) < 1e-20 or abs(b) < 1e-20 for a, b in values):
        return None
    named: list[tuple[str, str, Callable[[Any, Any], bool]]] = [
        ("reciprocal", "is the reciprocal of the right one", lambda a, b: _same(a * b, sympy.Integer(1))),
        ("square", "is the square of the right one", lambda a, b: _same(a, b**2)),
        ("square root", "is the square root of the right one", lambda a, b: _same(a**2, b)),
    ]
    free = bool(left.free_symbols | right.free_symbols)
    for kind, text, holds in named:
        if free and all(holds(a, b) for a, b in values):
            return kind, text
    ratios = [a / b for a, b in values]
    if free and all(_same(ratio, ratios[0]) for ratio in ratios):
        return "factor", f"is {_nice(ratios[0])} times the right one{FACTOR}"
    return None


def _swapped(left: Any, right: Any, points: list[tuple]) -> tuple[str, str] | None:
    """Two symbols exchanged, as when a step is written backwards, or whole index pairs (alpha_s with alpha_t and sigma_s with sigma_t)."""
    symbols = sorted(left.free_symbols & right.free_symbols, key=lambda s: s.name)
    if len(symbols) > 8:
        return None
    named = {s.name: s for s in symbols}
    index = {
        s: named[s.name[:-1] + ("t" if s.name[-1] == "s" else "s")]
        for s in symbols
        if s.name[-2:] in ("_s", "_t") and s.name[:-1] + ("t" if s.name[-1] == "s" else "s") in named
    }
    swaps = [{a: b, b: a} for a, b in itertools.combinations(symbols, 2)]
    for swap in ([index] if len(index) > 2 else []) + swaps:
        other = left.xreplace(swap)
        if all((value := _number(other, point)) is not None and _same(value, b) for point, _, b in points):
            names = "the indices s and t" if swap is index else " and ".join(s.name for s in list(swap)[:2])
            return "swapped", f"is right with {names} exchanged"
    return None


def _symbols(left: Any, right: Any, points: list[tuple]) -> tuple[str, str] | None:
    extra = sorted({s.name for s in left.free_symbols} - {s.name for s in right.free_symbols})
    missing = sorted({s.name for s in right.free_symbols} - {s.name for s in left.free_symbols})
    if extra:
        return "extra symbol", f"depends on {', '.join(extra)}, and should not"
    if missing:
        return "missing symbol", f"does not depend on {', '.join(missing)}, and should"
    return None


def _power(left: Any, right: Any, points: list[tuple]) -> tuple[str, str] | None:
    """One symbol too many, too few or to the wrong power: the ratio of the two is that symbol to a small power."""
    for s in sorted(left.free_symbols | right.free_symbols, key=lambda s: s.name):
        for p in (1, -1, 2, -2, sympy.Rational(1, 2), -sympy.Rational(1, 2)):
            if all(abs(b) > 1e-20 and abs(point[s]) > 0 and _same(a / b, sympy.N(point[s] ** p, DIGITS)) for point, a, b in points):
                return "power", f"is the right one times {s.name}{'' if p == 1 else f'**({p})'}: a power of {s.name} is wrong"
    return None


def _terms(left: Any, right: Any, points: list[tuple]) -> tuple[str, str] | None:
    for term in dict.fromkeys([*sympy.Add.make_args(right), *sympy.Add.make_args(sympy.expand(right))]):
        values = [_number(term, point) for point, _, _ in points]
        if any(value is None for value in values) or term == right:
            continue
        if all(_same(b - a, 2 * v) for (_, a, b), v in zip(points, values)):
            return "sign of a term", "has the wrong sign in one of its terms"
        if all(_same(b - a, v) for (_, a, b), v in zip(points, values)):
            return "term", "lacks one of its terms"
    shift = points[0][1] - points[0][2]
    if right.free_symbols and all(_same(a - b, shift) for _, a, b in points):
        return "constant", f"differs from the right one by the constant {_nice(shift)}"
    return None


def _nice(value: Any) -> str:
    exact = sympy.nsimplify(value, [sympy.pi, sympy.E, sympy.sqrt(2)], tolerance=1e-20)
    return str(exact) if sympy.count_ops(exact) < 6 and len(str(exact)) < 20 else _short(value)


def _short(value: Any) -> str:
    return str(sympy.N(value, 4))


def _size(described: list) -> str:
    return f"a tuple of {len(described) - 1} expressions" if described[0] == "Parts" else "one expression"


def _yes() -> dict:
    return {"equal": True, "kind": "equal", "message": ""}


def _no(kind: str, message: str) -> dict:
    return {"equal": False, "kind": kind, "message": message}
