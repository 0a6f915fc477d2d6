"""Problem set 6 graded as a course: solutions, an untouched copy, three students with mistakes that cost their question and no other."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 10, "q3": 10, "q4": 15, "q5": 15, "q6": 15, "q7": 15, "q8": 10}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "one clean point for all": ("q1", "(A - B * alpha / sigma) ** 2", "A**2", "the target that is seen"),
    "refuses alpha = 0": (
        "q2",
        '    if abs(det) < 1e-12:\n        raise ValueError(f"the source {source} is a multiple of x_t")\n    clean',
        '    if alpha == 0 or abs(det) < 1e-12:\n        raise ValueError("alpha is 0")\n    clean',
        "ValueError: alpha is 0",
    ),
    "no change of clock": (
        "q3",
        "return normal * (1 + level**2 / s_d**2) / level",
        "return normal * (1 + level**2 / s_d**2)",
        "flow matching",
    ),
    "score in the old unit": ("q4", "return value / k", "return value", "carried from edm to trig"),
    "gradient of gamma left out": ("q5", " - grad_gamma2(x, t) / 2", "", "depends on both coordinates"),
    "error of the score alone": (
        "q6",
        "return -e * root * sp.asinh(y), -2 * e",
        "return -e * root * sp.asinh(y), -e",
        "the shift for c = 1",
    ),
    "wrong table": (
        "q7",
        "wrong = np.trapezoid(np.interp(reached, places, table)",
        "wrong = np.trapezoid(table",
        "like 1 / K|the least of the three",
    ),
    "clean head for all": (
        "q8",
        "(A * sigma - B * alpha) * s_d / math.sqrt(total)",
        "abs(A * sigma - B * alpha) * s_d / math.sqrt(total)",
        "made from one F",
    ),
    "gradient without its factor": ("q1", "return 4 * (A * sigma", "return (A * sigma", "the variance of the gradient"),
    "sign of the amplification": (
        "q2",
        "return abs(alpha * D - sigma * C) / abs(det)",
        "return (alpha * D - sigma * C) / det",
        "the amplification",
    ),
    "noise in log-SNR": ("q3", "2 / (sp.pi * ((1 - t) ** 2 + t**2))", "1 / (sp.pi * t * (1 - t)) ", "times"),
    "same time": ("q4", "there = float(src.inverse_half_log_snr(dst.half_log_snr(t)))", "there = t", "the partner"),
    "paid twice": ("q5", "strength * score / 2", "strength * score", "one step from 0.5 to 0.4"),
    "the noise of the reverse SDE": (
        "q6",
        "if c == 0.0 or c == grid[-1]:",
        "if c > 0:\n        return 1.0\n    if c == 0.0:",
        "the best c",
    ),
    "printed rule": ("q7", "dtype=torch.float64).sqrt().numpy()", "dtype=torch.float64).numpy()", "the best clock for K"),
    "a rare point for a common one": ("q1", "up, down = w *", "up, down = (1 - w) *", "at x = -log"),
    "only an exact zero": ("q2", "    if abs(det) < 1e-12:", "    if det == 0:", "1e-13.*should raise ValueError"),
    "multiplied by the unit": ("q4", "model(x / k, there)", "model(x * k, there)", "carried from edm to trig"),
    "one slope for all": ("q5", "grad_gamma2(x, t) / 2", "grad_gamma2(x, t).mean(1, keepdim=True) / 2", "depends on both coordinates"),
    "backwards": (
        "q6",
        "return -e * root * sp.asinh(y), -2 * e * root * sp.atan(y), -e * third",
        "return -e * third, -2 * e * root * sp.atan(y), -e * root * sp.asinh(y)",
        "the shift of the ODE",
    ),
    "made up": (
        "q7",
        "return float(np.trapezoid(table, places)), float(wrong), float(best)",
        "return 1.0, 2.0, 3.0",
        "the energy of the linear clock",
    ),
    "x_t itself": ("q8", "return sigma / (s_d * root), -alpha * s_d / root", "return alpha, sigma", "only noise is left"),
}
STUDENTS = {
    "wrong-1": [
        "one clean point for all",
        "refuses alpha = 0",
        "no change of clock",
        "score in the old unit",
        "gradient of gamma left out",
        "error of the score alone",
        "wrong table",
        "clean head for all",
    ],
    "wrong-2": [
        "gradient without its factor",
        "sign of the amplification",
        "noise in log-SNR",
        "same time",
        "paid twice",
        "the noise of the reverse SDE",
        "printed rule",
    ],
    "wrong-3": [
        "a rare point for a common one",
        "only an exact zero",
        "multiplied by the unit",
        "one slope for all",
        "backwards",
        "made up",
        "x_t itself",
    ],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps06", POINTS, MISTAKES, STUDENTS
