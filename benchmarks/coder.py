"""Time the entropy coder alone, next to another ANS coder."""

import common
import numpy as np
import torch

from codec.logistic import Logistic
from codec.rans import Rans
from utils import cli
from utils.fixed_point import UniformBins, quantize

COLUMNS = ["coder", "model", "lanes", "encode Msymbols/s", "decode Msymbols/s", "bits/symbol", "exact bits/symbol"]
BINS, LIMIT = 1024, 12.0  # bins between -LIMIT and LIMIT
WIDTH = 2 * LIMIT / BINS

DESCRIPTION = """Time the entropy coder alone on one thread, from parameters as floats to words and back.

Each symbol is one of 1024 bins from -12 to 12. It is drawn from the distribution that it is coded with, whose mean and
scale are its own, as with the outputs of a network. If constriction is installed (pip install constriction; Bamler
2022, arXiv 2201.01741), its ANS coder is timed too. It codes one stream and has no logistic, so it codes symbols of a
Laplace and of a Gaussian distribution. All are timed in turn, --repeats times; the fastest counts. "exact bits/symbol"
is the information content of the symbols under the distribution in real numbers."""


def parameters(lanes, dims):
    """Means and scales in the range of a network's: float64 [lanes, dims]."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (lanes, dims)), np.exp(rng.uniform(np.log(0.1), np.log(1.0), (lanes, dims)))


def draw(distribution, mu, scale):
    """Symbols, int64, of a distribution that NumPy's Generator has by that name."""
    values = getattr(np.random.default_rng(1), distribution)(mu, scale)
    return np.clip(np.floor((values + LIMIT) / WIDTH), 0, BINS - 1).astype(np.int64)


def cdf(distribution, z):
    """The cdf at location 0 and scale 1, float64, with all digits if z is negative."""
    z = torch.from_numpy(z)
    if distribution == "laplace":
        return torch.where(z < 0, z.clamp(max=0).exp() / 2, 1 - (-z.clamp(min=0)).exp() / 2).numpy()
    return {"logistic": torch.sigmoid, "normal": torch.special.ndtr}[distribution](z).numpy()


def information(distribution, symbols, mu, scale):
    """Information content, bits per symbol. The first and the last bin reach to infinity."""
    lower = np.where(symbols == 0, -np.inf, (symbols * WIDTH - LIMIT - mu) / scale)
    upper = np.where(symbols == BINS - 1, np.inf, ((symbols + 1) * WIDTH - LIMIT - mu) / scale)
    flip = lower + upper > 0  # to the side where the cdf has all digits
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    return -np.log2(cdf(distribution, upper) - cdf(distribution, lower)).mean()


class Ours:
    """The coder of this repository."""

    coder, model, distribution = "ours", "logistic", "logistic"

    def __init__(self, lanes, dims):
        self.lanes = lanes
        self.mu, self.scale = parameters(lanes, dims)
        self.bins = UniformBins.between(np.full(dims, -LIMIT), np.full(dims, LIMIT), BINS)
        self.symbols = draw(self.distribution, self.mu, self.scale)
        self.initial = np.random.default_rng(2).integers(1, 1 << 32, (lanes, 2), dtype=np.uint32)

    def reset(self):
        self.stacks = Rans.from_words(self.initial)

    def encode(self):
        Logistic(*quantize(self.mu, self.scale), self.bins).push(self.stacks, self.symbols)

    def decode(self):
        return Logistic(*quantize(self.mu, self.scale), self.bins).pop(self.stacks, *self.mu.shape)

    def bits(self):
        """The bits that encode() has added to the stacks."""
        return (self.stacks.bits() - Rans.from_words(self.initial).bits()).sum()


class Theirs:
    """The coder of constriction, with parameters in units of bins."""

    coder, lanes = "constriction", 1

    def __init__(self, distribution, count):
        from constriction import stream

        self.distribution = distribution
        self.model, family = {
            "laplace": ("Laplace", stream.model.QuantizedLaplace),
            "normal": ("Gaussian", stream.model.QuantizedGaussian),
        }[distribution]
        self.mu, self.scale = (part.ravel() for part in parameters(1, count))
        self.symbols = draw(distribution, self.mu, self.scale)
        self.stack, self.family = stream.stack.AnsCoder, family(0, BINS - 1)
        self.arguments = (self.mu + LIMIT) / WIDTH - 0.5, self.scale / WIDTH
        self.message = self.symbols.astype(np.int32)

    def reset(self):
        self.stacks = self.stack()

    def encode(self):
        self.stacks.encode_reverse(self.message, self.family, *self.arguments)

    def decode(self):
        return self.stacks.decode(self.family, *self.arguments)

    def bits(self):
        return self.stacks.num_valid_bits()


def measure(contestants, repeats, clock):
    """The rows of the table."""
    best = [{"encode": np.inf, "decode": np.inf} for _ in contestants]
    bits = [0.0] * len(contestants)
    for _ in range(repeats):
        for i, contestant in enumerate(contestants):
            contestant.reset()
            for what in ("encode", "decode"):
                began = clock()
                result = getattr(contestant, what)()
                best[i][what] = min(best[i][what], clock() - began)
                if what == "encode":
                    bits[i] = contestant.bits()
            assert np.array_equal(result, contestant.symbols)
    for contestant, seconds, size in zip(contestants, best, bits, strict=True):
        count = contestant.symbols.size
        exact = information(contestant.distribution, contestant.symbols, contestant.mu, contestant.scale)
        speeds = [count / seconds[what] / 1e6 for what in ("encode", "decode")]
        yield [contestant.coder, contestant.model, contestant.lanes, *speeds, float(size / count), float(exact)]


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "coder")
    common.add_clock(parser)
    parser.add_argument("--lanes", type=cli.whole_number(1), nargs="+", default=[1, 10, 100, 1000], help="rows of ours")
    parser.add_argument("--symbols", type=cli.whole_number(1), default=100_000, help="number in all lanes together")
    parser.add_argument("--repeats", type=cli.whole_number(1), default=50, help="how often to time each coder")
    args = parser.parse_args()
    if args.quick:
        args.lanes, args.symbols, args.repeats = [1, 10], 1000, 2
    contestants = [Ours(lanes, max(1, args.symbols // lanes)) for lanes in args.lanes]
    try:
        contestants += [Theirs(distribution, args.symbols) for distribution in ("laplace", "normal")]
    except ImportError:
        print("constriction is not installed (pip install constriction): timing this repository's coder alone")
    rows = measure(contestants, args.repeats, common.CLOCKS[args.clock])
    common.report("coder", args.output, COLUMNS, rows, len(contestants))


if __name__ == "__main__":
    main()
