"""What PaddleClas and timm published for PP-HGNetV2, and our figures beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Table, table_of

STAGES = ("ssld_stage1", "ssld_stage2")
TIMM_TOLERANCE = 0.1  # points, against timm's evaluation of the same weights
TIMM_RESIZE = 232  # the short side at which timm measured them; PaddleClas's recipes say 236


@dataclass(frozen=True)
class PublishedModel:
    """One variant's published figures; accuracies in per cent, latency in ms on a V100."""

    variant: str
    top1: float | None
    top5: float | None
    latency_v100_ms: float | None
    timm_stage1: float | None
    timm_stage2: float | None


def published_models() -> list[PublishedModel]:
    """B0-B6 from ``weights.zoo.ZOO``, in order of size."""
    from hgnetv2_pipeline.weights.zoo import ZOO

    found = []
    for name in sorted(ZOO):
        variant, _, stage = name.partition(".")
        if stage != "ssld_stage2":
            continue
        entry, first = ZOO[name], ZOO.get(f"{variant}.ssld_stage1")
        if entry.top1 is None:
            continue
        found.append(
            PublishedModel(
                variant=variant,
                top1=entry.top1,
                top5=entry.top5,
                latency_v100_ms=entry.latency_v100_ms,
                timm_stage1=first.timm_top1 if first else None,
                timm_stage2=entry.timm_top1,
            )
        )
    return found


def variant_and_stage(model: str) -> tuple[str, str]:
    """'ssld_stage1/b0/seed=0' -> ('b0', 'ssld_stage1'); 'b4.ssld_stage2' -> ('b4', 'ssld_stage2');
    anything else, a timm name for one, -> ('', '')."""
    if "/" in model:
        parts = model.split("/")
        return (parts[1], parts[0]) if len(parts) >= 2 else ("", "")
    variant, _, stage = model.partition(".")
    stage = stage.removesuffix("_inference")
    return (variant, stage) if stage in STAGES else ("", "")


def published_table(models: Sequence[PublishedModel]) -> Table:
    """The seed page's table with timm's figures beside."""
    records = [
        {
            "model": f"PP-HGNetV2-{model.variant.upper()}",
            "top-1 %": _two(model.top1),
            "top-5 %": _two(model.top5),
            "top-1 %, timm, stage 1": _two(model.timm_stage1),
            "top-1 %, timm, stage 2": _two(model.timm_stage2),
            "V100 ms": _two(model.latency_v100_ms),
        }
        for model in models
    ]
    return table_of(
        records,
        list(records[0]),
        caption="PUBLISHED, not measured here: ImageNet-1k validation; stage-2 accuracy and "
        "latency by PaddleClas (V100, TensorRT 8.5, FP32, batch 1), the rest by timm",
        left=("model",),
    )


def beside_table(
    results: Sequence[Mapping[str, Any]], models: Sequence[PublishedModel], *, comparable: bool
) -> Table | None:
    """Measured top-1 beside the published ones of the same variant; None without such a model.

    Differences are shown only where ``comparable``: on other images they would mean nothing.
    """
    known = {model.variant: model for model in models}
    records = []
    for result in results:
        name = str(result.get("model"))
        variant, stage = variant_and_stage(name)
        if variant not in known:
            continue
        resize = dict(result.get("preprocess") or {}).get("resize_short")
        model = known[variant]
        used = int(result["n_used"])
        here = 100 * int(result["top1_count"]) / used
        claimed = model.top1 if stage == "ssld_stage2" else None
        timm = {"ssld_stage1": model.timm_stage1, "ssld_stage2": model.timm_stage2}.get(stage)
        if claimed is None and timm is None:
            continue
        record = {
            "model": name,
            "engine, precision": f"{result.get('engine')}, {result.get('precision')}",
            "measured on": f"{result.get('split')}, {formats.count(used)} images",
            "resize": str(resize) if resize else formats.NOTHING,
            "measured top-1 %": formats.percent(here / 100, used),
            "published top-1 %": _two(claimed),
            "timm's top-1 %": _two(timm),
        }
        if comparable:
            record["to published"] = _gap(here, claimed)
            record["to timm's"] = _gap(here, timm)
            exact = result.get("exact") is not False
            record[f"within {TIMM_TOLERANCE} of timm's"] = _within(here, timm, resize, exact)
        records.append(record)
    if not records:
        return None
    caption = (
        "Measured here beside published, both on ImageNet-1k validation"
        if comparable
        else "Measured here, and what was published for the same network on ImageNet-1k"
    )
    return table_of(
        records,
        list(records[0]),
        caption=caption,
        left=("model", "engine, precision", "measured on"),
    )


def _two(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.2f}"


def _within(here: float, timm: float | None, resize: object, exact: bool) -> str:
    """Whether a figure repeats timm's; at another size it is another quantity."""
    if timm is None:
        return formats.NOTHING
    if not exact:
        return "not comparable: evaluation.fast"
    if resize != TIMM_RESIZE:
        return f"not comparable: timm measures at resize {TIMM_RESIZE}"
    return formats.words(abs(here - timm) <= TIMM_TOLERANCE)


def _gap(here: float, there: float | None) -> str:
    return formats.NOTHING if there is None else formats.points((here - there) / 100, 10_000)
