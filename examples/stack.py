"""Draw how the stack of bits grows and shrinks with Bit-Swap and with BB-ANS: python examples/stack.py

Compresses test digits of MNIST onto one lane with the trained model of 8 latent layers that ships, and draws the bits
on the lane after every pop and push. A pop decodes a latent from bits that are on the lane, so before the first image
there have to be some: the initial bits. The depth of the first dip is what they cost.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import discretization
from codec import bitsback, experiment
from codec.conditionals import Conditionals, FloatNetwork
from codec.rans import Rans
from model import checkpoints
from model.vae import for_inference
from utils import cli, datasets, figures, paths

NZ = 8
SCHEMES = {"Bit-Swap": bitsback.bitswap, "BB-ANS": bitsback.bbans}
COLOURS = {"pop": figures.VERMILLION, "push": figures.BLUE}


def trace(schedule, conditional, images):
    """Compress images [N, *xs] onto one lane. Returns the bits that each step adds to it, float64 [N, steps]."""
    coder = Rans.from_words(experiment.initial_words(1, conditional, seed=0))
    bits = [coder.bits()[0]]
    for image in images:
        symbols = {0: conditional.to_symbols(image[None])}
        for step in schedule:
            bitsback.run([step], coder, conditional, symbols, lanes=1)
            bits.append(coder.bits()[0])
    return np.diff(bits).reshape(len(images), len(schedule))


def draw(axes, name, schedule, added):
    """A bar for each step, from the bits on the lane before it to the bits after it. added: as trace() returns it."""
    steps, after = schedule * len(added), added.cumsum()
    for i, (step, change, end) in enumerate(zip(steps, added.flat, after, strict=True)):
        axes.bar(i, change, 0.8, bottom=end - change, color=COLOURS[step.action], label=step.action)
    for k in range(len(added)):
        axes.axvline(k * len(schedule) - 0.5, color=figures.GREY, linewidth=0.4)
    dip = after[: len(schedule)].min()
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axhline(dip, color=figures.GREY, linewidth=0.6, linestyle=":")
    axes.text(len(steps) - 0.6, dip, f"initial bits: {-dip:,.0f}", ha="right", va="bottom", fontsize=7)
    axes.set_title(f"{name}: {after[-1] / len(added):,.0f} bits for each digit", loc="left")
    axes.set_xticks(range(len(steps)), [f"z{step.variable}" if step.variable else "x" for step in steps], fontsize=4.5)
    axes.set_xlim(-0.7, len(steps) - 0.3)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("bits on the lane")


def show(axes, digits):
    """The digits, each below its steps."""
    for k, digit in enumerate(digits):
        picture = axes.inset_axes((k / len(digits), 0.05, 1 / len(digits), 0.45))
        picture.imshow(255 - digit[..., 0], cmap="gray")
        picture.axis("off")


@cli.script
def main():
    parser = cli.parser(__doc__)
    parser.add_argument("-o", "--output", default="stack.png", help="the PNG file to write")
    parser.add_argument("--digits", type=cli.whole_number(1), default=3, help="how many to compress")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    args = parser.parse_args()

    checkpoint = checkpoints.load(paths.pretrained("mnist", NZ), "mnist")
    bins = discretization.bins(checkpoint.model, discretization.find(checkpoint, quantbits=10))
    conditional = Conditionals(FloatNetwork(for_inference(checkpoint.model)), bins)
    digits = datasets.load("mnist", "test", args.data)[: args.digits]
    images = datasets.to_channels_first(digits)

    figure = figures.sheet(6.75, 4)
    for axes, (name, scheme) in zip(figure.subplots(2, 1, sharey=True), SCHEMES.items(), strict=True):
        schedule = scheme(NZ)
        draw(axes, name, schedule, trace(schedule, conditional, images))
    figure.axes[0].set_ylim(1.08 * figure.axes[0].get_ylim()[0])  # of both panels
    show(figure.axes[0], digits)
    figures.legend(figure)
    with paths.replacing(args.output) as file:
        figure.savefig(file, format="png", dpi=200)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
