"""What all compiled kernels share: how many rows go side by side, and how numba is told to compile.

Every array ends with an axis of `LANES` rows, and every innermost loop runs over it. Such a loop becomes vector
instructions in which each row is a lane of its own: no row sees another, and a row comes out the same to the bit
whichever lane it is in. 64 lanes are eight AVX-512 vectors of float64: long enough to hide what a loop costs to enter,
short enough that a chunk's working set stays in a core's caches.
"""

import inspect
from collections.abc import Callable

import numba

LANES = 64


def kernel(function: Callable) -> Callable:
    """Compiled on first use; `fitting.lanes.cache` has it kept for the next time.

    Fused multiply-add is the only liberty taken; sums keep their order. Without the GIL, threads run side by side.
    """
    # The tests' shape checker wraps functions; numba must see the function itself.
    return numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy", no_cfunc_wrapper=True)(
        inspect.unwrap(function)
    )


def part_of_kernels(function: Callable) -> Callable:
    """A piece of kernels that is compiled within each: on its own it would be compiled once more."""
    return numba.njit(inline="always")(inspect.unwrap(function))
