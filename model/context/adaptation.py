"""Adapting the heads of the context network to the image that is being coded.

After every EVERY pixels, encoder and decoder take the same step of Adam (Kingma, Ba 2015) on the code length of those
pixels. Only the weights of the heads change. The gradients are written out here, in the fixed arithmetic of the network
(model.context.arithmetic).
"""

from typing import NamedTuple

import numpy as np

from model.context.mixture import mixture_gradient
from model.context.network import Scratch
from model.context.weights import HEAD, HIDDEN, OUTPUTS, WIDTH, Weights
from utils.compiled import compiled

ADAPTED = ("head_in", "head_seen", "head_bias", "head_out", "head_out_bias")
EVERY = 128  # pixels between two steps
RATE = np.float32(1e-3)
WARM_UP = np.float32(64)  # steps over which the rate rises to RATE, because the first gradients say little
_DECAYS = np.float32(0.9), np.float32(0.999)  # of the averages of the gradients and of their squares
_EPSILON = np.float32(1e-4)
_ZERO, _ONE = np.float32(0), np.float32(1)


class Adaptation(NamedTuple):
    """The weights of a strip of pixels, and what their adaptation reads and writes. All but `pixels` is float32."""

    weights: Weights  # those of the network, the heads' as views of flat[0]
    gradients: Weights  # for the heads, views of flat[1]
    flat: np.ndarray  # [4, N]: weights that adapt, their gradients, the averages of the gradients and of their squares
    powers: np.ndarray  # [3]: of the decays, to the number of steps; that number, up to WARM_UP
    transposed: np.ndarray  # [3, OUTPUTS, HEAD]: head_out with its last two dimensions exchanged
    outputs: np.ndarray  # [OUTPUTS]: the gradient with respect to a head's outputs
    heads: np.ndarray  # [WIDTH]: with respect to the heads' hidden units before ReLU
    pixels: np.ndarray  # int64 [1]: pixels since the last step


def start_adaptation(weights: Weights) -> Adaptation:
    """An Adaptation that starts from these weights, which stay as they are."""
    heads = {name: getattr(weights, name) for name in ADAPTED}
    ends = np.cumsum([head.size for head in heads.values()])
    flat = np.zeros((4, ends[-1]), np.float32)
    flat[0] = np.concatenate([head.ravel() for head in heads.values()])

    def split(array):
        parts = zip(heads.items(), np.split(array, ends[:-1]), strict=True)
        return weights._replace(**{name: part.reshape(head.shape) for (name, head), part in parts})

    a = Adaptation(
        split(flat[0]), split(flat[1]), flat, np.array([1, 1, 0], np.float32),
        np.zeros((3, OUTPUTS, HEAD), np.float32), np.zeros(OUTPUTS, np.float32), np.zeros(WIDTH, np.float32),
        np.zeros(1, np.int64),
    )  # fmt: skip
    _transpose(a.weights.head_out, a.transposed)
    return a


@compiled
def _transpose(head_out, transposed):
    for c in range(3):
        for j in range(HEAD):
            for k in range(OUTPUTS):
                transposed[c, k, j] = head_out[c, j, k]


@compiled
def add_colour_gradient(c: int, x: int, spread: np.float32, s: Scratch, a: Adaptation) -> None:
    """Add the gradient of the code length of grey level x of colour c, right after network.run_head(c, ...)."""
    mixture_gradient(c, x, spread, s, a.outputs)
    hidden, by_hidden, gradients = s.head[0], a.heads[c * HEAD : (c + 1) * HEAD], a.gradients
    for k in range(OUTPUTS):
        gradients.head_out_bias[c, k] += a.outputs[k]
    for j in range(HEAD):
        h = hidden[j]
        for k in range(OUTPUTS):
            gradients.head_out[c, j, k] += h * a.outputs[k]
    by_hidden[:] = _ZERO
    for k in range(OUTPUTS):
        g = a.outputs[k]
        for j in range(HEAD):
            by_hidden[j] += g * a.transposed[c, k, j]
    for j in range(HEAD):
        by_hidden[j] = by_hidden[j] if hidden[j] > _ZERO else _ZERO
    for i in range(c):
        r = s.residuals[i]
        for j in range(HEAD):
            gradients.head_seen[i, c * HEAD + j] += r * by_hidden[j]


@compiled
def adapt_after_pixel(i: int, s: Scratch, a: Adaptation) -> None:
    """Add the gradients of the heads' first layer, once a pixel's colours are known; step after every EVERY pixels."""
    for k in range(WIDTH):
        a.gradients.head_bias[k] += a.heads[k]
    for j in range(HIDDEN):
        h = s.hidden[i, j]
        if h != _ZERO:
            for k in range(WIDTH):
                a.gradients.head_in[j, k] += h * a.heads[k]
    a.pixels[0] += 1
    if a.pixels[0] == EVERY:
        a.pixels[0] = 0
        take_adam_step(EVERY, a)


@compiled
def take_adam_step(count: int, a: Adaptation) -> None:
    """One step of Adam with the gradients of `count` pixels, which are then set to zero."""
    a.powers[0] *= _DECAYS[0]
    a.powers[1] *= _DECAYS[1]
    a.powers[2] = min(a.powers[2] + _ONE, WARM_UP)
    rate = RATE * (a.powers[2] / WARM_UP)
    scale = _ONE / np.float32(count)
    first_scale, second_scale = _ONE / (_ONE - a.powers[0]), _ONE / (_ONE - a.powers[1])
    values, gradients, first, second = a.flat[0], a.flat[1], a.flat[2], a.flat[3]
    for i in range(len(values)):
        g = gradients[i] * scale
        gradients[i] = _ZERO
        first[i] = _DECAYS[0] * first[i] + (_ONE - _DECAYS[0]) * g
        second[i] = _DECAYS[1] * second[i] + (_ONE - _DECAYS[1]) * (g * g)
        values[i] -= rate * (first[i] * first_scale) / (np.sqrt(second[i] * second_scale) + _EPSILON)
    _transpose(a.weights.head_out, a.transposed)
