"""What ``import mathcore`` costs beyond ``import torch``: seconds, the best of several fresh interpreters each."""

import subprocess
import sys

CORE = "import mathcore, mathcore.schedules, mathcore.predictions, mathcore.distributions, mathcore.oracle, mathcore.divergences, mathcore.claims"


def best(second: str, repeats: int = 5) -> float:
    code = f"import time, torch; start = time.perf_counter(); {second}; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)]
    return min(float(run.stdout) for run in runs)


if __name__ == "__main__":
    print(f"import mathcore, beyond torch:            {best('import mathcore'):.3f} s")
    print(f"import of its whole numerical core:       {best(CORE):.3f} s")
