"""Problem set 3 graded as a course: solutions, an untouched copy, three students with mistakes that cost their question and no other."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 15, "q5": 5, "q6": 10, "q7": 15, "q8": 15}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "trace with a plus": ("q1", "return -laplacian + square / 2", "return laplacian + square / 2", "the objective"),
    "A not symmetrised": ("q2", "S = (A + A.T) / 2", "S = A", "antisymmetric A"),
    "variance of the kernel": ("q3", "+ eps / sigma\n", "+ eps / sigma**2\n", "which is the mean of"),
    "cumulant for moment": ("q4", " + 3 * second**2", "", "fourth central moment on your mixture"),
    "sign by parts": ("q5", "x * out - sigma**2 * out.diff(x)", "x * out + sigma**2 * out.diff(x)", "the adjoint"),
    "step rule": ("q7", "delta * level**2 / levels[0] ** 2", "delta * level / levels[0]", "whatever the level"),
    "fixed step": ("q8", "return 10 * level**2 * gap(", "return 10 * gap(", "the weights freeze"),
    "by hand": ("q1", "return (sixth - 3", "return 0.5, 0.5\n    return (sixth - 3", "for your mixture, which is 1"),
    "one probe for all": ("q2", "for u in probes:", "for u in probes[:1]:", "the sliced loss"),
    "unscaled data": ("q3", "score(alpha * x + sigma * eps)", "score(x + sigma * eps)", "the loss with alpha"),
    "no alpha": ("q4", "(x + sigma**2 * d1) / alpha", "x + sigma**2 * d1", "the mean where"),
    "universal threshold": (
        "q6",
        "return min(candidates",
        "return sigma * math.sqrt(2 * math.log(len(y)))\n    return min(candidates",
        "three coordinates of noise",
    ),
    "tweedie at the wrong level": (
        "q7",
        "return x + visited[-1] ** 2 * score(x, visited[-1])",
        "return x + levels[0] ** 2 * score(x, levels[0])",
        "include_last=False and denoise=True",
    ),
    "nothing": ("q1", "return -laplacian + square / 2", "return sp.Integer(0)", "a quadratic energy"),
    "broadcast": ("q2", "jvp(x, u)", "jvp(x[:1], u)", "have one shape"),
    "a round number": ("q3", "    noisy = mixture", "    return 1.0\n    noisy = mixture", "estimated from 20000 points"),
    "k for k - 1": ("q4", "return (k - 1) / y - l1, (k - 1) / y**2", "return k / y - l1, k / y**2", "where every rate is 5"),
    "a fourth power": ("q5", "return x**4 - 6 * sigma**2 * x**2 + 3 * sigma**4", "return x**4", "negative though its mean"),
    "at the threshold": ("q6", "y.abs() > tau", "y.abs() >= tau", "exactly at the threshold"),
    "one call too many": ("q7", "return x + visited", "score(x, visited[-1])\n    return x + visited", "calls of the score"),
    "arithmetic mean": (
        "q8",
        "off = -(up * down).sqrt()",
        "mean = torch.cosh((log_p[1:] - log_p[:-1]) / 2)\n"
        "    diagonal[:-1] += up * (mean - 1)\n    diagonal[1:] += down * (mean - 1)\n"
        "    off = -(up * down).sqrt() * mean",
        "on five points",
    ),
    "an edge too many": ("q8", "/ h**2  # rate", "/ h  # rate", "the gap of N"),
}
STUDENTS = {
    "wrong-1": [
        "trace with a plus",
        "A not symmetrised",
        "variance of the kernel",
        "cumulant for moment",
        "sign by parts",
        "step rule",
        "fixed step",
    ],
    "wrong-2": [
        "by hand",
        "one probe for all",
        "unscaled data",
        "no alpha",
        "universal threshold",
        "tweedie at the wrong level",
        "an edge too many",
    ],
    "wrong-3": [
        "nothing",
        "broadcast",
        "a round number",
        "k for k - 1",
        "a fourth power",
        "at the threshold",
        "one call too many",
        "arithmetic mean",
    ],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps03", POINTS, MISTAKES, STUDENTS
