"""Time compression next to the network alone."""

import functools
import time
from collections import Counter

import common
import numpy as np
import torch

from codec import bitsback, experiment
from codec.conditionals import Conditionals, FloatNetwork
from codec.rans import Rans
from model.exact import ExactModel
from utils import cli

PARTS = ("network", "coder", "rest")
COLUMNS = ["model", "form", "scheme", "lanes", "threads", "clock", "forward ms"]
COLUMNS += [f"{what} {column}" for what in ("encode", "decode") for column in ("x", "ms", *PARTS)]

DESCRIPTION = """Time compression next to the network alone, of full-size models with random weights on random images.

"forward": the bare network in float32, every infer() and generate() once, on one batch of all lanes. "encode" and
"decode": compression with the networks in each form, float32, bfloat16 or exact (integers). Times are in ms per image,
"x" is a time divided by that of the bare network. "network", "coder" and "rest" are the parts of a time: the network;
push and pop of the distributions; conversions, copies and Python.

All of this is timed in turn until --seconds for each form have passed, at least twice. The fastest of each counts."""


class Stopwatch:
    """The seconds that calls have spent in each part, in `spent`."""

    def __init__(self, clock):
        self.clock, self.spent = clock, Counter()

    def timed(self, part, function):
        """The function, with its time added to a part."""

        @functools.wraps(function)
        def call(*args):
            began = self.clock()
            result = function(*args)
            self.spent[part] += self.clock() - began
            return result

        return call

    def split(self, function, *args):
        """Call a function. Returns (its seconds by part, its result)."""
        self.spent = Counter()
        began = self.clock()
        result = function(*args)
        total = self.clock() - began
        return dict(self.spent) | {"rest": total - self.spent.total()}, result


class Timed:
    """An object whose methods, those that are named, add their time to a part. It is the object in all else."""

    def __init__(self, watch, part, inner, *methods):
        self._inner = inner
        for name in methods:
            setattr(self, name, watch.timed(part, getattr(inner, name)))

    def __getattr__(self, name):
        return getattr(self._inner, name)


class TimedVariables(Conditionals):
    """Conditionals of a form of a model, with the network and the distributions timed."""

    def __init__(self, watch, model):
        self.watch = watch
        network = Timed(watch, "network", model, "infer", "generate")
        super().__init__(network if isinstance(model, ExactModel) else FloatNetwork(network), common.bins(model))

    def __call__(self, variable, given, symbols):
        return Timed(self.watch, "coder", super().__call__(variable, given, symbols), "push", "pop")


@torch.inference_mode()
def forward(model, x, z):
    """Every conditional of the model once. Compressing an image cannot do with less."""
    for i in range(model.nz):
        model.infer(i, z if i else x)
        model.generate(i, z)


def measure(name, forms, scheme, lanes, images, seconds, clock):
    """The rows of a model, one for each form. forms: {name: model in that form}, float32 among them."""
    watch = Stopwatch(common.CLOCKS[clock])
    model = forms["float32"]
    variables = {form: TimedVariables(watch, each) for form, each in forms.items()}
    pixels = np.random.default_rng(0).integers(0, 256, (images, lanes, *model.xs), np.uint8)
    x, z = torch.from_numpy(pixels[0]).float(), torch.randn(lanes, *model.zs)
    initial = experiment.initial_words(lanes, variables["float32"], 0)
    schedule = bitsback.SCHEDULES[scheme](model.nz)
    bare, splits, began = [], {form: {"encode": [], "decode": []} for form in forms}, time.perf_counter()
    while len(bare) < 2 or time.perf_counter() - began < seconds * len(forms):
        bare.append(sum(watch.split(forward, model, x, z)[0].values()))
        for form, conditional in variables.items():
            coder = Rans.from_words(initial)
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
            fastest = min(split, key=lambda parts: sum(parts.values()))
            total = sum(fastest.values())
            row += [total / min(bare), *(1e3 * part / lanes for part in (total, *(fastest[part] for part in PARTS)))]
        yield row


def all_rows(args):
    """The rows of the table."""
    for name in args.models:
        model = common.shipped_model(name) if args.shipped else common.random_model(name)
        forms = {form: common.form(model, form) for form in args.forms}
        for lanes in args.lanes:
            yield from measure(name, forms, args.scheme, lanes, args.images, args.seconds, args.clock)


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "compression")
    common.add_clock(parser)
    common.add_models(parser, ["mnist2", "mnist8", "cifar8"])
    parser.add_argument("--shipped", action="store_true", help="the small trained models in place of full-size ones")
    parser.add_argument("--lanes", type=cli.whole_number(1), nargs="+", default=[1, 10, 100], help="rows of each model")
    forms = "of the networks; float32 is always one of them"
    parser.add_argument("--forms", choices=common.FORMS, nargs="+", default=common.FORMS, metavar="FORM", help=forms)
    parser.add_argument("--scheme", choices=tuple(bitsback.SCHEDULES), default="bitswap", help="Bit-Swap or BB-ANS")
    parser.add_argument("--images", type=cli.whole_number(1), default=1, help="images in each lane")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each row")
    args = parser.parse_args()
    if args.quick:
        args.models, args.lanes, args.seconds = ["mnist1"], [1, 2], 0.0
    args.forms = [form for form in common.FORMS if form in {"float32", *args.forms}]
    compiling = {"float32": common.form(common.random_model("mnist1"), "float32")}  # Numba compiles at the first call
    list(measure("mnist1", compiling, args.scheme, 1, 1, 0.0, args.clock))
    count = len(args.models) * len(args.lanes) * len(args.forms)
    common.report("compression", args.output, COLUMNS, all_rows(args), count)


if __name__ == "__main__":
    main()
