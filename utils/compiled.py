"""The decorator for what Numba compiles."""

import numba

# Compiled once, kept on disk beside the source; without the GIL, for callers that have threads.
compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
