"""A GPU's memory that does not suffice for a training is said in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.variants import size_in_words


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
