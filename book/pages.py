"""The two pages made from a run: the Ledger (what was checked, with what error) and the Corrections (where the checks contradict the text)."""

import re
from dataclasses import dataclass
from pathlib import Path

from mathcore.claims import MIME, describe
from mathcore.ledger import Row, ledger


@dataclass(frozen=True)
class Run:
    """The claim records that one executed notebook left, in order."""

    notebook: str
    title: str
    records: list[dict]
    proofs: frozenset[str]

    def link(self, row: Row) -> str:
        """Return a link to a statement: theorems live in sphinx-proof's own label space, everything else is an ordinary target."""
        return f"{{prf:ref}}`{row.number} <{row.id}>`" if row.id in self.proofs else f"[{row.number}](#{row.id})"

    def of(self, id: str) -> list[dict]:
        """Return the records of one statement."""
        return [record for record in self.records if id in record["ids"]]


def runs_of(cache, path: Path) -> Run:
    """Read the claim records from the stored run of a notebook."""
    try:
        _, nb = cache.merge_match_into_file(path)
    except KeyError:
        raise SystemExit(f"{path.name} has no stored run: it was edited while the book was being built; build again") from None
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    proofs = frozenset(re.findall(r"^:{3,}\{prf:.*\n:label: ([\w-]+)", text, re.M))
    title = re.search(r"^# (.+)$", text, re.M)[1]
    return Run(path.stem, title, [output["data"][MIME] for output in outputs if MIME in output.get("data", {})], proofs)


LEDGER_INTRO = """# Ledger

Every statement of the monograph that this book covers has a row here, made from the run that built these pages. A *checked* row lists what was computed and how far it was from
what the statement says; the last column is the negative control, the same check run on a plausible mistake, with the reason for which it was rejected. A *shown* row is a figure or a
table that the build computed. A *read* row has nothing to check, and says why.

"""


def ledger_page(runs: list[Run]) -> str:
    """Return the Ledger as MyST text: one table a notebook, in the order of ``claims.toml``."""
    by_name = {run.notebook: run for run in runs}
    rows = [row for row in ledger().rows.values() if row.notebook in by_name]
    counts = {status: sum(row.status == status for row in rows) for status in ("checked", "shown", "read")}
    blocks = sum(len(run.records) for run in runs)
    controls = sum(len(record["controls"]) for run in runs for record in run.records)
    summary = (
        f"{len(rows)} statements: {counts['checked']} checked, {counts['shown']} shown, {counts['read']} read. "
        f"{blocks} claim blocks ran, and {controls} wrong statements were rejected.\n"
    )
    parts = [LEDGER_INTRO, summary]
    for run in runs:
        taught = [row for row in rows if row.notebook == run.notebook]
        if taught:
            link = f"{{doc}}`the notebook </notebooks/{run.notebook}>`"
            parts.append(f"\n## {run.title}\n\nTo {link}.\n\n| statement | what was found | control |\n|---|---|---|\n")
            parts += [_line(row, run, [record for other in runs for record in other.of(row.id)]) for row in taught]
    return "".join(parts)


def _line(row: Row, run: Run, records: list[dict]) -> str:
    checks = describe([check for record in records for check in record["checks"]], _code)
    controls = describe([control for record in records for control in record["controls"]], _code)
    found = {"checked": checks or "**no record**", "shown": "computed and shown", "read": f"read: {row.why}"}[row.status]
    return f"| {run.link(row)} {row.title} | {found} | {controls} |\n"


def _code(what: str) -> str:
    """Set code apart in a Markdown table, where a bar would end the cell."""
    return f"`{what.replace('|', '¦').replace('`', '')}`"


CORRECTIONS_INTRO = """# Corrections

The text this book was written from is a scanned and translated copy of the monograph. Where our checks contradict a mathematical statement of that copy, the statement is listed here
beside the form that passes. The original may well be right: a prime can be lost in scanning and a sign in translation. The check named with each entry refuses the wrong form, so the build has tried it and seen it fail.

"""


def corrections_page(runs: list[Run]) -> str:
    """Return the Corrections page as MyST text: one section a correction, linked to the check that found it."""
    by_name = {run.notebook: run for run in runs}
    parts = [CORRECTIONS_INTRO]
    for item in ledger().corrections.values():
        rows = [ledger().row(id) for id in item.claims]
        if not all(row.notebook in by_name for row in rows):
            continue
        found = ", ".join(by_name[row.notebook].link(row) for row in rows)
        parts.append(
            f"({item.id})=\n## {item.where}\n\n**The copy says:** {item.printed}\n\n**What holds:** {item.correct}\n\nFound by the check of {found}.\n\n"
        )
    return "".join(parts)
