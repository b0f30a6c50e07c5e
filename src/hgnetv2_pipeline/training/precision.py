"""Which 16-bit kinds this machine computes slower than float32, without torch."""

from __future__ import annotations

from hgnetv2_pipeline import processor

# What computes a kind in hardware; a processor without computes it all the same, in float32 and
# many conversions.
_UNITS = {"bf16": {"avx512_bf16", "amx_bf16"}, "fp16": {"avx512_fp16", "amx_fp16"}}


def slow_precision(precision: str, device: str = "cpu") -> str:
    """Why ``precision`` takes longer than float32 on a ``device`` of that type, in words.

    Empty where it does not, as on a GPU. Without units for bf16 a training of B0 went through 14
    images a CPU-second instead of float32's 150 (an AMD EPYC with AVX2 alone).
    """
    units = _UNITS.get(precision)
    if device != "cpu" or units is None or units & processor.features():
        return ""
    return (
        f"this processor has no units for {precision} and takes several times as long as in float32"
    )
