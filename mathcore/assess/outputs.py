"""What a cell or a test leaves on the graded notebook, each error once, and what a question without an answer lacks."""

import base64
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mathcore.assess.sandbox import ProcessEnded, StudentError
from mathcore.assess.source import MISSING, grade_id


class NoAnswer(Exception):
    """A test could not begin, since the cell that should define what it calls is gone or failed."""


def of_cell(result: dict) -> list[Any]:
    """What a student's cell left, as notebook outputs: text and PNG only, so that no page of feedback runs a script."""
    from nbformat.v4 import new_output

    outputs = [new_output("stream", name="stdout", text=str(result["stdout"]))] if result["stdout"] else []
    outputs += [new_output("display_data", data={"text/plain": str(text)}) for text in result["texts"]]
    outputs += [new_output("display_data", data={"image/png": picture}) for picture in map(_base64, result["pictures"]) if picture]
    if result["error"] is not None:
        outputs.append(_error(*map(str, result["error"])))
    return outputs


def of_failure(error: Exception) -> list[Any]:
    """What a failed test leaves: the message, and where in the student's code it arose; never a line of a test."""
    name, _, message = said(error).partition(": ")
    own = getattr(error, "student_traceback", "")
    if own:
        return [_error(name, message, f"{said(error)}\n\nin your code:\n{own}")]
    last = traceback.extract_tb(error.__traceback__)[-1].filename if error.__traceback__ else "<test>"
    plain = last.startswith("<") or isinstance(error, (AssertionError, NotImplementedError, ProcessEnded, NoAnswer))
    return [_error(name, message, said(error) + ("" if plain else f"\n(raised in {Path(last).name})"))]


def said(error: Exception) -> str:
    """Name and message of an error; the name of one that the student's code defined is in its message."""
    return str(error) if type(error) is StudentError else f"{type(error).__name__}: {error}"


def lacking(answers: Sequence[Any], error: Exception) -> tuple[str, Exception]:
    """What the question of a failed test lacks, in a few words, and the error that leads with it; nothing and ``error`` itself if it lacks nothing.

    Args:
        answers: the question's answer cells, after they ran, each with the checksum of the cell that was handed out.
    """
    from nbgrader.utils import compute_checksum

    if isinstance(error, NotImplementedError):
        untouched = answers and all(compute_checksum(cell) == cell.metadata.nbgrader.get("checksum") for cell in answers)
        return "not answered" if untouched else "", error
    if not isinstance(error, NameError) or hasattr(error, "student_traceback"):
        return "", error
    for cell in answers:
        if cell.source == MISSING:
            return "answer cell missing", NoAnswer(f"the notebook that you handed in has no cell {grade_id(cell)}, so {error}")
        for failed in (output.ename for output in cell.outputs if output.output_type == "error"):
            return "answer cell does not run", NoAnswer(f"your cell {grade_id(cell)} ended with the {failed} above, so {error}")
    return "", error


def _error(name: str, message: str, text: str) -> Any:
    from nbformat.v4 import new_output

    return new_output("error", ename=name[:100], evalue=message[:5_000], traceback=text[:8_000].splitlines())


def _base64(picture: Any) -> str:
    """The picture, if it is nothing but a picture: it will stand inside a page."""
    try:
        return base64.b64encode(base64.b64decode(str(picture).replace("\n", ""), validate=True)).decode()
    except ValueError:
        return ""
