"""The tested library behind the book: exact oracles, derivations, objectives, training.

Import the part you need, ``from mathcore import oracle`` or ``from mathcore.schedules import AffineSchedule``; nothing is loaded here, so
``import mathcore`` costs no more than the interpreter.
"""

__version__ = "0.1.0"
