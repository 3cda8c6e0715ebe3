"""Time compression beside another program: what it costs that OpenMP's threads spin where they could sleep.

Compresses an image with Bit-Swap in a process of its own, on an idle machine and beside a process that keeps one
processor busy. Threads that wait for others spin with OMP_WAIT_POLICY=ACTIVE and sleep with PASSIVE; "ours" is what all
scripts here do unless the environment says otherwise, "OpenMP's" what they would do without. Wall time of the whole
script, start-up included.
Prints a table and writes OUTPUT/benchmarks/busy.csv.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
from PIL import Image

from utils import cli, paths

COLUMNS = ["others", "policy", "seconds", "over idle ours"]
OWN = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
POLICIES = {
    "ours": {},
    "OpenMP's": {"OMP_WAIT_POLICY": ""},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
}
SIDES = (384, 256)  # of the image


@cli.script
def main(argv=None):
    """Measure each case some times, in turn, and keep the least."""
    parser = common.parser(__doc__.partition("Prints a table")[0].rstrip(), "busy")
    parser.add_argument("--repeats", type=cli.whole_number(1), default=3, help="times to measure each case")
    args = parser.parse_args(argv)
    cases, best = list(itertools.product(("none", "one"), POLICIES)), {}
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
        Image.fromarray(noise).resize(SIDES).save(picture)
        for _ in range(1 if args.quick else args.repeats):
            for case in cases:
                seconds = _time(picture, *case)
                best[case] = min(best.get(case, seconds), seconds)
    rows = ((*case, best[case], best[case] / best[cases[0]]) for case in cases)
    common.report("busy", args.output, COLUMNS, rows, len(cases))


def _time(picture, other, policy):
    """Seconds that demo_compress.py takes for a picture."""
    command = [sys.executable, str(paths.ROOT / "demo_compress.py"), str(picture), "--force", "--coder=bitswap"]
    spin = [sys.executable, "-c", "while True: pass"]
    spinning = subprocess.Popen(spin) if other == "one" else None
    try:
        began = time.perf_counter()
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=OWN | POLICIES[policy],
        )  # fmt: skip
        return time.perf_counter() - began
    finally:
        if spinning:
            spinning.kill()
            spinning.wait()


if __name__ == "__main__":
    main()
