"""An export as a result: the folder with the model file; beside it what ``export.target`` adds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.deployment.card import LABELS, PREPROCESS, precision_file
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.deployment.calibration_images import calibration, validation
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import LoadedModel, load_model, model_inputs
from hgnetv2_pipeline.project.params import ExportParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.training.choice import chosen_run

if TYPE_CHECKING:
    from hgnetv2_pipeline.deployment.export.on_device import DevicePlan

_log = logging.getLogger(__name__)


def export_result(run: Run, params: ExportParams, lists: Lists) -> ResultSpec:
    """The folder with the model file; fp32 alone depends on no images."""
    from hgnetv2_pipeline.deployment.export.bundle import bundle_files

    decides = {"precisions", "opset", "softmax", "lab", "tensorrt"}
    # Without them a folder that was made before there was a choice stays valid.
    decides |= {name for name in ("embedding", "batch") if getattr(params, name)}
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


def target_result(
    run: Run, params: ExportParams, lists: Lists
) -> tuple[ResultSpec, Callable[[Path], None]] | None:
    """What ``export.target`` adds to the ONNX files, and who writes it; None: nothing.

    Raises ParameterError or EngineUnavailable where it needs what is not installed.
    """
    match params.target:
        case "onnx":
            return None
        case "tensorrt-kit":
            return kit_result(run, params, lists), lambda aside: write_tensorrt_kit(
                aside, run, params, lists
            )
        case "tensorrt-rtx":
            return plans_result(run, params), lambda aside: write_plans(aside, run, params)
        case "triton":
            return triton_result(run, params), lambda aside: write_triton(aside, run, params)
    return device_result(run, params, lists), lambda aside: write_device_export(
        aside, run, params, lists
    )


def kit_result(run: Run, params: ExportParams, lists: Lists) -> ResultSpec:
    """The folder ``tensorrt-kit`` beside the model file."""
    others = {"target", "gpus", "precisions", "batch", "softmax", "embedding", "lab", "card"}
    return ResultSpec(
        folder=run.folder("export"),
        name="tensorrt-kit",
        pipeline="export",
        inputs={**model_inputs(run.identity), **_images(lists, params)},
        params={**params.model_dump(mode="json", exclude=others), "model": run.identity.model},
        outputs=["tensorrt-kit"],
    )


def plans_result(run: Run, params: ExportParams) -> ResultSpec:
    """A plan of TensorRT for RTX, and its note, beside each model file.

    Raises ParameterError where the library is not installed.
    """
    from hgnetv2_pipeline.deployment.engines.with_tensorrt import plan_beside
    from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX, PlanError

    folder = run.folder("export")
    models = [folder / precision_file(name) for name in params.precisions]
    plans = [plan_beside(model, TENSORRT_RTX) for model in models]
    try:
        version = TENSORRT_RTX.load().__version__
    except PlanError as error:
        raise ParameterError(f"export.target=tensorrt-rtx: {error}") from error
    return ResultSpec(
        folder=folder,
        name="tensorrt-rtx",
        pipeline="export",
        inputs={model.name: model for model in models},
        params={
            **params.model_dump(mode="json", include={"gpus", "tensorrt"}),
            "version": version,
            "model": run.identity.model,
        },
        outputs=[path.name for plan in plans for path in (plan, plan.with_suffix(".json"))],
    )


def device_result(run: Run, params: ExportParams, lists: Lists) -> ResultSpec:
    """The files of a device engine, each with its note, beside the model file.

    Raises EngineUnavailable where what converts or runs them is not installed.
    """
    from hgnetv2_pipeline.deployment.export.on_device import need_converters

    plan = _device_plan(params)
    need_converters(plan.engine)
    decides = {"precisions", "batch", "gate", "calibration"}
    return ResultSpec(
        folder=run.folder("export"),
        name=plan.engine,
        pipeline="export",
        inputs={"model.onnx": run.folder("export") / "model.onnx", **_images(lists, params)},
        params={**params.model_dump(mode="json", include=decides), "model": run.identity.model},
        outputs=plan.outputs,
    )


def write_device_export(folder: Path, run: Run, params: ExportParams, lists: Lists) -> None:
    """Write the files of a device engine, each held to its gate."""
    from hgnetv2_pipeline.deployment.export.on_device import write_device_files

    identity = run.identity
    # As model.onnx was loaded, so that it is the same network.
    classes = lists.classes if _is_judged(params) else None
    loaded = load_model(identity, identity.model, classes=classes)
    write_device_files(
        _device_plan(params),
        run.folder("export") / precision_file("fp32"),
        folder,
        loaded.network.eval(),
        validation=validation(identity, lists, params.gate.images, loaded.preprocess),
        calibration=calibration(identity, lists, params, loaded.preprocess),
    )


def _device_plan(params: ExportParams) -> DevicePlan:
    from hgnetv2_pipeline.deployment.export.on_device import DevicePlan

    return DevicePlan(
        engine=params.target,  # type: ignore[arg-type]
        precisions=["fp32", *(name for name in params.precisions if name != "fp32")],
        batch=params.batch or 1,
        max_drop={str(name): drop for name, drop in params.gate.max_drop.items()},
    )


def write_plans(folder: Path, run: Run, params: ExportParams) -> None:
    """Build the plans; one that cannot be built is an ExportError, and none is kept."""
    from hgnetv2_pipeline.deployment.engines.with_tensorrt import plan_beside
    from hgnetv2_pipeline.deployment.export.gate import ExportError
    from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX, PlanError
    from hgnetv2_pipeline.deployment.kit.plans import (
        AMPERE_ON,
        BatchProfile,
        PlanSpec,
        capabilities_of,
        save_plan,
    )

    profile = BatchProfile(**params.tensorrt.model_dump())
    for precision in params.precisions:
        model = run.folder("export") / precision_file(precision)
        known = capabilities_of(precision, embedding=params.embedding)
        gpus = "+".join(name for name in known if name in params.gpus or "all" in params.gpus)
        plan = folder / plan_beside(model, TENSORRT_RTX).name
        try:
            note = save_plan(
                model, plan, PlanSpec(TENSORRT_RTX, precision, profile, gpus or AMPERE_ON)
            )
        except PlanError as error:
            raise ExportError(f"{model}: {error}") from error
        _log.info(
            "wrote %s for %s: %.1f MB, %d warnings of %s %s",
            plan.name, note["gpu"], note["bytes"] / 1e6, len(note["warnings"]), TENSORRT_RTX.title,
            note["version"],
        )  # fmt: skip


def triton_result(run: Run, params: ExportParams) -> ResultSpec:
    """The folder ``triton`` beside the model file: a model repository."""
    from hgnetv2_pipeline.deployment.triton.repository import ON_ORT, PLANS

    folder = run.folder("export")
    wanted = [name for name in ON_ORT if name in {"fp32", *params.precisions}]
    files = [*(precision_file(name) for name in wanted), LABELS, PREPROCESS]
    files += [name for name in PLANS if (folder / name).is_file()]
    return ResultSpec(
        folder=folder,
        name="triton",
        pipeline="export",
        inputs={name: folder / name for name in files},
        params={"max_batch": params.tensorrt.most, "model": run.identity.model},
        outputs=["triton"],
    )


def write_triton(folder: Path, run: Run, params: ExportParams) -> None:
    """Write ``triton`` from the export of ``run``."""
    from hgnetv2_pipeline.deployment.triton.repository import write_repository

    names = write_repository(
        run.folder("export"),
        folder / "triton",
        precisions=params.precisions,
        max_batch=params.tensorrt.most,
    )
    _log.info("wrote the model repository triton: %s", ", ".join(names))


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
        batch=params.batch,
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
