"""The reversible colour transform of models and of codec.conventional: red and blue relative to green.

Neighbouring channels of a photograph are much alike, and their differences easier to model than themselves. Modulo
256 the transform maps the 256 levels of every channel onto themselves, so nothing else changes.
"""

from typing import Any


def subtract_green(x: Any) -> Any:
    """(R, G, B) -> (R - G + 128, G, B - G + 128) modulo 256. x: uint8 [..., 3, H, W], NumPy or PyTorch."""
    return _add_to_red_and_blue(x, 128 - x[..., 1, :, :])


def add_green(x: Any) -> Any:
    """The inverse of subtract_green()."""
    return _add_to_red_and_blue(x, x[..., 1, :, :] + 128)


def _add_to_red_and_blue(x, difference):
    # uint8 arithmetic is modulo 256 in both libraries.
    out = x.copy() if hasattr(x, "copy") else x.clone()
    out[..., 0, :, :] += difference
    out[..., 2, :, :] += difference
    return out
