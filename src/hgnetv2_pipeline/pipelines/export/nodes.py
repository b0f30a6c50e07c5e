"""A model as a folder that any machine can run: ONNX, labels, preprocessing, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import Unchanged
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import Loaded, load_model, model_inputs
from hgnetv2_pipeline.project.params import ExportParams
from hgnetv2_pipeline.project.results import Reuse


def export(
    identity: Identity, params: ExportParams, redo: list[str], lists: Path, trained: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """Export ``model`` to ONNX, checked before it lands under its name, and make the kit if asked.

    ``lists``: the images that lower precisions are calibrated on and judged by; an fp32 export
    needs none. ``trained`` is there for the order of the nodes.
    """
    from hgnetv2_pipeline.deployment.export.bundle import bundle_files

    folder, known = identity.folder("export"), Lists(lists)
    reuse = Reuse(identity.project, redo)
    judged = params.precisions != ["fp32"]
    decides = {"precisions", "opset", "softmax", "lab", "tensorrt"}
    result = reuse.produce(
        folder,
        name="export",
        pipeline="export",
        inputs={**model_inputs(identity), **(_images(known, params) if judged else {})},
        params={
            **params.model_dump(
                mode="json", include=decides | ({"gate", "calibration"} if judged else set())
            ),
            "model": identity.model,
        },
        outputs=bundle_files(params.precisions),
        make=lambda aside: _bundle(aside, identity, params, known if judged else None),
    )
    if params.target == "tensorrt-kit":
        reuse.produce(
            folder,
            name="tensorrt-kit",
            pipeline="export",
            inputs={**model_inputs(identity), **_images(known, params)},
            params={
                **params.model_dump(
                    mode="json", exclude={"target", "precisions", "softmax", "lab"}
                ),
                "model": identity.model,
            },
            outputs=["tensorrt-kit"],
            make=lambda aside: _kit(aside / "tensorrt-kit", identity, params, known),
        )
    record = {**read_json(folder / "manifest.json"), "fingerprint": result.fingerprint}
    return folder, folder / "manifest.json", Unchanged() if result.reused else record


def _images(known: Lists, params: ExportParams) -> dict[str, Path | str]:
    return {"val": known.index("val"), "calibration": known.index(params.calibration.split)}


def _bundle(folder: Path, identity: Identity, params: ExportParams, lists: Lists | None) -> None:
    from hgnetv2_pipeline.deployment.export.bundle import write_bundle
    from hgnetv2_pipeline.project.calibration_images import calibration, validation

    loaded = load_model(identity, identity.model, classes=lists.classes if lists else None)
    write_bundle(
        loaded.network.eval(),
        folder,
        image_size=loaded.preprocess.crop,
        class_names=loaded.classes,
        precisions=params.precisions,
        preprocess=loaded.preprocess,
        metadata=_metadata(identity, params, loaded),
        opset=params.opset,
        softmax=params.softmax,
        lab=params.lab,
        validation=validation(identity, lists, params.gate.images, loaded.preprocess)
        if lists
        else None,
        calibration=calibration(identity, lists, params, loaded.preprocess) if lists else None,
        max_drop={str(name): drop for name, drop in params.gate.max_drop.items()},
    )


def _kit(folder: Path, identity: Identity, params: ExportParams, lists: Lists) -> None:
    from hgnetv2_pipeline.deployment.export.kit_folder import KitPlan, write_kit
    from hgnetv2_pipeline.deployment.kit.plans import Profile
    from hgnetv2_pipeline.project.calibration_images import calibration, validation

    loaded = load_model(identity, identity.model, classes=lists.classes)
    write_kit(
        loaded.network.eval(),
        folder,
        KitPlan(
            labs=params.kit.labs,
            precisions=params.kit.precisions,
            profile=Profile(**params.tensorrt.model_dump()),
            batch_sizes=params.kit.batch_sizes,
            images=params.kit.images,
        ),
        model_name=identity.model,
        class_names=loaded.classes,
        preprocess=loaded.preprocess,
        validation=validation(identity, lists, params.gate.images, loaded.preprocess),
        packed=validation(identity, lists, params.kit.images, loaded.preprocess),
        calibration=calibration(identity, lists, params, loaded.preprocess),
        metadata=_metadata(identity, params, loaded),
        opset=params.opset,
        max_drop={str(name): drop for name, drop in params.gate.max_drop.items()},
    )


def _metadata(identity: Identity, params: ExportParams, loaded: Loaded) -> dict[str, str]:
    from hgnetv2_pipeline.deployment.card import task_entries

    sizes = params.tensorrt
    return {
        "variant": str(loaded.info.get("variant") or ""),
        "stage": str(loaded.info.get("stage") or ""),
        "model": identity.model,
        "source_sha256": str(loaded.info.get("sha256") or ""),
        "tensorrt_profile": f"{sizes.least},{sizes.best},{sizes.most}",
        **task_entries(loaded.info),
    }
