"""Run every benchmark, one after the other: ``make bench``. A number counts only as a ratio within one run on one machine."""

import runpy

BENCHMARKS = ["benchmarks.mixture", "benchmarks.imports"]

for name in BENCHMARKS:
    print(f"\n== {name}", flush=True)
    runpy.run_module(name, run_name="__main__")
