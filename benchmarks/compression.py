"""Time coding beside the network alone."""

import contextlib
import time
from collections import Counter
from unittest import mock

import common
import numpy as np
import torch

from codec import bitsback, conditionals, experiment
from codec.logistic import Logistic, Uniform
from codec.rans import Rans, pop_symbol, push_intervals
from utils import cli
from utils.compiled import compiled

PARTS = ("network", "cdf", "rANS", "rest")
FORMS = ("float32", "bfloat16", "exact")
COLUMNS = ["model", "form", "scheme", "lanes", "threads", "clock", "forward ms"]
COLUMNS += [f"{what} {column}" for what in ("encode", "decode") for column in ("x", "ms", *PARTS)]

DESCRIPTION = """Time coding beside the network alone: full-size models with random weights, or the small trained ones
that ship, random images, in one run.

In turn, until --seconds for each form have passed, but twice at least: the bare forward passes in float32 that an
image needs (every infer and generate once, on one batch of all lanes), and with the networks in each form, float32,
bfloat16 and exact, encoding and decoding. The least of each counts. Times are in ms per image, "x" is a time over
that of the bare forward passes in float32. A time is split into the network, the cdf
(parameters to integers, integers to intervals, the search for an interval), rANS, and the rest (conversions,
copies, Python)."""


@torch.inference_mode()
def forward(network, x, z):
    """Every conditional of the model once: what coding an image cannot do without."""
    for i in range(network.nz):
        network.infer(i, z if i else x)
        network.generate(i, z)


@compiled
def pop_known(heads, words, counts, start, freq):
    """Pop symbols whose intervals are known: rANS's share of Logistic.pop()."""
    lanes, dims = start.shape
    for lane in range(lanes):
        for d in range(dims):
            pop_symbol(heads, words, counts, lane, start[lane, d], freq[lane, d])


class Stopwatch:
    """Times a call and the parts of it that are patched in: see splitting().

    spent: seconds by part, of the call so far; "aside" is what only the measurement takes.
    """

    def __init__(self, clock):
        self.clock = clock
        self.spent = Counter()

    def timed(self, part, function):
        """`function`, counting its time as that of a part."""

        def call(*args):
            began = self.clock()
            result = function(*args)
            self.spent[part] += self.clock() - began
            return result

        return call

    def coded(self, function, known):
        """Logistic's push() or pop(), which do two parts in one loop; rANS's is timed by doing it again."""

        def call(distribution, coder, *args):
            began = self.clock()
            again = Rans(coder.heads.copy(), coder.words.copy(), coder.counts.copy())
            middle = self.clock()
            popped = function(distribution, coder, *args)
            end = self.clock()
            intervals = distribution.interval(args[0] if popped is None else popped)
            again.reserve(intervals[0].shape[1])
            replay = self.clock()
            known(again.heads, again.words, again.counts, *intervals)
            rans = self.clock() - replay
            assert (again.heads == coder.heads).all()
            self.spent.update({"rANS": rans, "cdf": end - middle - rans})  # += would drop a part that came out as 0
            self.spent["aside"] += self.clock() - end + middle - began
            return popped

        return call

    @contextlib.contextmanager
    def splitting(self, network):
        """Inside this context, the parts of coding with a model are timed."""
        timed = {
            (network, "infer"): self.timed("network", network.infer),
            (network, "generate"): self.timed("network", network.generate),
            (conditionals, "quantize"): self.timed("cdf", conditionals.quantize),
            (Logistic, "push"): self.coded(Logistic.push, push_intervals),
            (Logistic, "pop"): self.coded(Logistic.pop, pop_known),
            (Uniform, "push"): self.timed("rANS", Uniform.push),
            (Uniform, "pop"): self.timed("rANS", Uniform.pop),
        }
        with contextlib.ExitStack() as patches:
            for (owner, name), function in timed.items():
                patches.enter_context(mock.patch.object(owner, name, function))
            yield

    def split(self, function, *args):
        """(seconds by part, what the function returned)."""
        self.spent = Counter()
        began = self.clock()
        result = function(*args)
        total = self.clock() - began - self.spent.pop("aside", 0)
        return dict(self.spent) | {"rest": total - self.spent.total()}, result


def measure(name, forms, scheme, lanes, images, seconds, clock):
    """The rows of a model at so many lanes, one for each form. forms: {name: the networks}, float32 among them."""
    network = forms["float32"]
    conditionals = {form: common.conditionals(networks) for form, networks in forms.items()}
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, lanes, *network.xs), np.uint8)
    x, z = torch.from_numpy(pixels[0]).float(), torch.randn(lanes, *network.zs)
    initial = experiment.initial_words(lanes, conditionals["float32"], 0)
    schedule = bitsback.SCHEDULES[scheme](network.nz)
    watch = Stopwatch(common.CLOCKS[clock])
    bare, splits, began = [], {form: {"encode": [], "decode": []} for form in forms}, time.perf_counter()
    while len(bare) < 2 or time.perf_counter() - began < seconds * len(forms):
        bare.append(sum(watch.split(forward, network, x, z)[0].values()))
        for form, conditional in conditionals.items():
            coder = Rans.from_words(initial)
            with watch.splitting(forms[form]):
                for t in range(images):
                    split, _ = watch.split(bitsback.encode, schedule, coder, conditional, pixels[t])
                    splits[form]["encode"].append(split)
                for t in reversed(range(images)):
                    split, decoded = watch.split(bitsback.decode, schedule, coder, conditional, lanes)
                    splits[form]["decode"].append(split)
                    assert (decoded == pixels[t]).all()
    for form in forms:
        row = [name, form, scheme, lanes, torch.get_num_threads(), clock, 1e3 * min(bare) / lanes]
        for split in splits[form].values():
            least = min(split, key=lambda parts: sum(parts.values()))
            total = sum(least.values())
            row += [total / min(bare), *(1e3 * part / lanes for part in (total, *(least[part] for part in PARTS)))]
        yield row


def all_rows(args):
    """The rows of the table."""
    for name in args.models:
        network = common.shipped(name) if args.shipped else common.unfolded(name)
        forms = {form: common.form(network, form) for form in args.forms}
        for lanes in args.lanes:
            yield from measure(name, forms, args.scheme, lanes, args.images, args.seconds, args.clock)


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "compression")
    common.add_clock(parser)
    parser.add_argument(
        "--models", choices=tuple(common.MODELS), nargs="+", default=["mnist2", "mnist8", "cifar8"], metavar="MODEL",
        help="models, by dataset and number of latent layers",
    )  # fmt: skip
    parser.add_argument("--shipped", action="store_true", help="the small trained models that ship")
    parser.add_argument("--lanes", type=cli.whole_number(1), nargs="+", default=[1, 10, 100], help="rows of each model")
    help = "of the networks; float32 is always among them"
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=list(FORMS), metavar="FORM", help=help)
    parser.add_argument("--scheme", choices=tuple(bitsback.SCHEDULES), default="bitswap", help="how to code")
    parser.add_argument("--images", type=cli.whole_number(1), default=1, help="images in each lane")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to go on measuring each row")
    args = parser.parse_args()
    if args.quick:
        args.models, args.lanes, args.seconds = ["mnist1"], [1, 2], 0.0
    args.forms = [form for form in FORMS if form in {"float32", *args.forms}]
    compiling = {"float32": common.model("mnist1")}  # what Numba has not compiled yet
    list(measure("mnist1", compiling, args.scheme, 1, 1, 0.0, args.clock))
    count = len(args.models) * len(args.lanes) * len(args.forms)
    common.report("compression", args.output, COLUMNS, all_rows(args), count)


if __name__ == "__main__":
    main()
