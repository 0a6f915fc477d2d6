"""Derivations in sympy, one module per chapter: the formulas that the numerical code is tested against."""
