"""The decorator for functions that Numba compiles, and the number of threads to run them on."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import numba

from utils import paths


def processors() -> int:
    """The number of processors that this process may use, or that the machine has if the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compiled(function: Callable, **options: Any) -> Any:
    """Compile a function; it runs without the GIL, so that threads can call it at the same time.

    The result is cached next to the source, or in Numba's own folder if that cannot be written. If neither can be
    written, or the disk is full, every process compiles anew. A cache that is damaged, or that was made from other
    sources, is made again. options: further ones of numba.njit().
    """
    try:
        dispatcher: Any = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, error_model="numpy", **options)(function)
    cache = dispatcher._cache  # Numba has no public way to deal with a damaged file
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
    """When the sources changed: Numba looks at a function's own file, but not at those of the functions it calls."""
    found = [path for name in ("codec", "model", "utils") for path in sorted((paths.ROOT / name).rglob("*.py"))]
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in found)
