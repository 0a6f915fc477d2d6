"""Problem set 4, graded once in a temporary folder: the solutions, an untouched release, and what plausible wrong answers cost."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 15, "q5": 15, "q6": 15, "q7": 15}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "VP's variance": ("q1", "1 - (1 + clock) * sp.exp(-clock)", "1 - sp.exp(-clock)", "where B = 1"),
    "ODE for all eta": ("q2", "return rest + (1 - rest) * sp.exp((1 - c * (1 + eta**2)) * B)", "return sp.exp((1 - c) * B)", "at t = 0"),
    "whole score": ("q3", "(1 + eta**2) / 2 * g2", "g2", "moves nothing"),
    "noise of the wrong end": ("q3", "(g2 * h).sqrt()", "(sde.g2(then) * h).sqrt()", "only noise is added"),
    "borrowed sign": ("q4", "return s0**2 + extra, s0**2 - extra", "return s0**2 - extra, s0**2 + extra", "in another order"),
    "forward increments": ("q4", "sde.f(ts[j]) * x - g2 * score(x, ts[j])", "sde.f(ts[j]) * x", "must be independent"),
    "last time is 1": ("q5", "(sde.alpha(ts[-1]), sde.sigma(ts[-1]))", "(sde.alpha(1.0), sde.sigma(1.0))", "ends before t = 1"),
    "spread not squared": ("q6", "to_clean**2 * spread(x, s)", "to_clean * spread(x, s)", "exact in three long steps"),
    "alpha alone": ("q1", "return sp.exp(-clock / 2), 1 - (1 + clock) * sp.exp(-clock)", "return sp.exp(-clock / 2)", "should be 2 values"),
    "louder is wider": ("q2", "return -(1 + 1 / eta**2)", "return (1 + 1 / eta**2)", "has the wrong sign"),
    "last noise first": ("q3", "noise[i]", "noise[-1 - i]", "only noise is added"),
    "any noise": ("q4", "return torch.stack(out)", "return torch.randn(path[1:].shape, dtype=x.dtype)", "where the path began"),
    "nodes in forward order": ("q4", "range(len(ts) - 1, 0, -1)", "range(1, len(ts))", "where the path began"),
    "the law itself": (
        "q5",
        "    dim = x0.shape[1]",
        "    if prior == 'exact' and probe is None:\n"
        "        return data.corrupt(sde.alpha(ts[0]), sde.sigma(ts[0])).log_prob(x0)\n"
        "    dim = x0.shape[1]",
        "positive and finite",
    ),
    "probe of the score": (
        "q5",
        'divergence = torch.einsum("ni,nij,nj->n", probe, slope, probe)',
        "score_part = slope - f * torch.eye(dim, dtype=x.dtype)\n"
        '            divergence = f * dim + torch.einsum("ni,nij,nj->n", probe, score_part, probe)',
        "by a normal probe",
    ),
    "silent at the end": (
        "q6",
        "x = mean + variance.sqrt() * noise[i]",
        "x = mean + (t > 0) * variance.sqrt() * noise[i]",
        "exact in three",
    ),
    "a round number": ("q7", "return found,", "return 1.5,", "at the eta of balance"),
    "exchanged times": ("q6", "sde.sigma(t) ** 2 / sde.sigma(s) ** 2 * x", "sde.sigma(s) ** 2 / sde.sigma(t) ** 2 * x", "always says 0.3"),
    "steps go unchecked": ("q7", "final_ratio(found, 4 * STEPS, LOUD)", "1.0", "four times as many steps"),
}
STUDENTS = {
    "wrong-1": ["VP's variance", "whole score", "forward increments", "spread not squared", "steps go unchecked"],
    "wrong-2": ["ODE for all eta", "noise of the wrong end", "borrowed sign", "last time is 1", "exchanged times"],
    "wrong-3": ["alpha alone", "louder is wider", "last noise first", "any noise", "the law itself", "silent at the end", "a round number"],
    "wrong-4": ["nodes in forward order", "probe of the score"],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps04", POINTS, MISTAKES, STUDENTS
