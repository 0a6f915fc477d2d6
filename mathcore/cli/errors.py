"""What goes wrong is told in one line: what was given, what is accepted. A traceback is for errors that nobody foresaw."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

TRACEBACK = "MATHCORE_TRACEBACK"
"""Set this environment variable to see where an error came from."""


class OneLineErrors(TyperGroup):
    """A group of commands that prints ``Error: ...`` on one line of stderr: exit code 2 for what the user can mend, 1 for what went wrong in a run."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run a command line and leave with its exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except Exception as error:
            told = explanation(error)
            if told is None or os.environ.get(TRACEBACK):
                raise
            print(f"Error: {told[0]}", file=sys.stderr)
            sys.exit(told[1])
        sys.exit(code if isinstance(code, int) else 0)


def explanation(error: Exception) -> tuple[str, int] | None:
    """Return the line and the exit code for an error; None for one that should not happen."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # of the command line itself; typer carries click's classes inside
        return _one_line(error.format_message()), 2
    if isinstance(error, FloatingPointError):
        return _one_line(str(error)), 1
    from mathcore.training import CheckpointError

    if isinstance(error, (ValueError, CheckpointError, FileExistsError)):
        return _one_line(str(error)), 2
    if isinstance(error, (RuntimeError, OSError, ImportError)):  # data that are not here, a full disk, no memory
        return _one_line(str(error) or type(error).__name__), 1
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
