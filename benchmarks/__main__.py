"""Run every benchmark, each in a process of its own: ``make bench``. A number counts only as a ratio within one run on one machine."""

import subprocess
import sys

BENCHMARKS = [
    "benchmarks.mixture",
    "benchmarks.imports",
    "benchmarks.solvers",
    "benchmarks.fokker_planck",
    "benchmarks.dynamics",
    "benchmarks.training",
]

for name in BENCHMARKS:
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", name], check=True)
