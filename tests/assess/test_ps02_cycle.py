"""Problem set 2 in a course of its own: the solutions, the untouched release, and wrong answers of the kind that students write."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 10, "q5": 10, "q6": 15, "q7": 15, "q8": 10}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "half the logit": ("q1", "sp.log(w / (1 - w)) / 2)", "sp.log(w / (1 - w)))", "the mean of the data"),
    "marginal variance": ("q2", "return mean, 1 / diagonal,", "return mean, torch.linalg.inv(precision).diagonal(),", "the variances"),
    "unseen pixels": ("q2", "rows = W[seen] / noise[seen][:, None]", "rows = W / noise[:, None]", "no pixel is seen"),
    "independent layers": ("q3", "(1 - a[k] * b[k]) ** 2 * U[k] + a[k] ** 2 * t[k] ** 2", "U[k] + a[k] ** 2 * U[k + 1]", "two layers"),
    "encoder top down": (
        "q3",
        "return torch.stack(b).flip(0), torch.stack(t).flip(0)",
        "return torch.stack(b), torch.stack(t)",
        "exact encoder",
    ),
    "one step": ("q4", "c_0, c_i = (A_j - A_i**2 / A_j) / rest,", "c_0, c_i = A_j * (1 - A_i**2) / rest,", "a step that goes nowhere"),
    "no half": ("q4", "c_0**2 / (2 * v)", "c_0**2 / v", "the factor of the clean"),
    "sign of C": (
        "q5",
        "return information(*mixture, ab) - information(*mixture, ab_prev)",
        "return information(*mixture, ab_prev) - information(*mixture, ab)",
        "All signs are wrong",
    ),
    "noise at the end": ("q6", "if k < len(levels) - 2:", "if k < len(levels):", "the variance 'beta'"),
    "variances exchanged": ("q6", 'fresh if variance == "beta"', 'fresh if variance != "beta"', "prediction with the variance"),
    "velocity": ("q6", '"velocity": now * x - blur * out', '"velocity": now * x + blur * out', "velocity prediction"),
    "sum from one": ("q7", "if before == 1:", "if before == 1:\n            diffusion.append(0 * error)", r"has shape \(2, \d+\)"),
    "previous level": ("q7", "(2 * (1 - fresh) * (1 - before**2))", "(2 * (1 - fresh) * (1 - ab**2))", "minus -log p_data"),
    "noise at the last step": ("q8", "if i > 1:", "if i > 0:", "kappa = 1.0"),
    "hard-coded": ("q8", "low, high = 0.0, 1.0", "return 0.5\n    low, high = 0.0, 1.0", "the best kappa"),
}
STUDENTS = {
    "wrong-1": ["half the logit", "marginal variance", "independent layers", "one step", "sign of C", "velocity", "sum from one"],
    "wrong-2": ["unseen pixels", "encoder top down", "no half", "variances exchanged", "previous level", "hard-coded"],
    "wrong-3": ["noise at the last step", "noise at the end"],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps02", POINTS, MISTAKES, STUDENTS
