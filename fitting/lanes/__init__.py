"""The solver, compiled by numba: 64 rows side by side, each a lane of the vector registers."""
