"""The repository: a folder per model with its configuration, versions and labels."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hgnetv2_pipeline.deployment.card import LABELS, PREPROCESS, ModelCard, precision_file
from hgnetv2_pipeline.deployment.export.single_file import single_file
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import ParameterError

PLANS = ("model.plan", "model.engine")
"""A plan of TensorRT in an export folder: that of the fp32 file, built on the GPU that runs it."""
ON_ORT = ("fp32", "fp16")
"""What Triton's ONNX Runtime computes as it was measured: of an int8 file it would round the biases
(``onnx_session.WHOLE_BIASES``), and it has no bf16."""
_PREPROCESSING = "hgnetv2_pipeline.deployment.triton.preprocessing"
_DELAY = 2000  # microseconds that a request waits for others


def write_repository(
    export: Path, folder: Path, *, precisions: Sequence[str], max_batch: int
) -> list[str]:
    """Write the models of an export folder as version 1 into ``folder``; their names.

    NAME, the variant, is the fp32 network; NAME_fp16 and NAME_tensorrt (a plan, where ``export``
    has one) are others. NAME_preprocess makes their input of image files, and each network has an
    ensemble NETWORK_images of both. ``max_batch``: images that are computed together at most.
    Raises ParameterError for a file of one batch size.
    """
    card, outputs = _read(export / precision_file("fp32"))
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", card.variant or "model")
    height, width = card.preprocess.size
    pixels, encoded = (_tensor("images", "FP32", 3, height, width), _tensor("image", "STRING", 1))
    answers = [_tensor(*entry, labels=entry[0] == "logits") for entry in outputs]

    networks = {}
    for precision in ON_ORT:
        if precision in {"fp32", *precisions}:
            network = name if precision == "fp32" else f"{name}_{precision}"
            networks[network] = ("onnxruntime", export / precision_file(precision))
    for plan in (export / plan for plan in PLANS):
        if plan.is_file():
            networks.setdefault(f"{name}_tensorrt", ("tensorrt", plan))
    for network, (backend, file) in networks.items():
        how = f'backend: "{backend}"\n{_batching()}instance_group [ {{ kind: KIND_AUTO }} ]\n'
        place = _model(folder, network, max_batch, [pixels], answers, how)
        shutil.copyfile(file, place / "1" / f"model.{'onnx' if backend != 'tensorrt' else 'plan'}")
        shutil.copyfile(export / LABELS, place / LABELS)

    before = f"{name}_preprocess"
    how = 'backend: "python"\ninstance_group [ { kind: KIND_CPU count: 2 } ]\n'
    place = _model(folder, before, max_batch, [encoded], [pixels], how)
    shutil.copyfile(export / PREPROCESS, place / "1" / PREPROCESS)
    write_text(place / "1" / "model.py", single_file(_PREPROCESSING))
    for network in networks:
        steps = [
            _step(before, {"image": "image"}, {"images": "images"}),
            _step(network, {"images": "images"}, {each: each for each, _, _ in outputs}),
        ]
        chain = ",\n".join(steps)
        how = f'platform: "ensemble"\nensemble_scheduling {{ step [\n{chain}\n] }}\n'
        place = _model(folder, f"{network}_images", max_batch, [encoded], answers, how)
        shutil.copyfile(export / LABELS, place / LABELS)
        # Triton wants the folder of a version, and stores of files keep none that is empty.
        write_text(place / "1" / "README.txt", "The steps are in config.pbtxt.\n")
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _read(onnx: Path) -> tuple[ModelCard, list[tuple[str, str, int]]]:
    """The card of a model file, and name, type and width of its outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    if isinstance(size := session.get_inputs()[0].shape[0], int):
        raise ParameterError(
            f"{onnx} takes batches of {size} alone, and Triton puts together batches of any size: "
            "export it with a free one (export.batch)"
        )
    outputs = [(each.name, "FP32", each.shape[1]) for each in session.get_outputs()]
    return ModelCard.from_props(session.get_modelmeta().custom_metadata_map, onnx), outputs


def _tensor(name: str, kind: str, *dims: int, labels: bool = False) -> str:
    shape = ", ".join(map(str, dims))
    more = f' label_filename: "{LABELS}"' if labels else ""
    return f'  {{ name: "{name}" data_type: TYPE_{kind} dims: [ {shape} ]{more} }}'


def _batching() -> str:
    return f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY} }}\n"


def _step(model: str, given: Mapping[str, str], gives: Mapping[str, str]) -> str:
    maps = [
        f'{kind}_map {{ key: "{key}" value: "{value}" }}'
        for kind, pairs in (("input", given), ("output", gives))
        for key, value in pairs.items()
    ]
    return f'  {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def _model(
    folder: Path, name: str, max_batch: int, inputs: Sequence[str], outputs: Sequence[str], how: str
) -> Path:
    """The folder of a model with its configuration and an empty version 1."""
    place = folder / name
    (place / "1").mkdir(parents=True)
    tensors = "".join(
        f"{kind} [\n" + ",\n".join(entries) + "\n]\n"
        for kind, entries in (("input", inputs), ("output", outputs))
    )
    # Of the newest two a client may name the older one while the new one is tried.
    policy = "version_policy: { latest { num_versions: 2 } }\n"
    text = f'name: "{name}"\nmax_batch_size: {max_batch}\n{tensors}{policy}{how}'
    write_text(place / "config.pbtxt", text)
    return place
