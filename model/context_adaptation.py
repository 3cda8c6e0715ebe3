"""Adapting the heads of the context network (model.context) to the image that is being coded.

Encoder and decoder do the same after every so many pixels: one step of Adam (Kingma, Ba 2015) on those pixels' code
length, for the weights of the heads. The gradients are written out here, in the same fixed arithmetic as the network:
float32 + - * / and square roots, which IEEE 754 rounds in one way only, in a fixed order.
"""

from typing import NamedTuple

import numpy as np

from model import context
from model.context import HEAD, HIDDEN, OUTPUTS, WIDTH, Scratch, Weights
from model.context_mixture import Mixture, gradient
from utils.compiled import compiled

ADAPTED = ("head_in", "head_seen", "head_bias", "head_out", "head_out_bias")
EVERY = 128  # pixels between two steps
RATE = np.float32(1e-3)
WARM_UP = np.float32(64)  # steps over which the rate rises to this, as the first gradients say little
_DECAYS = np.float32(0.9), np.float32(0.999)  # of the averages of the gradients and of their squares
_EPSILON = np.float32(1e-4)
_ZERO, _ONE = np.float32(0), np.float32(1)


class Adaptation(NamedTuple):
    """What the adaptation reads and writes, float32."""

    weights: np.ndarray  # [N]: those that adapt, one array after the other
    gradients: np.ndarray  # [N]
    first: np.ndarray  # [N]: the average of the gradients
    second: np.ndarray  # [N]: of their squares
    powers: np.ndarray  # [3]: of the decays, to the number of steps; that number, up to WARM_UP
    turned: np.ndarray  # [3, OUTPUTS, HEAD]: head_out, its last dimensions exchanged
    outputs: np.ndarray  # [OUTPUTS]: the gradient by a head's outputs
    heads: np.ndarray  # [WIDTH]: by the heads' hidden units before ReLU


def begin(weights: Weights) -> tuple[Weights, Weights, Adaptation]:
    """(Weights that adapt, Weights of their gradients, Adaptation) from Weights, which are left as they are."""
    flat = np.concatenate([getattr(weights, name).ravel() for name in ADAPTED])
    gradients = np.zeros_like(flat)
    adaptation = Adaptation(
        flat, gradients, np.zeros_like(flat), np.zeros_like(flat), np.array([1, 1, 0], np.float32),
        np.zeros((3, OUTPUTS, HEAD), np.float32), np.zeros(OUTPUTS, np.float32), np.zeros(WIDTH, np.float32),
    )  # fmt: skip
    views: dict[str, np.ndarray] = {}
    by_weights: dict[str, np.ndarray] = {}
    start = 0
    for name in ADAPTED:
        shape = getattr(context.SHAPES, name)
        end = start + int(np.prod(shape))
        views[name], by_weights[name] = flat[start:end].reshape(shape), gradients[start:end].reshape(shape)
        start = end
    adapted = weights._replace(**views)
    turn(adapted.head_out, adaptation.turned)
    return adapted, adapted._replace(**by_weights), adaptation


@compiled
def turn(head_out: np.ndarray, turned: np.ndarray) -> None:
    """Exchange the last two dimensions."""
    for c in range(3):
        for j in range(HEAD):
            for k in range(OUTPUTS):
                turned[c, k, j] = head_out[c, j, k]


@compiled
def learn(
    c: int, x: int, spread: np.float32, s: Scratch, m: Mixture, table: np.ndarray, gradients: Weights, a: Adaptation
) -> None:
    """Add the gradient of the code length of colour c, of grey level x, once model.context.head() has run for it."""
    gradient(c, x, spread, s, m, table, a.outputs)
    hidden, by_hidden = s.head, a.heads[c * HEAD : (c + 1) * HEAD]
    for k in range(OUTPUTS):
        gradients.head_out_bias[c, k] += a.outputs[k]
    for j in range(HEAD):
        h = hidden[j]
        for k in range(OUTPUTS):
            gradients.head_out[c, j, k] += h * a.outputs[k]
    for j in range(HEAD):
        by_hidden[j] = _ZERO
    for k in range(OUTPUTS):
        g = a.outputs[k]
        for j in range(HEAD):
            by_hidden[j] += g * a.turned[c, k, j]
    for j in range(HEAD):
        by_hidden[j] = by_hidden[j] if hidden[j] > _ZERO else _ZERO
    for i in range(c):
        r = s.residuals[i]
        for j in range(HEAD):
            gradients.head_seen[i, c * HEAD + j] += r * by_hidden[j]


@compiled
def learn_inputs(s: Scratch, gradients: Weights, a: Adaptation) -> None:
    """Add what a pixel's colours, all together, contribute to the gradients of the heads' first layer."""
    for k in range(WIDTH):
        gradients.head_bias[k] += a.heads[k]
    for j in range(HIDDEN):
        h = s.hidden[j]
        if h != _ZERO:
            for k in range(WIDTH):
                gradients.head_in[j, k] += h * a.heads[k]


@compiled
def step(count: int, weights: Weights, a: Adaptation) -> None:
    """One step of Adam with the gradients of `count` pixels, which are set to zero."""
    a.powers[0] *= _DECAYS[0]
    a.powers[1] *= _DECAYS[1]
    a.powers[2] = min(a.powers[2] + _ONE, WARM_UP)
    rate = RATE * (a.powers[2] / WARM_UP)
    scale = _ONE / np.float32(count)
    first_scale, second_scale = _ONE / (_ONE - a.powers[0]), _ONE / (_ONE - a.powers[1])
    for i in range(len(a.weights)):
        g = a.gradients[i] * scale
        a.gradients[i] = _ZERO
        a.first[i] = _DECAYS[0] * a.first[i] + (_ONE - _DECAYS[0]) * g
        a.second[i] = _DECAYS[1] * a.second[i] + (_ONE - _DECAYS[1]) * (g * g)
        a.weights[i] -= rate * (a.first[i] * first_scale) / (np.sqrt(a.second[i] * second_scale) + _EPSILON)
    turn(weights.head_out, a.turned)
