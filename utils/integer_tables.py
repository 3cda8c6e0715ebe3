"""The non-linear functions of the model as tables of integers, made with decimal arithmetic.

Python's decimal module rounds exp and ln correctly, and the same on every machine, unlike the libm that floating-point
code goes through. Fixed-point numbers are integers that have `fraction` fraction bits.
"""

import functools
import math
from decimal import Decimal, localcontext

import torch

_LIMIT = 1 << 62  # stands for infinity


@functools.cache
def elu(fraction: int) -> torch.Tensor:
    """exp(x) - 1 at x = -k / 2^fraction, for k from 0 until it is rounded to -1: int64 [K], fixed-point.

    Powers of exp(-2^-fraction) in integers with 160 fraction bits. Their errors stay below 2^-130, so that the
    rounding to the nearest integer is correct.
    """
    one = 1 << 160
    with localcontext() as context:
        context.prec = 60
        ratio = int((Decimal(-1) / (1 << fraction)).exp() * one)
    table, power = [0], one
    while table[-1] > -(1 << fraction):
        power = power * ratio >> 160
        table.append(((power - one >> 159 - fraction) + 1) >> 1)
    return torch.tensor(table)


@functools.cache
def scale_thresholds(fraction: int, steps: int, least: int, count: int) -> dict[str, torch.Tensor]:
    """Where the model's functions from std to scale pass from one entry of a table of scales to the next.

    Entry s of the table, 0..count-1, is the scale 2^(s / steps + least). Returns {"posterior": ..., "latent": ...,
    "pixel": ...}: int64 [count - 1], of which number s - 1 is the least std, fixed-point, whose scale is nearer to
    entry s than to entry s - 1, in the logarithm. So a std has the entry that as many thresholds do not exceed.
    """
    with localcontext() as context:
        context.prec = 28  # 20 digits are left after the subtractions
        infinity, tenth = Decimal("Infinity"), Decimal("0.1")
        half_step = (Decimal(2).ln() / (2 * steps)).exp()
        midpoints = [half_step * Decimal(2) ** least]
        while len(midpoints) < count - 1:
            midpoints.append(midpoints[-1] * half_step * half_step)

        def sigmoid_inverse(p):
            return -infinity if p <= 0 else infinity if p >= 1 else (p / (1 - p)).ln()

        def softplus_inverse(v):
            return -infinity if v <= 0 else v if v > 50 else (v.exp() - 1).ln()  # e^-50 is nothing beside 50

        def table(std_of):
            fixed = (max(-_LIMIT, min(_LIMIT, std_of(scale) * (1 << fraction))) for scale in midpoints)
            return torch.tensor([math.ceil(std) for std in fixed])

        shift = (Decimal(1).exp() - 1).ln()
        return {  # the inverses of what Model.infer() and Model.generate() do to std
            "posterior": table(lambda scale: sigmoid_inverse((scale - tenth) / (9 * tenth)) - 2),
            "latent": table(lambda scale: softplus_inverse((scale - tenth) / (9 * tenth)) - shift),
            "pixel": table(lambda scale: softplus_inverse(scale - Decimal(2) / 255 / 8)),
        }
