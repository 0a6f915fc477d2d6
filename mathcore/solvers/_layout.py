"""How a table looks in a notebook: LaTeX and HTML."""

from collections.abc import Sequence
from html import escape
from typing import Any

import torch


def number(value: Any, digits: int = 4) -> str:
    """A coefficient in LaTeX: a signed decimal, or the range of a tensor."""
    if isinstance(value, torch.Tensor):
        low, high = (number(float(v), digits) for v in (value.min(), value.max()))
        return low if low == high else f"[{low},\\,{high}]"
    text = f"{value:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}\\cdot10^{{{int(exponent)}}}" if exponent else mantissa


def combination(step: Any, digits: int = 4) -> str:
    """The right-hand side of one row in LaTeX."""
    parts = [(c, f"x_{{{j}}}") for j, c in step.states.items()] + [(c, f"m_{{{j}}}") for j, c in step.outputs.items()]
    if isinstance(step.noise, torch.Tensor) or step.noise != 0.0:
        parts.append((step.noise, "z"))
    if isinstance(step.constant, torch.Tensor) or step.constant != 0.0:
        parts.append((step.constant, ""))
    text = ""
    for c, symbol in parts:
        factor = "" if symbol and not isinstance(c, torch.Tensor) and c == 1.0 else number(c, digits) + ("\\," if symbol else "")
        text += f"{'' if factor.startswith('-') or not text else '+'}{factor}{symbol}"
    return text


def chosen(steps: Sequence[Any], max_rows: int | None) -> list[int | None]:
    """The rows to show; ``None`` stands for what is left out."""
    if max_rows is None or len(steps) <= max_rows:
        return list(range(len(steps)))
    if max_rows < 3:
        raise ValueError(f"max_rows must be at least 3, got {max_rows}")
    return [*range(max_rows - 2), None, len(steps) - 1]


def latex_table(steps: Sequence[Any], max_rows: int | None, digits: int) -> str:
    """The rows as an ``aligned`` block."""
    lines = [
        r"&\ \,\vdots"
        if k is None
        else f"x_{{{k + 1}}} &= {combination(steps[k], digits)} && ({_time(steps[k].t)}\\to {_time(steps[k].t_next)})"
        for k in chosen(steps, max_rows)
    ]
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def html_table(name: str, caption: str, steps: Sequence[Any], max_rows: int = 12) -> str:
    """A table with one row per step; formulas are left to MathJax, which on a page of the book looks only into the class named here."""
    rows = []
    for k in chosen(steps, max_rows):
        if k is None:
            rows.append('<tr><td colspan="4">&#8942;</td></tr>')
            continue
        step = steps[k]
        call = f"\\(m_{{{k}}}\\)" if step.evaluate else ""
        rows.append(
            f"<tr><td>{k}</td><td>{_time(step.t)} &rarr; {_time(step.t_next)}</td><td>{call}</td><td>\\(x_{{{k + 1}}}={combination(step)}\\)</td></tr>"
        )
    head = "<tr><th>step</th><th>time</th><th>model call</th><th>new state</th></tr>"
    return f'<table class="solver-table tex2jax_process"><caption>{escape(caption)}</caption><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _time(t: float | int) -> str:
    return str(t) if isinstance(t, int) else f"{t:.4g}"
