"""The solver on a GPU: the kernels of `fitting.lanes`, with a thread for each lane."""
