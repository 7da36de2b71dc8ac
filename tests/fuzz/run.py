"""Runs the differential fuzz again and again, each time on other examples: run.py MINUTES."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = 100


def main(minutes: float) -> int:
    end = time.monotonic() + 60 * minutes
    environment = {**os.environ, "MUSC_FAST_FUZZ_EXAMPLES": str(EXAMPLES)}
    rounds = 0
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(1 << 32)
        folder = str(Path(__file__).parent)
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"--hypothesis-seed={seed}", folder]
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            print(f"failed in round {rounds + 1}, seed {seed}")
            return 1
        rounds += 1
    print(f"{rounds} rounds of {EXAMPLES} examples of each law, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
