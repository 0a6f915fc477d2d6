"""A sympy expression as plain JSON and back, without evaluating a string: what crosses the border between a student's process and the grader's.

A node is a list whose first entry names a kind: ``["Symbol", name, {assumption: bool}]``, ``["Integer", "12"]``, ``["Function", "alpha", args...]`` for an
undefined function, else a head out of :data:`HEADS` and its arguments. Anything unknown is refused, so nothing but mathematics gets through.
"""

from typing import Any

HEADS = frozenset(
    """Add Mul Pow Equality Unequality LessThan GreaterThan StrictLessThan StrictGreaterThan And Or Not Tuple Piecewise ExprCondPair
    Derivative Integral Subs Sum Product Abs Min Max sign re im conjugate exp log sqrt floor ceiling factorial binomial gamma loggamma
    sin cos tan sec csc cot asin acos atan atan2 sinh cosh tanh sech csch coth asinh acosh atanh erf erfc erfinv expint Ei LambertW polylog
    uppergamma lowergamma besselj besseli besselk Heaviside DiracDelta KroneckerDelta""".split()  # noqa: SIM905
)
ATOMS = ("pi", "E", "I", "oo", "nan", "zoo", "true", "false", "GoldenRatio", "EulerGamma")
MAX_NODES = 20_000
MAX_DIGITS = 2_000


class Untranslatable(ValueError):
    """An expression holds something that is not in the vocabulary, or is too large."""


def encode(expression: Any) -> list:
    """Return ``expression``, a sympy object, as nested lists.

    Raises:
        Untranslatable: it holds a head that is not in :data:`HEADS`, or more than :data:`MAX_NODES` nodes.
    """
    return _encode(expression, [MAX_NODES])


def _encode(node: Any, budget: list[int]) -> list:
    import sympy

    budget[0] -= 1
    if budget[0] < 0:
        raise Untranslatable(f"the expression has more than {MAX_NODES} nodes")
    if isinstance(node, sympy.Symbol):
        return ["Symbol", node.name, {k: v for k, v in node._assumptions_orig.items() if isinstance(v, bool)}]
    if isinstance(node, (sympy.Integer, sympy.Rational)):
        return ["Rational", str(node.p), str(node.q)]
    if isinstance(node, sympy.Float):
        return ["Float", str(node), int(node._prec)]
    for name in ATOMS:
        if node is getattr(sympy, name):
            return ["Atom", name]
    if isinstance(node, sympy.MatrixBase):
        return ["Matrix", list(node.shape), *[_encode(entry, budget) for entry in node]]
    if isinstance(node, sympy.core.function.AppliedUndef):
        return ["Function", node.func.__name__, *[_encode(arg, budget) for arg in node.args]]
    head = type(node).__name__
    if head not in HEADS:
        raise Untranslatable(f"{head} cannot be part of an answer")
    return [head, *[_encode(arg, budget) for arg in node.args]]


def decode(node: Any) -> Any:
    """Return the sympy object that :func:`encode` described; constructors run, so untrusted nodes belong in a limited process.

    Raises:
        Untranslatable: not such a description.
    """
    return _decode(node, [MAX_NODES])


def _decode(node: Any, budget: list[int]) -> Any:
    import sympy

    budget[0] -= 1
    if budget[0] < 0 or not isinstance(node, list) or not node or not isinstance(node[0], str):
        raise Untranslatable("not the description of an expression")
    head, *rest = node
    if head == "Symbol":
        name, assumptions = rest
        if not isinstance(name, str) or not all(
            isinstance(v, bool) and isinstance(k, str) and k.isidentifier() for k, v in assumptions.items()
        ):
            raise Untranslatable("not a symbol")
        return sympy.Symbol(name, **assumptions)
    if head == "Rational":
        return sympy.Rational(*[_integer(text) for text in rest])
    if head == "Float":
        return sympy.Float(str(rest[0])[:MAX_DIGITS], precision=min(int(rest[1]), 4 * MAX_DIGITS))
    if head == "Atom" and rest[0] in ATOMS:
        return getattr(sympy, rest[0])
    if head == "Matrix":
        (rows, columns), entries = rest[0], [_decode(arg, budget) for arg in rest[1:]]
        return sympy.Matrix(int(rows), int(columns), entries)
    if head == "Function":
        return sympy.Function(str(rest[0]))(*[_decode(arg, budget) for arg in rest[1:]])
    if head not in HEADS:
        raise Untranslatable(f"{head} cannot be part of an answer")
    args = [_decode(arg, budget) for arg in rest]
    constructor = getattr(sympy, head, None) or getattr(sympy.functions.elementary.piecewise, head)
    return constructor(*args)


def _integer(text: Any) -> int:
    if not isinstance(text, str) or len(text) > MAX_DIGITS or not text.lstrip("-").isdigit():
        raise Untranslatable(f"not an integer of at most {MAX_DIGITS} digits")
    return int(text)
