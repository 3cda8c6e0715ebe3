"""The experiment of the paper (section 4.2) with the context network in place of a model with latents.

Independent chains of test images, as in codec.experiment; a chain starts from nothing but the head of its lane, as
there are no latents whose first ones would take initial bits.
"""

import argparse
import concurrent.futures
import time

import numpy as np
from tqdm import tqdm

from codec import autoregressive, experiment
from model.context import SMALL_GRID
from utils import paths
from utils.compiled import processors
from utils.errors import UserError

SCHEME = "context"  # in the names of files


def run(dataset: str, args: argparse.Namespace, chosen: np.ndarray, name: str) -> experiment.Result | None:
    """Code chains of test images, write their words, decode these again from disk and compare; returns a Result.

    args: the flags of codec.command. chosen: uint8 [E, N, H, W, C]. name: of the file. The rates are per dimension of
    the images, which are not padded, and what stands for the ELBO is the sum of the logarithms of the frequencies,
    which is exact here. None with --verify-only. Raises UserError where one image is not the same.
    """
    network = autoregressive.open_network(args.context, dataset=dataset, output=args.output)
    chains, count = chosen.shape[:2]
    file = paths.bitstreams(dataset, 0, args.output) / f"{name}.npz"
    header = {
        "dataset": dataset, "scheme": SCHEME, "context": network.identity, "seed": args.seed,
        "chains": chains, "images": count,
    }  # fmt: skip
    print(f"\n{dataset}, context network {network.identity}: {chains} chains of {count} images")
    result = None
    if not args.verify_only:
        autoregressive.encode_chain(chosen[0, :1], network.weights, SMALL_GRID)  # compiles before the clock starts
        began = time.perf_counter()
        coded = _each(lambda chain: autoregressive.encode_chain(chain, network.weights, SMALL_GRID), chosen, "encode")
        seconds = time.perf_counter() - began
        words, bits, costs = zip(*coded, strict=True)
        experiment.save_bitstreams(file, header, words)
        dims, added = chosen[0, 0].size, np.stack(bits).astype(np.float64)
        total = added.cumsum(1) + 64  # the head
        cmas = total / (dims * np.arange(1, count + 1))
        result = experiment.Result(list(words), added / dims, np.stack(costs) / dims, cmas, total, seconds)
    if not args.no_verify:
        _verify(file, header, chosen, network)
    return result


def _verify(file, header, chosen, network):
    (words, _), began = experiment.load_bitstreams(file, header), time.perf_counter()
    shape = chosen.shape[1:]
    try:
        decoded = _each(
            lambda lane: autoregressive.decode_chain(lane, shape, network.weights, SMALL_GRID), words, "decode"
        )
    except ValueError as error:
        raise UserError(f"{file} cannot be decoded ({error}): it is corrupt; compress again") from None
    if len(decoded) != len(chosen) or not np.array_equal(np.stack(decoded), chosen):
        raise UserError(f"{file} decodes to other pixels: it is corrupt; compress again")
    count = len(chosen) * len(chosen[0])
    print(f"decoded in {1e3 * (time.perf_counter() - began) / count:.2f} ms per image from {file}:")
    print(f"all {count:,} images are identical")


def _each(function, chains, desc):
    """[function(chain) for every chain], on as many threads as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(processors()) as pool:
        return list(tqdm(pool.map(function, chains), total=len(chains), desc=desc, unit="chain", dynamic_ncols=True))
