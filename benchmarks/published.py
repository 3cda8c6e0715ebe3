"""Time the published code and ours, the same model on the same images."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import compression
import torch

from utils import cli
from utils.cli import UserError

COLUMNS = [
    "model",
    "code",
    "form",
    "lanes",
    "threads",
    "encode ms",
    "decode ms",
    "encode times as fast",
    "decode times as fast",
]
FORMS = ("float32", "bfloat16", "exact")
QUANTBITS, LIMIT = 10, 12.0  # as common.conditionals() has them
NEEDED = ("{}_compress.py", "model/{}_train.py", "utils/torch/rand.py")

DESCRIPTION = """Time the published code and ours, the same model on the same images.

CHECKOUT is a clone of the published code, https://github.com/fhkingma/bitswap. Its networks, cdfs and coder are
called as its compression script calls them, on the CPU, which codes one image after the other; ours in 1, 10 and 100
lanes. Full-size models with random weights, random images, Bit-Swap. Times are wall time in ms per image."""


def published(checkout, name, network, images):
    """Seconds that the published code takes for images, uint8 [N, *xs]: {"encode": ..., "decode": ...}."""
    dataset, nz = common.MODELS[name]
    for file in NEEDED:
        if not (checkout / file.format(dataset)).is_file():
            raise UserError(f"{checkout} has no {file.format(dataset)}; name a clone of github.com/fhkingma/bitswap")
    from model.vae import architecture

    settings = architecture(network.state_dict())
    for ours in ("conditional_scale", "colour_transform"):
        del settings[ours]
    task = {
        "dataset": dataset, "nz": nz, "architecture": settings, "weights": network.state_dict(),
        "pixels": images, "quantbits": QUANTBITS, "limit": LIMIT,
    }  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.pt"
        torch.save(task, file)
        script = Path(__file__).with_name("published_side.py")
        command = [sys.executable, str(script), str(checkout.resolve()), str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"the published code in {checkout} does not run here: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(args):
    """The rows of the table."""
    for name in args.models:
        network = common.unfolded(name)
        torch.manual_seed(0)
        images = torch.randint(0, 256, (args.images, *network.xs), dtype=torch.uint8)
        seconds = published(args.checkout, name, network, images)
        theirs = [1e3 * seconds[what] / len(images) for what in ("encode", "decode")]
        threads = torch.get_num_threads()
        yield [name, "published", "float32", 1, threads, *theirs, 1.0, 1.0]
        forms = {form: common.form(network, form) for form in FORMS}
        for lanes in args.lanes:
            for row in compression.measure(name, forms, "bitswap", lanes, 1, args.seconds, "wall"):
                cells = dict(zip(compression.COLUMNS, row, strict=True))
                ours = [cells["encode ms"], cells["decode ms"]]
                faster = [a / b for a, b in zip(theirs, ours, strict=True)]
                yield [name, "ours", cells["form"], lanes, threads, *ours, *faster]


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "published")
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="the folder of the published code")
    parser.add_argument(
        "--models", choices=tuple(common.MODELS), nargs="+", default=["mnist8", "cifar8"], metavar="MODEL",
        help="full-size models, by dataset and number of latent layers",
    )  # fmt: skip
    parser.add_argument("--lanes", type=cli.whole_number(1), nargs="+", default=[1, 10, 100], help="ours")
    parser.add_argument("--images", type=cli.whole_number(1), default=5, help="that the published code is timed on")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to go on measuring each row of ours")
    args = parser.parse_args()
    if args.quick:
        args.models, args.lanes, args.images, args.seconds = ["mnist1"], [1], 1, 0.0
    count = len(args.models) * (1 + len(args.lanes) * len(FORMS))
    common.report("published", args.output, COLUMNS, rows(args), count)


if __name__ == "__main__":
    main()
