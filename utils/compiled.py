"""The decorator for functions that Numba compiles, and the number of threads to run them on."""

import contextlib
import functools
import os
import re
from collections.abc import Callable
from typing import Any

if not re.match("0*[1-9]", os.environ.get("NUMBA_NUM_THREADS", "1")):
    del os.environ["NUMBA_NUM_THREADS"]  # Numba would refuse to be imported. It starts no threads here
os.environ["NUMBA_DISABLE_INTEL_SVML"] = "1"  # its square roots are not rounded as IEEE 754 says

try:
    import numba
except ModuleNotFoundError:  # there is none for some processors
    numba = None  # type: ignore[assignment]
if numba is not None and getattr(numba.config, "USING_SVML", False):
    raise ImportError("Numba was imported with Intel's SVML, which rounds wrongly; set NUMBA_DISABLE_INTEL_SVML=1")

from utils import paths


def processors() -> int:
    """The number of processors that this process may use, or that the machine has if the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compiled(function: Callable, plain: Callable | None = None, **options: Any) -> Any:
    """Compile a function; it runs without the GIL, so that threads can call it at the same time.

    The result is cached next to the source, or in Numba's own folder if that cannot be written. If neither can be
    written, or the disk is full, every process compiles anew. A cache that is damaged, or that was made from other
    sources, is made again. options: further ones of numba.njit().

    Without Numba, or with NUMBA_DISABLE_JIT, the function itself is returned, or `plain`, a quicker one that does the
    same with NumPy.
    """
    if numba is None:
        return plain or function
    # Inlined, because a call passes each array as seven numbers or more, which takes longer than a short function.
    options = {"nogil": True, "error_model": "numpy", "forceinline": True, **options}
    try:
        dispatcher: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(**options)(function)
    if not hasattr(dispatcher, "_cache"):  # NUMBA_DISABLE_JIT
        return plain or function
    cache = dispatcher._cache  # Numba has no public way to deal with a damaged file
    cache._cache_file._source_stamp = _sources()

    def unless_it_fails(method):
        def call(*args):
            try:
                return method(*args)
            except Exception:  # unpickling damaged data may raise any
                with contextlib.suppress(Exception):
                    cache.flush()
                return None

        return call

    cache.load_overload, cache.save_overload = map(unless_it_fails, (cache.load_overload, cache.save_overload))
    return dispatcher


@functools.cache
def _sources() -> tuple:
    """When the sources changed: Numba looks at a function's own file, but not at those of the functions it calls."""
    found = [path for name in ("codec", "model", "utils") for path in sorted((paths.ROOT / name).rglob("*.py"))]
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in found)
