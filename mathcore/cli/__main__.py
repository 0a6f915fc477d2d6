"""``python -m mathcore.cli``, the form that ``accelerate launch -m`` wants."""

from mathcore.cli import app

app(prog_name="mathcore")
