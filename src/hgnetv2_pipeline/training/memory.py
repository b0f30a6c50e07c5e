"""What a step on a CPU frees stays with the process."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> bool:
    """Let the C library keep freed memory for the next step; whether it is glibc and does.

    By default glibc returns blocks of some megabytes, which activations are, to the kernel at once,
    and the next step waits for the same pages to be cleared: measured in docs/results/training.md.
    For the whole process from here on; processes that it forks inherit it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
