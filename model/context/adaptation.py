"""Adapting the heads of the context network to the image that is being coded.

After every EVERY pixels, encoder and decoder take the same step of Adam (Kingma, Ba 2015) on the code length of those
pixels. Only the weights of the heads change. The gradients are sums, one pixel after the other, in the fixed arithmetic
of model.context.arithmetic. What they add is kept until the step, where they are a few matrix products.
"""

from typing import NamedTuple

import numpy as np

from model.context.arithmetic import flush
from model.context.mixture import mixture_gradient
from model.context.network import Scratch
from model.context.products import make_product
from model.context.weights import HEAD, KNOWN, OUTPUTS, TRUNK, WIDTH, Weights
from utils.compiled import compiled

ADAPTED = ("head_in", "head_seen", "head_bias", "head_out", "head_out_bias")
EVERY = 128  # pixels between two steps
RATE = np.float32(3e-4)
WARM_UP = np.float32(16)  # steps over which the rate rises to RATE, because the first gradients say little
_DECAYS = np.float32(0.9), np.float32(0.999)  # of the averages of the gradients and of their squares
_EPSILON = np.float32(1e-4)
_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY = np.float32(1e-30)  # averages below this become 0
_INPUTS = TRUNK + KNOWN + 1  # of the heads' first layer: the trunk's output, the known colours, and 1 for the bias

_add_wide, _add_head, _add_outputs = make_product(WIDTH), make_product(HEAD), make_product(OUTPUTS)


class Adaptation(NamedTuple):
    """The weights of a strip of pixels, and what their adaptation reads and writes. All but `pixels` is float32."""

    weights: Weights  # those of the network, the heads' as views of flat[0]
    gradients: Weights  # for the heads, views of flat[1]
    flat: np.ndarray  # [4, N]: weights that adapt, their gradients, the averages of the gradients and of their squares
    first: np.ndarray  # [_INPUTS, WIDTH]: the gradients of head_in, head_seen and head_bias, a view of flat[1]
    powers: np.ndarray  # [3]: of the decays, to the number of steps; that number, up to WARM_UP
    inputs: np.ndarray  # [_INPUTS, EVERY]: of the first layer, one column a pixel
    head: np.ndarray  # [3, HEAD, EVERY]: the heads' hidden units
    outputs: np.ndarray  # [3, EVERY, OUTPUTS]: the gradients with respect to the heads' outputs
    heads: np.ndarray  # [EVERY, WIDTH]: with respect to the heads' hidden units before ReLU
    by_hidden: np.ndarray  # [EVERY, HEAD]: with respect to those of one head after ReLU
    transposed: np.ndarray  # [OUTPUTS, HEAD]: head_out of one head with its dimensions exchanged
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

    shapes = (_INPUTS, EVERY), (3, HEAD, EVERY), (3, EVERY, OUTPUTS), (EVERY, WIDTH), (EVERY, HEAD), (OUTPUTS, HEAD)
    first = flat[1, : _INPUTS * WIDTH].reshape(_INPUTS, WIDTH)
    kept = [np.zeros(shape, np.float32) for shape in shapes]
    powers, pixels = np.array([1, 1, 0], np.float32), np.zeros(1, np.int64)
    a = Adaptation._make([split(flat[0]), split(flat[1]), flat, first, powers, *kept, pixels])
    a.inputs[-1] = _ONE
    return a


@compiled
def add_colour_gradient(c: int, x: int, spread: np.float32, s: Scratch, a: Adaptation) -> None:
    """Keep the gradient of the code length of grey level x of colour c, right after network.run_head(i, c, ...)."""
    mixture_gradient(c, x, spread, s, a.outputs[c, a.pixels[0]])
    for j in range(HEAD):
        a.head[c, j, a.pixels[0]] = s.head[0, j]


@compiled
def adapt_after_pixel(i: int, s: Scratch, a: Adaptation) -> None:
    """Keep what pixel i of the block contributes, once its colours are known; step after every EVERY pixels."""
    pixel = a.pixels[0]
    for j in range(TRUNK):
        a.inputs[j, pixel] = s.hidden[i, j]
    for j in range(KNOWN):
        a.inputs[TRUNK + j, pixel] = s.known[j]
    a.pixels[0] = (pixel + 1) % EVERY
    if a.pixels[0] == 0:
        sum_gradients(a)
        take_adam_step(EVERY, a)


@compiled
def sum_gradients(a: Adaptation) -> None:
    """Add the gradients of the last EVERY pixels."""
    for c in range(3):
        for j in range(HEAD):
            for k in range(OUTPUTS):
                a.transposed[k, j] = a.weights.head_out[c, j, k]
        a.by_hidden[:] = _ZERO
        _add_head(a.by_hidden, a.outputs[c], a.transposed)
        _add_outputs(a.gradients.head_out[c], a.head[c], a.outputs[c])
        for pixel in range(EVERY):
            for j in range(HEAD):
                a.heads[pixel, c * HEAD + j] = a.by_hidden[pixel, j] if a.head[c, j, pixel] > _ZERO else _ZERO
            for k in range(OUTPUTS):
                a.gradients.head_out_bias[c, k] += a.outputs[c, pixel, k]
    _add_wide(a.first, a.inputs, a.heads)
    for j in range(1, KNOWN):  # no head sees its own colour, or a later one
        a.first[TRUNK + j, : (j + 1) // 2 * HEAD] = _ZERO


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
        mean = _DECAYS[0] * first[i] + (_ONE - _DECAYS[0]) * g
        square = _DECAYS[1] * second[i] + (_ONE - _DECAYS[1]) * (g * g)
        first[i], second[i] = flush(mean, _TINY), flush(square, _TINY)
        values[i] -= rate * (first[i] * first_scale) / (np.sqrt(second[i] * second_scale) + _EPSILON)
