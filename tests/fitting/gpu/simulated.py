"""`python simulated.py FILE`, with NUMBA_ENABLE_CUDASIM=1: launches from a file in numba's simulator of a GPU.

The file has (function, grid, arguments); what they made of the arguments replaces it. Of each block a few threads run.
"""

import pickle
import sys
from pathlib import Path

from fitting.gpu.kernels import on_threads

THREADS = 3

if __name__ == "__main__":
    file = Path(sys.argv[1])
    calls = pickle.loads(file.read_bytes())
    for function, grid, arguments in calls:
        getattr(on_threads(), function)[grid, THREADS](*arguments)
    file.write_bytes(pickle.dumps(calls))
