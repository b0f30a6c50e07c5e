"""An export as a result: the folder with the model file, and the TensorRT kit beside it."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.deployment.calibration_images import calibration, validation
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import LoadedModel, load_model, model_inputs
from hgnetv2_pipeline.project.params import ExportParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.training.choice import chosen_run


def export_result(run: Run, params: ExportParams, lists: Lists) -> ResultSpec:
    """The folder with the model file; fp32 alone depends on no images."""
    from hgnetv2_pipeline.deployment.export.bundle import bundle_files

    decides = {"precisions", "opset", "softmax", "lab", "tensorrt"}
    if params.embedding:  # without it a folder that was made before there was a choice stays valid
        decides.add("embedding")
    images: dict[str, Path] = {}
    if _is_judged(params):
        images, decides = _images(lists, params), decides | {"gate", "calibration"}
    return ResultSpec(
        folder=run.folder("export"),
        name="export",
        pipeline="export",
        inputs={**model_inputs(run.identity), **images},
        params={**params.model_dump(mode="json", include=decides), "model": run.identity.model},
        outputs=bundle_files(params.precisions),
    )


def kit_result(run: Run, params: ExportParams, lists: Lists) -> ResultSpec:
    """The folder ``tensorrt-kit`` beside the model file."""
    others = {"target", "precisions", "softmax", "embedding", "lab"}
    return ResultSpec(
        folder=run.folder("export"),
        name="tensorrt-kit",
        pipeline="export",
        inputs={**model_inputs(run.identity), **_images(lists, params)},
        params={**params.model_dump(mode="json", exclude=others), "model": run.identity.model},
        outputs=["tensorrt-kit"],
    )


def _is_judged(params: ExportParams) -> bool:
    """Whether a precision is exported that is calibrated on images and judged by some."""
    return params.precisions != ["fp32"]


def _images(lists: Lists, params: ExportParams) -> dict[str, Path]:
    return {"val": lists.index("val"), "calibration": lists.index(params.calibration.split)}


def write_export(folder: Path, run: Run, params: ExportParams, lists: Lists) -> None:
    """Export the model of ``run`` in all precisions asked for, each held to its gate."""
    from hgnetv2_pipeline.deployment.export.bundle import write_bundle

    identity, known = run.identity, lists if _is_judged(params) else None
    loaded = load_model(identity, identity.model, classes=known.classes if known else None)
    write_bundle(
        loaded.network.eval(),
        folder,
        image_size=loaded.preprocess.crop,
        class_names=loaded.classes,
        precisions=params.precisions,
        preprocess=loaded.preprocess,
        metadata=_metadata(run, params, loaded),
        opset=params.opset,
        softmax=params.softmax,
        embedding=params.embedding,
        lab=params.lab,
        validation=validation(identity, known, params.gate.images, loaded.preprocess)
        if known
        else None,
        calibration=calibration(identity, known, params, loaded.preprocess) if known else None,
        max_drop={str(name): drop for name, drop in params.gate.max_drop.items()},
    )


def write_tensorrt_kit(folder: Path, run: Run, params: ExportParams, lists: Lists) -> None:
    """Write ``tensorrt-kit``: graphs, images and code to build and time plans without PyTorch."""
    from hgnetv2_pipeline.deployment.export.kit_folder import KitPlan, write_kit
    from hgnetv2_pipeline.deployment.kit.plans import BatchProfile

    identity = run.identity
    loaded = load_model(identity, identity.model, classes=lists.classes)
    write_kit(
        loaded.network.eval(),
        folder / "tensorrt-kit",
        KitPlan(
            labs=params.kit.labs,
            precisions=params.kit.precisions,
            profile=BatchProfile(**params.tensorrt.model_dump()),
            batch_sizes=params.kit.batch_sizes,
            images=params.kit.images,
        ),
        model_name=identity.model,
        class_names=loaded.classes,
        preprocess=loaded.preprocess,
        validation=validation(identity, lists, params.gate.images, loaded.preprocess),
        packed=validation(identity, lists, params.kit.images, loaded.preprocess),
        calibration=calibration(identity, lists, params, loaded.preprocess),
        metadata=_metadata(run, params, loaded),
        opset=params.opset,
        max_drop={str(name): drop for name, drop in params.gate.max_drop.items()},
    )


def _metadata(run: Run, params: ExportParams, loaded: LoadedModel) -> dict[str, str]:
    from hgnetv2_pipeline.deployment.card import task_entries

    sizes, model = params.tensorrt, run.identity.model
    chosen = chosen_run(run.identity.run_folder(model))
    return {
        "variant": str(loaded.info.get("variant") or ""),
        "stage": str(loaded.info.get("stage") or ""),
        "model": model,
        # The best model is a copy of another, which its card names.
        **({"chosen_run": chosen} if chosen else {}),
        "source_sha256": str(loaded.info.get("sha256") or ""),
        "tensorrt_profile": f"{sizes.least},{sizes.best},{sizes.most}",
        **task_entries(loaded.info),
    }
