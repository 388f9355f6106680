"""What all compiled kernels share: how many rows go side by side, and how numba is told to compile.

Every array ends with an axis of `LANES` rows, and every innermost loop runs over it. Such a loop becomes vector
instructions in which each row is a lane of its own: no row sees another, and a row comes out the same to the bit
whichever lane it is in. 64 lanes are eight AVX-512 vectors of float64: long enough to hide what a loop costs to enter,
short enough that a chunk's working set stays in a core's caches.
"""

import inspect
from collections.abc import Callable

import numba

# Compiled code is kept by the date of its own file alone: after a change of this number delete the __pycache__ here.
# For the same reason kernels call no kernel of another file and use no other constant from elsewhere.
LANES = 64


def kernel(function: Callable) -> Callable:
    """Compiled on first use, and kept beside the source for the next time.

    Fused multiply-add is the only liberty taken; sums keep their order. Without the GIL, threads run side by side.
    """
    # The tests' shape checker wraps functions; numba must see the function itself.
    return numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")(inspect.unwrap(function))
