"""The C library's heap, told to keep what a training step will want again."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 2**31 - 1
_AT_A_TIME_BYTES = 2**27


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the rest of the process, whatever the size of a piece; nothing without glibc.

    By itself it gives tensors above 32 MB back to the system as soon as they are freed, and a step on a CPU spends a
    tenth of its time on the faults of pages that it has just lost (LOG.md). The process stays as large as its largest
    step.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_TOP_PAD, _AT_A_TIME_BYTES)
    # Before 2.34 glibc takes no more than 32 MB here, and leaves it as it was.
    if not mallopt(_MMAP_THRESHOLD, _KEPT_BYTES):
        mallopt(_MMAP_THRESHOLD, 2**25)
