"""Which 16-bit kinds this machine computes slower than float32, without torch."""

from __future__ import annotations

from hgnetv2_pipeline import processor


def slow_precision(precision: str, device: str = "cpu") -> str:
    """Why ``precision`` takes longer than float32 on a ``device`` of that type, in words.

    Empty where it does not, as on a GPU, or where the system does not say. Without units for bf16 a
    training of B0 went through 14 images a CPU-second instead of float32's 150 (an AMD EPYC with
    AVX2 alone).
    """
    if device != "cpu":
        return ""
    if precision == "bf16" and processor.computes_bf16() is False:
        return "this processor has no bf16 units and takes several times as long as in float32"
    if precision == "fp16":
        return "fp16 is for GPUs; a processor takes longer in it than in float32"
    return ""
