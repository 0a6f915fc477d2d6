"""The ledger against the notebooks: every row has its notebook, its anchor, its functions and its claim block, and nothing else exists."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from mathcore.ledger import find_ledger, ledger, read_ledger

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def cells(name, kind):
    nb = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))
    return [cell for cell in nb["cells"] if cell["cell_type"] == kind]


def anchors(name):
    """Everything a page can be linked at: (id)= targets, labels of directives, names of figures."""
    text = "\n".join("".join(cell["source"]) for cell in cells(name, "markdown"))
    figures = [cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells(name, "code")]
    return [*re.findall(r"^\(([\w-]+)\)=$", text, re.M), *re.findall(r"^:label: ([\w-]+)$", text, re.M), *filter(None, figures)]


def claim_blocks(name):
    """For each `with claim(...)` block: its ids, and the names of the methods called inside."""
    blocks = []
    for cell in cells(name, "code"):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if (
                isinstance(node, ast.With)
                and isinstance(call := node.items[0].context_expr, ast.Call)
                and getattr(call.func, "id", "") == "claim"
            ):
                calls = [
                    inner.func.attr for inner in ast.walk(node) if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute)
                ]
                blocks.append(([ast.literal_eval(arg) for arg in call.args], calls))
    return blocks


rows = pytest.mark.parametrize("row", ledger().rows.values(), ids=lambda row: row.id)
notebooks = pytest.mark.parametrize("name", NOTEBOOKS)


@rows
def test_a_row_has_its_notebook_and_its_anchor(row):
    assert row.notebook in NOTEBOOKS, f"{row.id}: no notebook {row.notebook}"
    assert anchors(row.notebook).count(row.id) == 1, f"{row.notebook} must have the anchor {row.id} exactly once"


@rows
def test_a_row_names_functions_that_exist(row):
    for path in row.functions:
        module, found = path, None
        while "." in module and found is None:  # the longest prefix that is a module
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError:
                module = module.rpartition(".")[0]
        assert found is not None, f"{row.id}: {path}"
        for attribute in path[len(module) :].strip(".").split(".") if path != module else []:
            found = getattr(found, attribute)


@rows
def test_a_checked_row_has_a_claim_block_in_its_notebook(row):
    claimed = [id for ids, _ in claim_blocks(row.notebook) for id in ids]
    if row.status == "checked":
        assert row.id in claimed, f"{row.id} is `checked`, but no claim block of {row.notebook} carries it"
        assert row.functions, f"{row.id}: name the functions that carry the statement"


@notebooks
def test_a_claim_block_has_rows_and_a_control(name):
    for ids, calls in claim_blocks(name):
        assert ids, f"{name}: a claim without an id"
        for id in ids:
            ledger().row(id)
        assert "rejects" in calls, f"{name}: {ids} has no negative control"


@notebooks
def test_anchors_are_unique_across_the_book(name):
    others = {anchor for other in NOTEBOOKS if other != name for anchor in anchors(other)}
    assert not others & set(anchors(name))


@notebooks
def test_notebooks_keep_the_limits(name):
    for cell in cells(name, "code"):
        source = "".join(cell["source"])
        assert not cell["outputs"], f"{name} has outputs; `make format` strips them"
        assert cell["execution_count"] is None
        assert source.count("\n") < 30, f"{name}: a cell of more than 30 lines:\n{source[:200]}"
        assert not re.search(r"^class |^%%time|^!", source, re.M), f"{name}: library code or shell in a cell:\n{source[:200]}"


@notebooks
def test_figures_have_alt_text(name):
    for cell in cells(name, "code"):
        if "plt.show()" in "".join(cell["source"]):
            shown = cell["metadata"].get("mystnb", {})
            assert shown.get("image", {}).get("alt"), f"{name}: a figure without alt text:\n{''.join(cell['source'])[:200]}"
            assert shown.get("figure", {}).get("caption"), f"{name}: a figure without a caption:\n{''.join(cell['source'])[:200]}"


def test_corrections_rest_on_checked_rows():
    for correction in ledger().corrections.values():
        assert correction.claims, correction.id
        for id in correction.claims:
            assert ledger().row(id).status == "checked", f"{correction.id} rests on {id}, which is not checked"


ROW = '[claim.x]\nnumber="1"\nkind="k"\ntitle="t"\nnotebook="n"\nstatus="{status}"\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[claim", "not valid TOML"),
        (ROW.format(status="done"), "status must be one of"),
        (ROW.format(status="read"), "why"),
        (ROW.format(status="shown") + 'why="because"\n', "why"),
        ('[claim.x]\nnumber="1"\n', "x: .*missing"),
        (ROW.format(status="shown") + "extra=1\n", "extra"),
        ('[correction.y]\nwhere="w"\nprinted="p"\ncorrect="c"\nclaims=["z"]\n', "no statement 'z'"),
    ],
)
def test_a_broken_ledger_says_what_is_wrong(tmp_path, text, match):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_ledger(path)


def test_the_ledger_is_the_projects_own():
    assert find_ledger() == ROOT / "claims.toml"
