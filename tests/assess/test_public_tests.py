"""The public tests of a question by themselves: which mistakes a student hears of before handing in, and with what hint."""

from pathlib import Path

import jaxtyping
import pytest

from mathcore.assess import source

SETS = Path(__file__).resolve().parents[2] / "notebooks" / "problem_sets"
MISTAKES = {  # (set, question, what is replaced in the solution, by what, what the message says)
    "A not symmetrised": ("ps03", "q2", "S = (A + A.T) / 2", "S = A", "for an antisymmetric A"),
    "the trace for the diagonal": ("ps03", "q2", "float((S.diagonal() ** 2).sum())", "float(S.trace())", r"A = diag\(1, -1\) with signs"),
    "D for D + 2": ("ps03", "q2", "/ (dim + 2)", "/ dim", r"A = diag\(1, -1\) on the circle"),
    "noise with the wrong sign": ("ps06", "q7", "noise = -r *", "noise = r *", "the slope of K at 0"),
    "no noise": ("ps06", "q7", "noise = -r *", "noise = 0 *", "the slope of K at 0"),
    "K undefined at 1": ("ps06", "q7", "law = mixture", "if r == 1:\n        return 0.0\n    law = mixture", r"K\(1\)"),
    "energy without the square": ("ps06", "q7", "np.sqrt(table), places) ** 2", "np.sqrt(table), places)", "16 steps of your own clock"),
    "the root in the wrong rule": ("ps06", "q7", "slow = 1 / table", "slow = 1 / np.sqrt(table)", "which overshoots"),
}


def run_public(name, question, old="", new=""):
    """Run the cells of a set that a question needs, as a student does, with ``new`` for ``old`` in the solution."""
    cells = {cell.id: cell.source for cell in source.get_set(SETS, name).notebook.cells}
    assert old in cells[f"{question}-answer"]
    answer = cells[f"{question}-answer"].replace(old, new)
    public = cells[f"{question}-test"].partition("### BEGIN HIDDEN TESTS")[0]
    scope = {}
    jaxtyping.config.update("jaxtyping_disable", True)  # of the mixtures, whose types other tests check: most of the time
    try:
        for text in (cells["imports"], cells["variant"], cells["problem"], answer, public):
            exec(text, scope)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(("name", "question"), sorted({mistake[:2] for mistake in MISTAKES.values()}))
def test_the_solution_passes_them(name, question):
    run_public(name, question)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_met_with_a_hint(mistake):
    name, question, old, new, says = MISTAKES[mistake]
    with pytest.raises(AssertionError, match=says):
        run_public(name, question, old, new)


def test_no_factor_is_blamed_for_a_wrong_exponent():
    with pytest.raises(AssertionError, match="whatever the level: off by") as caught:
        run_public("ps03", "q7", "delta * level**2 / levels[0] ** 2", "delta * level / levels[0]")
    assert "factor is" not in str(caught.value)
