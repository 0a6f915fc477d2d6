"""The trained models of the book, one file each: what is trained, at which size, and how a notebook gets it.

Sizes follow ``settings.scale``; a finished run is kept (see :func:`mathcore.training.run_cached`), so that every notebook that asks for a model
gets the same one and only the first trains it.
"""
