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
from utils.errors import UserError

COLUMNS = ["model", "code", "form", "lanes", "threads", "encode ms", "decode ms"]
COLUMNS += ["encode times as fast", "decode times as fast"]
NEEDED = ("{}_compress.py", "model/{}_train.py", "utils/torch/rand.py")

DESCRIPTION = """Time the published code and this repository, with the same full-size models on the same images.

CLONE is a clone of the published code, https://github.com/fhkingma/bitswap. Its networks, cdfs and coder are called on
the CPU as its compression script calls them, which codes one image after the other. This repository codes in 1, 10 and
100 lanes. Weights and images are random, the scheme is Bit-Swap. Times are wall time in ms per image."""


def published(clone, name, model, images):
    """Seconds that the published code needs for images, uint8 [N, *xs]: {"encode": ..., "decode": ...}."""
    dataset, nz = common.MODELS[name]
    for file in NEEDED:
        if not (clone / file.format(dataset)).is_file():
            raise UserError(f"{clone} has no {file.format(dataset)}; name a clone of github.com/fhkingma/bitswap")
    from model.vae import architecture

    settings = architecture(model.state_dict())
    for ours in ("conditional_scale", "colour_transform"):
        del settings[ours]
    task = {
        "dataset": dataset, "nz": nz, "architecture": settings, "weights": model.state_dict(),
        "pixels": images, "quantbits": common.QUANTBITS, "limit": common.LIMIT,
    }  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.pt"
        torch.save(task, file)
        script = Path(__file__).with_name("published_side.py")
        command = [sys.executable, str(script), str(clone.resolve()), str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"the published code in {clone} does not run here: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(args):
    """The rows of the table."""
    for name in args.models:
        model = common.random_model(name)
        torch.manual_seed(0)
        images = torch.randint(0, 256, (args.images, *model.xs), dtype=torch.uint8)
        seconds = published(args.clone, name, model, images)
        theirs = [1e3 * seconds[what] / len(images) for what in ("encode", "decode")]
        threads = torch.get_num_threads()
        yield [name, "published", "float32", 1, threads, *theirs, 1.0, 1.0]
        forms = {form: common.form(model, form) for form in common.FORMS}
        for lanes in args.lanes:
            for row in compression.measure(name, forms, "bitswap", lanes, 1, args.seconds, "wall"):
                cells = dict(zip(compression.COLUMNS, row, strict=True))
                ours = [cells["encode ms"], cells["decode ms"]]
                faster = [a / b for a, b in zip(theirs, ours, strict=True)]
                yield [name, "ours", cells["form"], lanes, threads, *ours, *faster]


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "published")
    parser.add_argument("clone", type=Path, metavar="CLONE", help="the folder of the published code")
    common.add_models(parser, ["mnist2", "mnist8", "cifar8"])
    parser.add_argument("--lanes", type=cli.whole_number(1), nargs="+", default=[1, 10, 100], help="of this repository")
    parser.add_argument("--images", type=cli.whole_number(1), default=5, help="images to time the published code with")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each row of this repository")
    args = parser.parse_args()
    if args.quick:
        args.models, args.lanes, args.images, args.seconds = ["mnist1"], [1], 1, 0.0
    count = len(args.models) * (1 + len(args.lanes) * len(common.FORMS))
    common.report("published", args.output, COLUMNS, rows(args), count)


if __name__ == "__main__":
    main()
