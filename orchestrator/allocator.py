"""What the C library does with memory that torch gives back."""

import ctypes

KEPT = 2**31 - 1  # bytes of unused memory that a process may hold on to; the most there is
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


def keep_memory() -> bool:
    """Keep freed memory for the next batch, for the life of the process.

    By default glibc returns a large buffer to the kernel as soon as it is free and asks for
    it anew, so that on a CPU every batch of activations is faulted in page by page. Numbers
    do not change. Returns whether the C library could be told; others than glibc cannot.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, KEPT))
