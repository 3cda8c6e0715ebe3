"""The decorator for what Numba compiles."""

import contextlib
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable) -> Any:
    """Compile a function; without the GIL, for callers that have threads.

    Compiled once, kept on disk beside the source or, where that cannot be written, in Numba's own folder. Where neither
    can be, or the disk is full, every process compiles anew. A cache that is damaged is made again.
    """
    try:
        dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, error_model="numpy")(function)
    cache = dispatcher._cache  # Numba has no public way to see to a damaged file
    load, save = cache.load_overload, cache.save_overload

    def load_or_forget(*args):
        try:
            return load(*args)
        except Exception:  # unpickling damaged data may raise any
            with contextlib.suppress(Exception):
                cache.flush()
            return None

    def save_if_possible(*args):
        with contextlib.suppress(Exception):
            save(*args)

    cache.load_overload, cache.save_overload = load_or_forget, save_if_possible
    return dispatcher
