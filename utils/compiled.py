"""The decorator for what Numba compiles."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numba

from utils import paths


def compiled(function: Callable) -> Any:
    """Compile a function; without the GIL, for callers that have threads.

    Compiled once, kept on disk beside the source or, where that cannot be written, in Numba's own folder. Where neither
    can be, or the disk is full, every process compiles anew. A cache that is damaged is made again, and one that was
    made of other sources.
    """
    try:
        dispatcher: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, error_model="numpy")(function)
    cache = dispatcher._cache  # Numba has no public way to see to a damaged file
    cache._cache_file._source_stamp = _sources()
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


@functools.cache
def _sources() -> tuple:
    """When the sources changed: Numba looks at a function's own file, and not at those of the functions it calls."""
    found = [path for name in ("codec", "model", "utils") for path in sorted((paths.ROOT / name).rglob("*.py"))]
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in found)
