"""Compress images with the functions of the published code. published.py starts this script.

It is a process of its own because both repositories have packages `model` and `utils`. The published scripts compress
inside their main function, which requires a GPU and the datasets. Here their functions are called in the same order.
"""

import importlib
import json
import os
import random
import sys
import time

import torch


def main(clone, task):
    """Time a task that published.py has written. Prints {"encode": seconds, "decode": seconds} as JSON."""
    os.chdir(clone)
    sys.path[0] = clone
    task = torch.load(task, weights_only=True)
    dataset, nz = task["dataset"], task["nz"]
    published = importlib.import_module(f"model.{dataset}_train").Model
    coder = importlib.import_module(f"{dataset}_compress").ANS
    rand = importlib.import_module("utils.torch.rand")

    model = published(**task["architecture"], root_process=False)  # no TensorBoard
    names = model.state_dict().keys()
    # One version of the published code says "std" in these names, another says "scale".
    renamed = {name if name in names else name.replace("_std", "_scale"): v for name, v in task["weights"].items()}
    model.load_state_dict(renamed)
    model.eval().compress()
    dims = {"x": task["pixels"][0].numel(), "z": model.zdim[0] * model.zdim[1] * model.zdim[2]}
    bins = [rand.ImageBins(torch.float64, "cpu", dims["x"])]
    edges, centres = [bins[0].endpoints()], [bins[0].centres()]
    for _ in range(1, nz):  # the edges, without the two at infinity
        edge = torch.linspace(-task["limit"], task["limit"], (1 << task["quantbits"]) + 1, dtype=torch.float64)
        edges.append(edge[1:-1].expand(dims["z"], -1))
        centres.append(((edge[1:] + edge[:-1]) / 2).expand(dims["z"], -1))
    zero = torch.zeros((1, 1, dims["z"]), dtype=torch.float64)
    top = rand.Bins(zero, zero + 1, task["quantbits"])
    edges.append(top.endpoints()[0, 0])
    centres.append(top.centres()[0, 0])

    def distribution(variable, given=None, symbols=None):
        """The coder of a variable, 0 (x) to nz, given the symbols of its neighbour; of z_nz under its prior."""
        mu, scale = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        if given is not None:
            value = centres[given][torch.arange(len(symbols)), symbols]
            network = model.infer(variable - 1) if variable > given else model.generate(variable)
            mu, scale = network(given=value)
        cdf = rand.logistic_cdf(edges[variable].t(), mu, scale).t()
        ends = cdf.new_zeros(len(cdf), 1), cdf.new_ones(len(cdf), 1)
        return coder(torch.diff(torch.cat((ends[0], cdf, ends[1]), 1)), quantbits=task["quantbits"] if variable else 8)

    def encode(state, x):
        below = x
        for i in range(nz):
            state, above = distribution(i + 1, i, below).decode(state)
            state = distribution(i, i + 1, above).encode(state, below)
            below = above
        return distribution(nz).encode(state, below)

    def decode(state):
        state, above = distribution(nz).decode(state)
        for i in reversed(range(nz)):
            state, below = distribution(i, i + 1, above).decode(state)
            state = distribution(i + 1, i, below).encode(state, above)
            above = below
        return state, above

    generator = random.Random(0)
    initial = [generator.randrange(1 << 16, 1 << 32) for _ in range(10_000)]
    initial[-1] <<= 32  # the head
    images = [pixels.flatten().long() for pixels in task["pixels"]]
    state, seconds = initial.copy(), {}
    with torch.no_grad():
        encode(initial.copy(), images[0])  # what is done only once
        began = time.perf_counter()
        for x in images:
            state = encode(state, x)
        seconds["encode"] = time.perf_counter() - began
        began = time.perf_counter()
        for x in reversed(images):
            state, decoded = decode(state)
            assert torch.equal(decoded, x)
        seconds["decode"] = time.perf_counter() - began
    assert state == initial
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
