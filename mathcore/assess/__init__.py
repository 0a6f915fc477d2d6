"""Problem sets that grade themselves: symbolic answers, per-student numbers, tests whose messages teach, releases and confined grading.

A student's notebook imports ``checks``; an instructor uses ``python -m mathcore.assess`` (``release``, ``grade``, ``collect``). Everything else is machinery.
"""
