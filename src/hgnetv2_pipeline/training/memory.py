"""What a step on a CPU frees stays with the process; what a GPU lacks is said in plain words."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.variants import size_in_words

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


@contextmanager
def explain_shortage(spec: RunSpec) -> Iterator[None]:
    """A GPU's memory that does not suffice as a ``ParameterError``: another try would end alike."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        config, place = spec.config, spec.place
        size = size_in_words(config.image_size)
        raise ParameterError(
            f"the GPU's memory does not hold {config.batch_size // config.accumulate} images of "
            f"{size} pixels at once: lower {place}.batch_size ({config.batch_size} a "
            f"process), or raise {place}.accumulate ({config.accumulate}), unless others use that "
            f"GPU too; what is saved is kept ({str(error).splitlines()[0]})"
        ) from error
