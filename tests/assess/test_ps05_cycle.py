"""Problem set 5 in a course of its own: the solutions, the untouched release, and wrong answers of the kind that students write."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 10, "q5": 15, "q6": 15, "q7": 10, "q8": 10}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "all across": ("q1", "** (d - 1) * (1", "** d * (1", "a strong push"),
    "only pushes": ("q1", "return -c", "return 0 * c", "your smallest beta"),
    "wrong root": ("q1", "(k + sp.sqrt(", "(k - sp.sqrt(", "without a push"),
    "determinant at x": ("q2", "bent = torch.tanh((low + high) / 2 + b)", "bent = torch.tanh(goal + b)", "the mass of a model"),
    "wrong order": ("q2", "in reversed(layers)", "in layers", "two shears"),
    "bisected too little": ("q2", "range(80)", "range(20)", "3 layers in dimension 2"),
    "sign of the divergence": ("q3", "prior_log_prob(x) + total", "prior_log_prob(x) - total", "the mass of the law"),
    "forward": ("q3", "step = -1.0 / n", "step = 1.0 / n", "moved to the right"),
    "Euler": ("q3", "(0.0, 0.5, 0.5, 1.0)", "(0.0, 0.0, 0.0, 0.0)", "to which order"),
    "independent": ("q4", " + (a * db + b * da) * rho * s0 * s1", "", "the velocity"),
    "floor": ("q4", "(1 - rho**2)", "(1 - rho)", "the floor: "),
    "stays independent": ("q4", "+ 2 * a * b * rho * s0 * s1\n    return a * m0", "\n    return a * m0", "the trajectory: "),
    "no volume": ("q5", " - torch.logdet(V) / 2", "", "samples of x_t|is left of the target|mixtures in dimension"),
    "prior weights": (
        "q5",
        "torch.softmax(torch.stack(logs), 0)",
        "torch.full((len(logs), len(x)), 1 / len(logs))",
        "weighed by their density|is left of the target|mixtures in dimension",
    ),
    "underflow": (
        "q5",
        "share = torch.softmax(torch.stack(logs), 0)",
        "share = torch.stack(logs).exp()\n    share = share / share.sum(0)",
        "two points far out.*NaN",
    ),
    "transposed": ("q6", "(K.T - S0) + t * (S1 - K)", "(K - S0) + t * (S1 - K.T)", "correlated pairs in dimension 2"),
    "white": ("q6", "@ S0 @ (M - eye - s).T", "@ (M - eye - s).T", "straightness plus variance"),
    "monotone map": (
        "q6",
        "return M, float",
        "M = torch.linalg.cholesky(S1) @ torch.linalg.inv(torch.linalg.cholesky(S0))\n    return M, float",
        "drop of the cost",
    ),
    "chain rule": ("q7", "s * math.pi * math.cos", "s * math.cos", "a wrong time derivative"),
    "hard-coded": ("q7", "return brentq(loss, low, high, xtol=1e-4)", "return 0.5", "the cost of your own map"),
    "coarse": (
        "q7",
        "return brentq(loss, low, high, xtol=1e-4)",
        "return 1.02 * brentq(loss, low, high)",
        "the smallest bend",
    ),
    "right on average": (
        "q8",
        "times[:, None] * above",
        "times[torch.randperm(len(times), generator=generator)][:, None] * above",
        "the uniform law in dimension 1",
    ),
    "overflow": (
        "q8",
        "return torch.softmax(logs, 1) @ data",
        "share = logs.exp()\n    return share / share.sum(1, keepdim=True) @ data",
        "dimension 300.*NaN",
    ),
    "flux": ("q8", "* d * t / (r", "* d * t**2 / (r", "the profile of the flux"),
    "other slope": ("q1", "return -c", "return -1 - c / 2", "for your smallest beta, which should vanish"),
    "clock of the data": ("q3", "now = 1 + i * step", "now = -i * step", "the time of the first call"),
    "stays at its start": ("q4", "return a * m0 + b * m1 + sp.sqrt(var) / s0 * (x_start - m0)", "return x_start", "half-way, the particle"),
    "two integrals exchanged": (
        "q6",
        "return M, float((simpson * bent).sum()), float((simpson * torch.stack(left)).sum())",
        "return M, float((simpson * torch.stack(left)).sum()), float((simpson * bent).sum())",
        "straightness and variance for independent",
    ),
    "turned the other way": ("q7", "[[0.0, -1.0], [1.0, 0.0]]", "[[0.0, 1.0], [-1.0, 0.0]]", "which way does your Omega turn"),
    "deaf to the generator": ("q8", "torch.randn(x0.shape, generator=generator,", "torch.randn(x0.shape,", "two generators with one seed"),
}
STUDENTS = {
    "wrong-1": [
        "all across",
        "determinant at x",
        "sign of the divergence",
        "independent",
        "no volume",
        "transposed",
        "chain rule",
        "overflow",
    ],
    "wrong-2": ["only pushes", "wrong order", "forward", "floor", "prior weights", "white", "hard-coded", "flux"],
    "wrong-3": [
        "wrong root",
        "bisected too little",
        "Euler",
        "stays independent",
        "underflow",
        "monotone map",
        "coarse",
        "right on average",
    ],
    "wrong-4": [
        "other slope",
        "clock of the data",
        "stays at its start",
        "two integrals exchanged",
        "turned the other way",
        "deaf to the generator",
    ],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps05", POINTS, MISTAKES, STUDENTS
