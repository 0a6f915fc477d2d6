"""The command ``mathcore``: train, sample and evaluate the experiments of the book, list them, generate its problem sets."""

from mathcore.cli.app import app

__all__ = ["app"]
