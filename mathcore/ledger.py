"""The ledger ``claims.toml``: one row per statement of the monograph that the book covers, and one per correction.

A row says where the statement is taught, which functions carry it and how it stands: ``checked`` (a claim block runs in that notebook), ``shown`` (a computed
figure or table) or ``read`` (nothing to check; ``why`` says why). A correction names the statement whose check contradicts the text the book was written from.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path

STATUSES = ("checked", "shown", "read")


@dataclass(frozen=True)
class Row:
    """One statement: its ``id`` is also its anchor in ``notebook``."""

    id: str
    number: str
    kind: str
    title: str
    notebook: str
    status: str
    functions: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Correction:
    """A statement that the checks contradict: what the text says, what holds, and the claims whose control is the text's version."""

    id: str
    where: str
    printed: str
    correct: str
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """All rows and corrections, by id, in the order of the file."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)

    def row(self, id: str) -> Row:
        """Return the row of a statement.

        Raises:
            KeyError: no such id; the message lists the nearest ones.
        """
        if id in self.rows:
            return self.rows[id]
        near = get_close_matches(id, self.rows, n=4, cutoff=0.4)
        raise KeyError(f"no statement {id!r} in claims.toml; nearest: {', '.join(near) or 'none'}")


def find_ledger() -> Path:
    """Locate ``claims.toml``: beside the package in a checkout, inside it in an installed wheel.

    Raises:
        FileNotFoundError: neither place has it.
    """
    package = Path(__file__).resolve().parent
    for path in (package.parent / "claims.toml", package / "claims.toml"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"claims.toml is neither in {package.parent} nor in {package}; reinstall mathcore")


def read_ledger(path: Path) -> Ledger:
    """Parse a ledger file.

    Raises:
        ValueError: not TOML, a missing or unknown key, an unknown status, or a ``read`` row that does not say why.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name} is not valid TOML: {error}") from error
    rows = {id: _build(Row, id, values) for id, values in data.get("claim", {}).items()}
    corrections = {id: _build(Correction, id, values) for id, values in data.get("correction", {}).items()}
    for row in rows.values():
        if row.status not in STATUSES:
            raise ValueError(f"claims.toml, {row.id}: status must be one of {', '.join(STATUSES)}; got {row.status!r}")
        if (row.status == "read") != bool(row.why):
            raise ValueError(f"claims.toml, {row.id}: a `read` row says why there is nothing to check, and only a `read` row does")
    for correction in corrections.values():
        for id in correction.claims:
            if id not in rows:
                raise ValueError(f"claims.toml, correction {correction.id}: no statement {id!r}")
    return Ledger(rows, corrections)


def _build(cls, id: str, values: dict):
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return cls(id=id, **values)
    except TypeError as error:
        raise ValueError(f"claims.toml, {id}: {str(error).replace('__init__() ', '')}") from error


@cache
def ledger() -> Ledger:
    """Return the project's ledger, read once per process."""
    return read_ledger(find_ledger())
