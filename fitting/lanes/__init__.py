"""The fit on a CPU, compiled: the same mathematics as `fitting.reduced`, `fitting.solver` and `fitting.surface`, with
64 rows side by side. Needs numba; where that is not installed, the plain version is used."""
