"""Problem set 2 in a course of its own: the solutions, the untouched release, and wrong answers of the kind that students write."""

from set_cycle import GradedSet

POINTS = {"q1": 10, "q2": 10, "q3": 15, "q4": 10, "q5": 15, "q6": 15, "q7": 15, "q8": 10}

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
    "one step": ("q4", "c_0, c_i = (A_j - A_i**2 / A_j) / rest,", "c_0, c_i = A_j * (1 - A_i**2) / rest,", "A_i = 3/5 and A_j = 4/5"),
    "no half": ("q4", "c_0**2 / (2 * v)", "c_0**2 / v", "the factor of the clean"),
    "sign of C": (
        "q5",
        "return information(*mixture, ab) - information(*mixture, ab_prev)",
        "return information(*mixture, ab_prev) - information(*mixture, ab)",
        "both divergences are positive",
    ),
    "noise at the end": ("q6", "if k < len(levels) - 2:", "if k < len(levels):", "the variance 'beta'"),
    "variances exchanged": ("q6", 'fresh if variance == "beta"', 'fresh if variance != "beta"', "the variance 'beta'"),
    "velocity": ("q6", '"velocity": now * x - blur * out', '"velocity": now * x + blur * out', "velocity prediction"),
    "sum from one": ("q7", "if before == 1:", "if before == 1:\n            diffusion.append(0 * error)", r"has shape \(2, \d+\)"),
    "previous level": ("q7", "(2 * (1 - fresh) * (1 - before**2))", "(2 * (1 - fresh) * (1 - ab**2))", "minus -log p_data"),
    "sign of the undecided": ("q1", "return -(tau**2)", "return tau**2", "your decoder at your undecided code"),
    "no rotation": ("q2", "torch.linalg.eigh(precision)[1]", "torch.eye(W.shape[1], dtype=W.dtype)", "the decoder W R"),
    "penalties alone": (
        "q3",
        "return recon, torch.stack(penalties, 1)",
        "return torch.stack(penalties, 1)",
        "layers: should be 2 values, are 3",
    ),
    "factors exchanged": (
        "q4",
        "return of_clean * (1 - A_i**2) / A_i**2, of_clean",
        "return of_clean, of_clean / A_i**2 - of_clean",
        "the second",
    ),
    "no constant": ("q5", "return information(*mixture, ab) - information(*mixture, ab_prev)", "return 0.0", "is 0, should lie"),
    "clipped": ("q6", "clean = own[kind]", "clean = own[kind].clamp(-2, 2)", "clip nothing"),
    "sign in the prior": ("q7", "- torch.log1p(-last)", "+ torch.log1p(-last)", "the prior term, a divergence"),
    "noise at the last step": ("q8", "if i > 1:", "if i > 0:", "kappa = 1.0"),
    "hard-coded": ("q8", "low, high = 0.0, 1.0", "return 0.9\n    low, high = 0.0, 1.0", "the best kappa"),
}
STUDENTS = {
    "wrong-1": ["half the logit", "marginal variance", "independent layers", "one step", "sign of C", "velocity", "sum from one"],
    "wrong-2": ["unseen pixels", "encoder top down", "no half", "variances exchanged", "previous level", "hard-coded"],
    "wrong-3": ["sign of the undecided", "no rotation", "no constant", "noise at the end", "noise at the last step"],
    "wrong-4": ["penalties alone", "factors exchanged", "clipped", "sign in the prior"],
}


class TestSet(GradedSet):
    """Graded with its solutions, untouched, and with the mistakes above."""

    name, points, mistakes, students = "ps02", POINTS, MISTAKES, STUDENTS
