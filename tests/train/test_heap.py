"""Freed memory stays with the process: in a process of its own, as it is for good."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
if sys.argv[1] == "kept":
    from hmr_skel.train.heap import keep_freed_memory
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    bytes([1]) * 2**25  # until the heap is large enough
before = faults()
for _ in range(20):
    bytes([1]) * 2**25
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_pages_are_not_lost_and_faulted_in_again():
    lost, kept = (
        int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, check=True, timeout=120).stdout)
        for how in ("lost", "kept")
    )
    assert kept < lost / 4
