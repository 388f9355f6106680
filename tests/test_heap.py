"""What the heap is told holds: in processes of their own, as it is for good."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
if sys.argv[1] == "kept":
    from hmr_skel.heap import keep_freed_memory
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="allowed: glibc's")
def test_pages_are_not_lost_and_faulted_in_again():
    lost, kept = (
        int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, check=True, timeout=120).stdout)
        for how in ("lost", "kept")
    )
    assert kept < lost / 4


THREADS = """
import sys, threading, xml.etree.ElementTree, ctypes, os, tempfile
if sys.argv[1] == "shared":
    from hmr_skel.heap import share_arenas
    share_arenas()
barrier = threading.Barrier(6)
def work():
    barrier.wait()
    kept.append(bytes([1]) * 1000)
    barrier.wait()
kept = []
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(len(xml.etree.ElementTree.parse(file.name).findall("heap")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="allowed: glibc's")
def test_threads_share_two_heaps():
    own, shared = (
        int(subprocess.run([sys.executable, "-c", THREADS, how], capture_output=True, check=True, timeout=120).stdout)
        for how in ("own", "shared")
    )
    assert own > 2 >= shared
