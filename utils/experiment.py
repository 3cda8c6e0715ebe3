"""The compression experiment of the paper (section 4.2): independent chains of test images, coded and decoded again.

The chains are the lanes of one coder: each network call is a batch with one image of every chain, and the bits are
those of coding one chain after the other.
"""

import json
import time
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import discretization
from model.vae import log_likelihoods
from utils import benchmarks, bitsback, checkpoints, cli, datasets, npz, paths
from utils.cli import UserError
from utils.rans import EmptyLaneError, Rans
from utils.torch.modules import fold_weight_norm

FORMAT = 1  # of the bitstream files
NAMES = {"bitswap": "Bit-Swap", "bbans": "BB-ANS"}
MEASURES = ("nets", "elbos", "cmas", "total")


class Result(NamedTuple):
    """What coding E chains of N images gave; arrays are float64 [E, N], per dimension of the (padded) model input."""

    words: list  # each chain's words, uint32, as Rans.to_words() returns them
    nets: np.ndarray  # bits/dim that each image added to its chain
    elbos: np.ndarray  # bits/dim, negative ELBO of each image at fresh samples of z
    cmas: np.ndarray  # bits/dim of the chain so far, the initial bits included
    total: np.ndarray  # bits of the chain so far, the initial bits included
    seconds: float  # spent encoding, the ELBO not included


def compress(schedule, model, conditional, images, initial, desc="encode"):
    """Code chains of images side by side.

    schedule: of utils.bitsback. images: uint8 [E, N, *xs]. initial: the words each chain starts from, uint32 [E, W].
    Returns a Result. The initial bits of a chain, counted in total and cmas, are those that the pops before its
    first push take.
    """
    chains, count = images.shape[:2]
    dims = conditional.dims[0]
    symbols = conditional.to_symbols(images)
    coder = Rans.from_words(initial)
    first_push = next(i for i, step in enumerate(schedule) if step.action == "push")
    added, elbos, stack = (np.empty((chains, count)) for _ in range(3))
    seconds = 0.0
    with tqdm(total=chains * count, desc=desc, unit="image", dynamic_ncols=True) as bar:
        for t in range(count):
            began, before = time.perf_counter(), coder.counts.copy()
            known = {0: symbols[:, t]}
            bitsback.run(schedule[:first_push], coder, conditional, known, chains)
            if t == 0:
                least = coder.counts.copy()
            bitsback.run(schedule[first_push:], coder, conditional, known, chains)
            seconds += time.perf_counter() - began
            added[:, t] = coder.counts - before
            stack[:, t] = coder.counts + 1 - least  # the head counts as one more word
            elbos[:, t] = negative_elbo(model, images[:, t])
            net, elbo = 32 * added[:, : t + 1].mean() / dims, elbos[:, : t + 1].mean() / dims
            bar.set_postfix_str(f"{net:.4f} bits/dim, {net - elbo:+.4f} to the ELBO")
            bar.update(chains)
    total = 32 * stack
    cmas = total / (dims * np.arange(1, count + 1))
    return Result(coder.to_words(), 32 * added / dims, elbos / dims, cmas, total, seconds)


@torch.inference_mode()
def negative_elbo(model, images):
    """The negative ELBO, in bits, of images uint8 [B, *xs], each at one fresh sample of the latents: [B]."""
    x = torch.from_numpy(images).to(next(model.parameters()).device)
    logrecon, logdec, logenc = log_likelihoods(model, x)
    return ((logenc - logdec).sum((0, 2)) - logrecon).double().cpu().numpy()


def decompress(schedule, conditional, words, count, desc="decode"):
    """Undo compress(): from each chain's words and the number of images in it.

    Returns (images uint8 [E, count, *xs], the words left, which are the initial ones).
    """
    coder = Rans.from_words(words)
    steps = tqdm(range(count), desc=desc, unit="batch", dynamic_ncols=True)
    images = [bitsback.decode(schedule, coder, conditional, len(words)) for _ in steps]
    return np.stack(images[::-1], axis=1), coder.to_words()


def initial_words(chains, conditional, seed):
    """Random words for each chain to start from, uint32 [chains, W]: enough to pop every latent without a push."""
    count = sum(conditional.dims[1:]) + 2  # no pop takes more than a word
    return np.random.default_rng(seed).integers(1, 1 << 32, (chains, count), dtype=np.uint32)


def save_bitstreams(path, header, words):
    """Write the words of all chains and a header (a dict that JSON can hold) to one file."""
    npz.save(
        path,
        header=np.frombuffer(json.dumps({"format": FORMAT} | header).encode(), np.uint8),
        lengths=np.array([len(lane) for lane in words], np.int64),
        words=np.concatenate(words),
    )


def load_bitstreams(path, header):
    """Read each chain's words from a file whose header must be `header`.

    Raises UserError where the file is corrupt, or was written with another model, bins or set of images.
    """
    remedy = "compress again"
    packed, lengths, words = npz.load(path, ("header", "lengths", "words"), remedy)
    try:
        found = json.loads(packed.tobytes())
        sound = lengths.dtype == np.int64 and lengths.ndim == 1 and lengths.min(initial=2) >= 2
        sound = sound and words.dtype == np.uint32 and words.shape == (lengths.sum(),)
        if not (sound and isinstance(found, dict)):
            raise ValueError("its arrays do not fit together")
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a file of bitstreams ({error}); {remedy}") from None
    wanted = {"format": FORMAT} | header
    differing = [f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise UserError(f"{path} was written with {', '.join(differing)}; {remedy}, or decode with the same settings")
    return np.split(words, np.cumsum(lengths)[:-1])


def verify(path, header, schedule, conditional, images, initial):
    """Decode a file of bitstreams and compare everything that went into it. Returns the seconds decoding took.

    Raises UserError where one image or one initial word is not the same.
    """
    words = load_bitstreams(path, header)
    chains, count = images.shape[:2]
    if len(words) != chains:
        raise UserError(f"{path} holds {len(words)} chains instead of {chains}; compress again")
    remedy = "it is corrupt, or was written on another device or with another PyTorch or number of threads"
    began = time.perf_counter()
    try:
        decoded, left = decompress(schedule, conditional, words, count)
    except (EmptyLaneError, ValueError) as error:
        raise UserError(f"{path} cannot be decoded ({error}): {remedy}") from None
    seconds = time.perf_counter() - began
    same = (decoded == images).all((2, 3, 4))
    if not same.all():
        raise UserError(f"{path}: {(~same).sum():,} of {same.size:,} images decode to other pixels: {remedy}")
    if not all(np.array_equal(lane, start) for lane, start in zip(left, initial, strict=True)):
        raise UserError(f"{path}: the initial words are not what remains after decoding: {remedy}")
    return seconds


def main(dataset, argv=None):
    """Entry point of a dataset's compression script."""
    cli.script(_main)(dataset, argv)


def _main(dataset, argv):
    args = parse(dataset, argv)
    path, model, identity = checkpoints.open_for(dataset, args)
    test = datasets.load(dataset, "test", args.data)
    chosen = test[datasets.sample_chains(len(test), args.experiments, args.ndatapoints, args.seed)]
    chains, count = chosen.shape[:2]
    ranges = discretization.for_checkpoint(path, model, identity, dataset, args.quantbits, args.data, args.output)
    model = fold_weight_norm(model)
    conditional = bitsback.Conditionals(model, discretization.bins(model, ranges))
    images = datasets.to_channels_first(chosen)
    initial = initial_words(len(images), conditional, args.seed)
    padding = np.prod(model.xs) / np.prod(test.shape[1:])  # padded dimensions to real ones

    torch.manual_seed(args.seed)
    rates = {}
    for scheme in NAMES if args.compare else ("bitswap" if args.bitswap else "bbans",):
        schedule = bitsback.SCHEDULES[scheme](model.nz)
        stem = f"{scheme}_{args.quantbits}bits"
        file = paths.bitstreams(dataset, model.nz, args.output) / f"{stem}.npz"
        header = {
            "dataset": dataset, "scheme": scheme, "quantbits": args.quantbits, "checkpoint": identity,
            "bins": ranges.identity, "chains": chains, "images": count, "seed": args.seed,
        }  # fmt: skip
        print(f"\n{dataset}, nz={model.nz}, {NAMES[scheme]}: {chains} chains of {count} images")
        if not args.verify_only:
            result = compress(schedule, model, conditional, images, initial)
            for measure in MEASURES:
                with paths.whole(paths.results(dataset, model.nz, args.output) / f"{stem}_{measure}.npy") as array:
                    np.save(array, getattr(result, measure))
            save_bitstreams(file, header, result.words)
            print(summary(result, padding))
            rates |= {f"{NAMES[scheme]}, net": result.nets.mean(), f"{NAMES[scheme]}, sent": result.cmas[:, -1].mean()}
            rates["ELBO"] = result.elbos.mean()
        if not args.no_verify:
            seconds = verify(file, header, schedule, conditional, images, initial)
            print(f"decoded in {1e3 * seconds / (chains * count):.2f} ms an image from {file}:")
            print(f"all {chains * count:,} images and all initial words are identical")
    if args.compare and not args.verify_only:
        rates = {name: rate * padding for name, rate in rates.items()} | benchmarks.measure(chosen)
        print(comparison(rates))


def summary(result, padding):
    """A Result in words, in bits per real dimension. padding: padded dimensions to a real one."""
    count = result.nets.shape[1]
    lines = [
        f"ELBO            {result.elbos.mean() * padding:.4f} bits/dim",
        f"net             {result.nets.mean() * padding:.4f} bits/dim, +- {result.nets.std() * padding:.4f}",
    ]
    for t in sorted({1, 50, 100, count}):
        if t <= count:
            lines.append(f"cma after {t:<5} {result.cmas[:, t - 1].mean() * padding:.4f} bits/dim")
    return "\n".join([*lines, f"encoded in {1e3 * result.seconds / result.nets.size:.2f} ms an image"])


def comparison(rates):
    """A table of rates {name: bits/dim}, the least first."""
    width = max(map(len, rates))
    rows = [f"{name:{width}}  {rate:8.4f}" for name, rate in sorted(rates.items(), key=lambda item: item[1])]
    return "\n".join(["", f"{'':{width}}  bits/dim", *rows])


def parse(dataset, argv):
    parser = cli.parser(
        f"Compress {dataset} test images with Bit-Swap or BB-ANS, decode them again from disk and compare.\n\n"
        "Writes, under --output:\n"
        f"  plots/{dataset}<nz>/<scheme>_<q>bits_{{{','.join(MEASURES)}}}.npy   [chains, images], for cma.py:\n"
        "      bits/dim (per padded dimension) of each image, of its negative ELBO, of the chain so far, and its bits\n"
        f"  bitstreams/{dataset}<nz>/<scheme>_<q>bits.npz                 the compressed images\n"
        f"  bins/{dataset}_nz<nz>_<q>bits_<checkpoint>.npz                the bins, where there are none yet"
    )
    parser.add_argument("--bitswap", type=int, choices=(0, 1), default=1, help="1: Bit-Swap, 0: BB-ANS")
    datasets.add_arguments(parser)
    parser.add_argument("--no-verify", action="store_true", help="do not decode again")
    parser.add_argument("--verify-only", action="store_true", help="only decode what an earlier run wrote")
    parser.add_argument("--compare", action="store_true", help="both schemes, in a table with other compressors")
    checkpoints.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.verify_only and args.no_verify:
        parser.error("--verify-only and --no-verify exclude each other")
    return args
