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
from codec import bitsback, conventional
from codec.bitsback import NAMES
from codec.conditionals import Conditionals, FloatNetwork
from codec.rans import EmptyLaneError, Rans
from model import checkpoints, make_exact
from model.vae import log_likelihoods
from utils import cli, datasets, npz, paths
from utils.cli import UserError
from utils.torch.modules import fold_weight_norm

FORMAT = 2  # of the bitstream files
MEASURES = ("nets", "elbos", "cmas", "total")


class Setup(NamedTuple):
    """What the flags of a compression script choose: see open_setup()."""

    model: torch.nn.Module  # folded; what the ELBO is of
    conditional: Conditionals  # of that model, or of its exact form
    floats: Conditionals | None  # of the model, to compare the rates where `conditional` is exact
    header: dict  # of the bitstream files, as far as these determine it


class Result(NamedTuple):
    """What coding E chains of N images gave; arrays are float64 [E, N], per dimension of the (padded) model input.

    Where chains differ in length, N is that of the longest, and a shorter one's rows end in NaN.
    """

    words: list  # each chain's words, uint32, as Rans.to_words() returns them
    nets: np.ndarray  # bits/dim that each image added to its chain
    elbos: np.ndarray  # bits/dim, negative ELBO of each image at fresh samples of z
    cmas: np.ndarray  # bits/dim of the chain so far, the initial bits included
    total: np.ndarray  # bits of the chain so far, the initial bits included
    seconds: float  # spent encoding, the ELBO not included


def compress(schedule, model, conditional, chains, initial, desc="encode", unit="image"):
    """Code chains of images side by side; a lane whose chain has ended leaves the batch.

    schedule: of codec.bitsback. chains: uint8 [N_i, *xs] each, the longest first; or all in one, uint8 [E, N, *xs].
    initial: the words each chain starts from, uint32 [E, W]. unit: what the progress bar calls an image.
    Returns a Result. The initial bits of a chain, counted in total and cmas, are those that the pops before its
    first push take.
    """
    lengths = np.array([len(chain) for chain in chains])
    count = lengths[0]
    dims = conditional.dims[0]
    coder = Rans.from_words(initial)
    first_push = next(i for i, step in enumerate(schedule) if step.action == "push")
    added, elbos, stack = (np.full((len(chains), count), np.nan) for _ in range(3))
    seconds = 0.0
    with tqdm(total=lengths.sum(), desc=desc, unit=unit, dynamic_ncols=True) as bar:
        for t in range(count):
            lanes = np.count_nonzero(t < lengths)
            images = np.stack([chain[t] for chain in chains[:lanes]])
            known = {0: conditional.to_symbols(images)}
            began, before = time.perf_counter(), coder.counts.copy()
            bitsback.run(schedule[:first_push], coder, conditional, known, lanes, t)
            if t == 0:
                least = coder.counts.copy()
            bitsback.run(schedule[first_push:], coder, conditional, known, lanes, t)
            seconds += time.perf_counter() - began
            added[:lanes, t] = (coder.counts - before)[:lanes]
            stack[:lanes, t] = (coder.counts + 1 - least)[:lanes]  # the head counts as one more word
            elbos[:lanes, t] = negative_elbo(model, images)
            net, elbo = 32 * np.nanmean(added[:, : t + 1]) / dims, np.nanmean(elbos[:, : t + 1]) / dims
            bar.set_postfix_str(f"{net:.4f} bits/dim, {net - elbo:+.4f} to the ELBO")
            bar.update(lanes)
    total = 32 * stack
    cmas = total / (dims * np.arange(1, count + 1))
    return Result(coder.to_words(), 32 * added / dims, elbos / dims, cmas, total, seconds)


@torch.inference_mode()
def negative_elbo(model, images):
    """The negative ELBO, in bits, of images uint8 [B, *xs], each at one fresh sample of the latents: [B]."""
    x = torch.from_numpy(images).to(next(model.parameters()).device)
    logrecon, logdec, logenc = log_likelihoods(model, x)
    return ((logenc - logdec).sum((0, 2)) - logrecon).double().cpu().numpy()


def decompress(schedule, conditional, words, lengths, desc="decode", unit="image"):
    """Undo compress(): from each chain's words and the number of images in it.

    Returns (chains, a list of uint8 [N_i, *xs], the words left, which are the initial ones).
    """
    coder = Rans.from_words(words)
    with tqdm(total=sum(lengths), desc=desc, unit=unit, dynamic_ncols=True) as bar:

        def progress(steps):
            for t in steps:
                yield t
                bar.update(sum(t < length for length in lengths))

        chains = bitsback.decode_chains(schedule, coder, conditional, lengths, progress)
    return chains, coder.to_words()


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


def verify(path, header, schedule, conditional, chains, initial, unit="image"):
    """Decode a file of bitstreams, compare everything that went into it and say so.

    The arguments are those of compress(). Raises UserError where one image or one initial word is not the same.
    """
    words = load_bitstreams(path, header)
    if len(words) != len(chains):
        raise UserError(f"{path} holds {len(words)} chains instead of {len(chains)}; compress again")
    remedy = "it is corrupt, or was written on another device or with another PyTorch or number of threads"
    began = time.perf_counter()
    try:
        decoded, left = decompress(schedule, conditional, words, [len(chain) for chain in chains], unit=unit)
    except (EmptyLaneError, ValueError) as error:
        raise UserError(f"{path} cannot be decoded ({error}): {remedy}") from None
    seconds = time.perf_counter() - began
    same = np.concatenate([(ours == chain).all((1, 2, 3)) for ours, chain in zip(decoded, chains, strict=True)])
    if not same.all():
        raise UserError(f"{path}: {(~same).sum():,} of {same.size:,} {unit}s decode to other pixels: {remedy}")
    if not all(np.array_equal(lane, start) for lane, start in zip(left, initial, strict=True)):
        raise UserError(f"{path}: the initial words are not what remains after decoding: {remedy}")
    print(f"decoded in {1e3 * seconds / same.size:.2f} ms per {unit} from {path}:")
    print(f"all {same.size:,} {unit}s and all initial words are identical")


def open_setup(dataset, args, path, model, identity):
    """The Setup of a checkpoint, as checkpoints.open_for() gives it, with bins that are made where there are none."""
    ranges = discretization.for_checkpoint(path, model, identity, dataset, args.quantbits, args.data, args.output)
    header = {"dataset": dataset, "quantbits": args.quantbits, "checkpoint": identity, "bins": ranges.identity}
    bins, folded = discretization.bins(model, ranges), fold_weight_norm(model)
    floats = Conditionals(FloatNetwork(folded), bins)
    if not args.exact:
        return Setup(folded, floats, None, header | {"exact": None})
    networks = make_exact.for_checkpoint(path, model, identity, dataset, args.data, args.output)
    return Setup(folded, Conditionals(networks, bins), floats, header | {"exact": networks.identity})


def schemes(args):
    """The schemes that the flags choose."""
    return tuple(NAMES) if args.compare else ("bitswap" if args.bitswap else "bbans",)


def run_schemes(setup, args, chains, what, header, keep, unit="image"):
    """Code chains with each scheme that the flags choose, write them, decode them from disk and compare.

    chains: as compress() takes them. what: they in words. header: what the bitstreams' header says of them.
    keep(scheme, result, floats): called for each scheme with its Result, once the bitstreams are written, and with
    that of the networks in floats, if they are exact, or None; not called with --verify-only.
    """
    model, conditional, *_ = setup
    dataset = setup.header["dataset"]
    initial = initial_words(len(chains), conditional, args.seed)
    torch.manual_seed(args.seed)
    for scheme in schemes(args):
        schedule = bitsback.SCHEDULES[scheme](model.nz)
        if args.whiten:
            schedule = bitsback.whitened(schedule)
        file = paths.bitstreams(dataset, model.nz, args.output) / f"{scheme}_{args.quantbits}bits.npz"
        whole = setup.header | {"scheme": scheme, "whiten": args.whiten, "seed": args.seed} | header
        print(f"\n{dataset}, nz={model.nz}, {NAMES[scheme]}: {what}")
        if not args.verify_only:
            result = compress(schedule, model, conditional, chains, initial, unit=unit)
            save_bitstreams(file, whole, result.words)
            floats = None
            if setup.floats is not None:
                floats = compress(schedule, model, setup.floats, chains, initial, desc="in floats", unit=unit)
            keep(scheme, result, floats)
        if not args.no_verify:
            verify(file, whole, schedule, conditional, chains, initial, unit)


def main(dataset, argv=None):
    """Entry point of a dataset's compression script."""
    cli.script(_main)(dataset, argv)


def _main(dataset, argv):
    args = parse(dataset, argv)
    path, model, identity = checkpoints.open_for(dataset, args)
    test = datasets.load(dataset, "test", args.data)
    chosen = test[datasets.sample_chains(len(test), args.experiments, args.ndatapoints, args.seed)]
    chains, count = chosen.shape[:2]
    setup = open_setup(dataset, args, path, model, identity)
    padding = np.prod(model.xs) / np.prod(test.shape[1:])  # padded dimensions to real ones
    rates = {}

    def keep(scheme, result, floats):
        for measure in MEASURES:
            name = f"{scheme}_{args.quantbits}bits_{measure}.npy"
            with paths.whole(paths.results(dataset, model.nz, args.output) / name) as array:
                np.save(array, getattr(result, measure))
        print(summary(result, padding))
        if floats is not None:
            print(f"net, in floats  {floats.nets.mean() * padding:.4f} bits/dim")
        rates[f"{NAMES[scheme]}, net"] = result.nets.mean() * padding
        rates[f"{NAMES[scheme]}, sent"] = result.cmas[:, -1].mean() * padding
        rates["ELBO"] = result.elbos.mean() * padding

    what, header = f"{chains} chains of {count} images", {"chains": chains, "images": count}
    run_schemes(setup, args, datasets.to_channels_first(chosen), what, header, keep)
    if args.compare and not args.verify_only:
        print(comparison(rates | conventional.measure(chosen)))


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
    return "\n".join([*lines, f"encoded in {1e3 * result.seconds / result.nets.size:.2f} ms per image"])


def comparison(rates, paper=None):
    """A table of rates {name: bits/dim}, the least first; with a column for those of them that the paper reports."""
    width = max(map(len, rates))
    lines = ["", f"{'':{width}}  bits/dim" + ("  paper" if paper else "")]
    for name, rate in sorted(rates.items(), key=lambda item: item[1]):
        lines.append(f"{name:{width}}  {rate:8.4f}" + (f"  {paper[name]:5.2f}" if paper and name in paper else ""))
    return "\n".join(lines)


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
    return add_and_parse(parser, argv)


def add_and_parse(parser, argv):
    """Add the arguments that all compression scripts end with, and parse."""
    exact = "compute with the networks' exact form, in integers: decodes on any machine (default: in floats)"
    parser.add_argument("--exact", action="store_true", help=exact)
    whiten = "whiten the bits that latents are popped with, which brings the rate to the ELBO; beyond the paper"
    parser.add_argument("--whiten", action="store_true", help=whiten)
    parser.add_argument("--no-verify", action="store_true", help="do not decode again")
    parser.add_argument("--verify-only", action="store_true", help="only decode what an earlier run wrote")
    parser.add_argument("--compare", action="store_true", help="both schemes, in a table with other compressors")
    checkpoints.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.verify_only and args.no_verify:
        parser.error("--verify-only and --no-verify exclude each other")
    return args
