"""Benchmarks for maintainers, run from the checkout: `python -m bench loader --help`.

What users measure is in `hmr_skel/bench`: `hmr-skel bench fit`, `train` and `predict`.
"""
