"""What all compiled kernels share: how many rows go side by side, and how numba is told to compile.

Every array ends with an axis of `LANES` rows, and every innermost loop runs over it. Such a loop becomes vector
instructions in which each row is a lane of its own: no row sees another, and a row comes out the same to the bit
whichever lane it is in. 64 lanes are eight AVX-512 vectors of float64: long enough to hide what a loop costs to enter,
short enough that a chunk's working set stays in a core's caches.
"""

import inspect
from collections.abc import Callable

import numba
import numpy as np

LANES = 64


def kernel(function: Callable) -> Callable:
    """Compiled on first use, and kept beside the source for the next time.

    Fused multiply-add is the only liberty taken; sums keep their order. Without the GIL, threads run side by side.
    """
    # The tests' shape checker wraps functions; numba must see the function itself.
    return numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")(inspect.unwrap(function))


@kernel
def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a b, of [3 3 L]."""
    for i in range(3):
        for j in range(3):
            for lane in range(LANES):
                out[i, j, lane] = (
                    a[i, 0, lane] * b[0, j, lane] + a[i, 1, lane] * b[1, j, lane] + a[i, 2, lane] * b[2, j, lane]
                )


@kernel
def product_transposed(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a b^T, of [3 3 L]."""
    for i in range(3):
        for j in range(3):
            for lane in range(LANES):
                out[i, j, lane] = (
                    a[i, 0, lane] * b[j, 0, lane] + a[i, 1, lane] * b[j, 1, lane] + a[i, 2, lane] * b[j, 2, lane]
                )


@kernel
def turned(a: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """out = a x, of [3 3 L] and [3 L]."""
    for i in range(3):
        for lane in range(LANES):
            out[i, lane] = a[i, 0, lane] * x[0, lane] + a[i, 1, lane] * x[1, lane] + a[i, 2, lane] * x[2, lane]
