"""Make the exact form of a checkpoint: its networks in integers (model.exact), without retraining.

A layer's fixed-point numbers are chosen so that float32 holds every sum (utils.torch.integers). How large the inputs
of a layer are is measured on some images of the training set.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli, datasets, paths


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(
        "Make the exact form of a checkpoint: its networks in integers, with the same outputs on every machine.\n\n"
        "Reads the checkpoint and, under --data, images of the training set, which show how large activations are,\n"
        "and of the test set, on which the rate (the negative ELBO) of both forms is compared.\n"
        "Writes CHECKPOINT.exact.npz next to CHECKPOINT.pt, or the file that --to names."
    )
    parser.add_argument("dataset", choices=sorted(datasets.NAMES), help="the dataset the checkpoint was trained on")
    cli.add_model_arguments(parser)
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--to", help="write here")
    parser.set_defaults(gpu=-1, output=paths.ROOT)
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments()  # before PyTorch is imported, so that --help and mistakes are answered at once

import torch
from torch import nn

from model import checkpoints
from model.checkpoints import Checkpoint
from model.exact import ARRAYS, VALUE_LIMIT, ExactModel, Fields, find, input_least, load, save, walk
from model.vae import Model, architecture, log_likelihoods
from utils.errors import UserError
from utils.fixed_point import FRACTION, LEAST_SCALE_LOG2, SCALES_PER_OCTAVE
from utils.torch import rand
from utils.torch.integers import EXACT, largest_sums
from utils.torch.modules import fold_weight_norm

MARGIN = 1.5  # activations are clamped at so many times the largest one in calibration
TOLERANCE = 0.003  # bits/dim: the most that single passes may cost
CALIBRATION, COMPARED = 64, 100  # images

Seen = dict[nn.Module, tuple[float, float]]  # {convolution: (peak, power) of its inputs}: see quantize()


def make(model: Model, pixels: torch.Tensor, checkpoint: str = "", two_passes: str | None = None) -> ExactModel:
    """Turn a trained model into integers: an ExactModel.

    pixels: uint8 [B, *xs], images that show how large activations are. checkpoint: the identity to record.
    two_passes: which layers have two passes, "heads" or "all"; by default "heads", or "all" if "heads" costs more than
    TOLERANCE bits/dim on these images.
    Raises UserError if the activations of the model are too large for its fixed-point numbers.
    """
    folded = fold_weight_norm(model).cpu()
    arguments = architecture(model.state_dict()) | {"xs": model.xs}
    seen: Seen = {}

    def note(convolution, inputs):
        seen[convolution] = inputs[0].abs().max().item(), inputs[0].square().mean().item()

    hooks = [m.register_forward_pre_hook(note) for m in folded.modules() if isinstance(m, nn.Conv2d)]
    rate = bits_per_dim(folded, pixels).mean()
    for hook in hooks:
        hook.remove()
    exact = ExactModel(quantize_all(folded, seen, two_passes or "heads", arguments, checkpoint))
    if two_passes is None and bits_per_dim(in_floats(exact), pixels).mean() - rate > TOLERANCE:
        exact = ExactModel(quantize_all(folded, seen, "all", arguments, checkpoint))
    return exact


def quantize_all(folded: Model, seen: Seen, two_passes: str, arguments: dict[str, Any], checkpoint: str) -> Fields:
    """The Fields of a folded model."""
    parts = []

    def visit(name, convolutions):
        weight, bias = (
            np.concatenate([getattr(convolution, part).double().numpy() for convolution in convolutions])
            for part in ("weight", "bias")
        )
        two = two_passes == "all" or name.endswith("head")
        parts.append(quantize(name, weight, bias, *seen[convolutions[0]], two))

    walk(folded, visit)
    weights, biases, exponents, inputs = zip(*parts, strict=True)
    std = np.zeros(0) if isinstance(folded.gen_std, nn.Module) else folded.gen_std.double().numpy()
    arrays = (
        np.concatenate([weight.ravel() for weight in weights]),
        np.concatenate(biases),
        np.concatenate(exponents),
        np.array(inputs),
        np.clip(np.rint(std * (1 << FRACTION)), -VALUE_LIMIT, VALUE_LIMIT),
    )
    typed = (array.astype(dtype) for array, dtype in zip(arrays, ARRAYS.values(), strict=True))
    return Fields(arguments, checkpoint, *typed)


def quantize(
    name: str, weight: np.ndarray, bias: np.ndarray, peak: float, power: float, two_passes: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Choose the fixed-point numbers of a layer with the smallest expected squared error that prove() accepts.

    The more bits the activations have, the fewer are left to the weights. weight: float64 [out, in, k, k].
    bias: float64 [out]. peak, power: the largest absolute value and the mean square of the layer's inputs.
    Returns (weight, bias, exponent, (unit, low, most)), integers as in Layer; exponent [out]: the fraction bits of the
    sums. Raises UserError if prove() accepts none.
    """
    if name == "infer0.in":  # the levels, which are integers already
        weight, power, choices = weight / 255, power * 255**2, [(0, 255)]
    else:
        choices = [(unit, math.ceil(max(1, MARGIN * peak) * 2**unit)) for unit in range(20)]
    largest = np.abs(weight).max((1, 2, 3))
    best = None
    for (unit, most), low in itertools.product(choices, range(1, 24) if two_passes else [0]):
        limits = low, input_least(name, unit, most), most
        sums = largest_sums(weight, bias * 2.0 ** (unit - low), *limits)
        room = EXACT - 1 - largest_sums(np.full_like(weight[:1], 0.5), 0.5, *limits)  # the rest is for rounding
        if room <= 0:
            continue
        # The largest powers of two that leave the sums in float32's range, and the weights in int16's.
        exponent = np.frexp(np.minimum(room / (sums + 1e-12), 32767 / (largest + 1e-12)))[1] - 1
        error = (weight**2).sum() * 4.0**-unit + weight[0].size * power * (4.0**-exponent).sum()
        if best is None or error < best[0]:
            best = error, unit, low, most, exponent
    if best is None:
        raise UserError(f"{name}: activations of up to {peak:.3g} are too large for the integers of float32")
    _, unit, low, most, exponent = best
    weight, bias = weight * 2.0 ** exponent[:, None, None, None], bias * 2.0 ** (unit - low + exponent)
    return np.rint(weight), np.rint(bias), unit - low + exponent, (unit, low, most)


def in_floats(exact: ExactModel) -> SimpleNamespace:
    """The exact form of a model as log_likelihoods() requires it: latents, mu and scale are float32."""

    def floats(parameters):
        mu, number = parameters
        scale = torch.exp2(number / SCALES_PER_OCTAVE + LEAST_SCALE_LOG2).float()
        return (mu.double() / 2**FRACTION).float(), scale

    def fixed(given):
        return (given * 2**FRACTION).round().to(torch.int64)

    return SimpleNamespace(
        nz=exact.nz,
        to_levels=exact.to_levels,
        infer=lambda i, given: floats(exact.infer(i, given if i == 0 else fixed(given))),
        generate=lambda i, given: floats(exact.generate(i, fixed(given))),
    )


@torch.no_grad()
def bits_per_dim(model: Any, pixels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The negative evidence lower bound of images uint8 [B, *xs], float32 [B], at one sample of every latent.

    model: a Model, or in_floats() of an ExactModel. Both use the same uniform variates for the same seed.
    """

    def sample(mu, scale):
        uniform = torch.rand(mu.shape, device=mu.device)  # rand_like() depends on how mu lies in memory
        return (rand.sample(mu, scale, uniform) * 2**FRACTION).round() / 2**FRACTION

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        logrecon, logdec, logenc = log_likelihoods(model, pixels, sample)
    return -(logrecon + (logdec - logenc).sum((0, 2))) / pixels[0].numel()


def for_checkpoint(checkpoint: Checkpoint, data: str | Path | None = None) -> ExactModel:
    """The exact form that find() finds, or a new one, which is kept in OUTPUT/bins.

    data: the folder of the datasets; a new one requires images of the training set.
    Raises UserError if it cannot be made.
    """
    if exact := find(checkpoint):
        return exact
    kept = checkpoint.exact_files()[-1]
    paths.check_folder_writable(kept.parent)
    try:
        pixels = sample_images(checkpoint.dataset, "train", data, CALIBRATION)
    except UserError as error:
        raise UserError(f"{checkpoint.path} has no exact form, and making it requires images: {error}") from None
    save(kept, make(checkpoint.model, pixels, checkpoint.identity))
    return load(kept, next(checkpoint.model.parameters()).device)


def sample_images(dataset: str, split: str, data: str | Path | None, count: int) -> torch.Tensor:
    """Images drawn from a dataset, the same in every run, in the layout of the models: uint8 [count, *xs]."""
    images = datasets.load(dataset, split, data)
    chosen = np.random.default_rng(0).choice(len(images), min(count, len(images)), replace=False)
    return torch.from_numpy(datasets.to_channels_first(images[np.sort(chosen)]))


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Make the exact form, write it, and compare the rates of both forms."""
    args = arguments(argv)
    checkpoint = checkpoints.open_for(args.dataset, args)
    to = Path(args.to or checkpoint.exact_files()[0])
    paths.check_writable(to)
    pixels = sample_images(args.dataset, "train", args.data, CALIBRATION)
    exact = make(checkpoint.model, pixels, checkpoint.identity)
    save(to, exact)
    pixels = sample_images(args.dataset, "test", args.data, COMPARED)
    forms = {"float": fold_weight_norm(checkpoint.model), "exact": in_floats(exact)}
    factor = datasets.padding(args.dataset)
    rates = [f"{name} {factor * bits_per_dim(form, pixels).mean():.5f}" for name, form in forms.items()]
    print(f"negative ELBO on {cli.counted(len(pixels), 'test image')}, bits/dim: {', '.join(rates)}")
    print(f"two passes in {np.count_nonzero(exact.fields.inputs[:, 1])} of {len(exact.fields.inputs)} layers")
    print(f"wrote {to}, {to.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
