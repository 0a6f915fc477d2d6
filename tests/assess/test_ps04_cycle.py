"""Problem set 4, graded once in a temporary folder: the solutions, an untouched release, and what plausible wrong answers cost."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 15, "q5": 15, "q6": 15, "q7": 15}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "VP's variance": ("q1", "1 - (1 + clock) * sp.exp(-clock)", "1 - sp.exp(-clock)", "which solves P'"),
    "ODE for all eta": ("q2", "return rest + (1 - rest) * sp.exp((1 - c * (1 + eta**2)) * B)", "return sp.exp((1 - c) * B)", "at t = 0"),
    "whole score": ("q3", "(1 + eta**2) / 2 * g2", "g2", "moves nothing"),
    "noise of the wrong end": ("q3", "(g2 * h).sqrt()", "(sde.g2(then) * h).sqrt()", "only noise is added"),
    "borrowed sign": ("q4", "return s0**2 + extra, s0**2 - extra", "return s0**2 - extra, s0**2 + extra", "forward increments"),
    "forward increments": ("q4", "sde.f(ts[j]) * x - g2 * score(x, ts[j])", "sde.f(ts[j]) * x", "must be independent"),
    "last time is 1": ("q5", "(sde.alpha(ts[-1]), sde.sigma(ts[-1]))", "(sde.alpha(1.0), sde.sigma(1.0))", "ends before t = 1"),
    "spread not squared": ("q6", "to_clean**2 * spread(x, s)", "to_clean * spread(x, s)", "exact in three long steps"),
    "exchanged times": ("q6", "sde.sigma(t) ** 2 / sde.sigma(s) ** 2 * x", "sde.sigma(s) ** 2 / sde.sigma(t) ** 2 * x", "always says 0.3"),
    "steps go unchecked": ("q7", "final_ratio(found, 4 * STEPS, LOUD)", "1.0", "four times as many steps"),
}
STUDENTS = {
    "wrong-1": ["VP's variance", "whole score", "forward increments", "spread not squared", "steps go unchecked"],
    "wrong-2": ["ODE for all eta", "noise of the wrong end", "borrowed sign", "last time is 1", "exchanged times"],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps04", POINTS, MISTAKES, STUDENTS
